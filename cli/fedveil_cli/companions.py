"""Where the status list beside a model file stands: needed also by those who do not read it."""

import pathlib

COMPANION = ".status.json"
"""What the list beside a model file is called: the model's name and this."""


def companion(model: pathlib.Path) -> pathlib.Path:
    """Where the list beside a model file stands."""
    return model.parent / (model.name + COMPANION)  # `.` and `/` have no name, and are refused by who writes there
