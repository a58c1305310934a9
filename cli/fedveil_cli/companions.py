"""Where the status list beside a model file stands: needed also by those who do not read it."""

import pathlib
import stat

from fedveil_common.errors import ConfigError

from fedveil_cli.files import check_not_read

COMPANION = ".status.json"
"""What the list beside a model file is called: the model's name and this."""


def companion(model: pathlib.Path) -> pathlib.Path:
    """Where the list beside a model file stands."""
    return model.parent / (model.name + COMPANION)  # `.` and `/` have no name, and are refused by who writes there


def check_places(out: pathlib.Path, model: pathlib.Path, *read: pathlib.Path | None) -> None:
    """Returns if neither `out` nor the list beside it is written over what else the command reads: the list beside
    `model`, or one of `read` (keys, tokens), nor the list over `model`; and if a list can stand there. Before anything
    is written.

    ConfigError `same_file`, `output_refused`.
    """
    check_not_read(out, companion(model), *read)
    beside = companion(out)
    check_not_read(beside, model, *read)
    try:
        found = beside.stat()
    except OSError:
        return  # nothing is there; whoever writes there says why that is not possible
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(
            "output_refused",
            f"{beside}, where the status list goes, cannot be written: it is no regular file",
            not_done="nothing was written",
            next_step="move it away, or name another --out",
        )
