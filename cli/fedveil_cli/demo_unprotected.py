"""What the demo compares with: the same processes without protection. It cannot be reached from any other command.

Only a process that the demo forked for its unprotected runs calls `remove_masks`. Everything else stays as it is: keys,
shares, votes, signatures, checks, TLS. The one function that adds the stream of a mask to a vector adds nothing, in the
participants and in the coordinator alike, so the round ends with the right sum, and what a participant uploads is its
quantised update as it is.
"""

from fedveil_common.masking import masks
from numpy import uint32
from numpy.typing import NDArray

ORDER = "without masks"
"""What the demo adds to the command of such a process; no environment variable, so nobody can set it from outside."""


def remove_masks() -> None:
    """From now on this process masks nothing and unmasks nothing."""
    assert "add_stream" in vars(masks)  # renamed there, it would have to be renamed here
    vars(masks)["add_stream"] = _add_nothing


def _add_nothing(acc: NDArray[uint32], key: bytes, start_word: int = 0, *, subtract: bool = False) -> None:
    """In place of `crypto.prg.add_stream`."""
