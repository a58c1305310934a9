"""What the demo compares with: the same processes without protection. It cannot be reached from any other command.

Only a process that the demo forked for its unprotected runs calls `remove_masks`. Everything else stays as it is: keys,
shares, votes, signatures, checks, TLS. The one function that makes the streams of masks makes none, in the participants
and in the coordinator alike, so the round ends with the right sum, and what a participant uploads is its quantised
update as it is.
"""

from collections.abc import Iterable

from fedveil_common.crypto.prg import Streams
from fedveil_common.masking import masks

ORDER = "without masks"
"""What the demo adds to the command of such a process; no environment variable, so nobody can set it from outside."""


def remove_masks() -> None:
    """From now on this process masks nothing and unmasks nothing."""
    assert "streams" in vars(masks)  # renamed there, it would have to be renamed here
    vars(masks)["streams"] = _no_streams


def _no_streams(keys: Iterable[masks.MaskKey], start_word: int, bits: int) -> Streams:
    """In place of `masks.streams`."""
    return Streams((), start_word, 4 if bits <= 32 else 8)
