"""The outbox of a command that has none: an operator's, which has no updates that could leave, and a doctor's look at a
home whose journal does not open.
"""

from fedveil_common.gate import UNLABELLED, Label


class Unrecorded:
    """Writes nothing down. Never the outbox of a participant that takes part in anything."""

    def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
        """Nothing."""
        return 0

    def amend(self, number: int, size_bytes: int) -> None:
        """Nothing."""
