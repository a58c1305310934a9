"""What the demo compares with: the same processes without protection. It cannot be reached from any other command.

Only a process that the demo forked for its unprotected runs calls `remove_protection`. Everything else stays as it is:
keys, shares, proofs, votes, signatures, checks, TLS. The one function that makes the streams of masks makes none, in
the participants and in the coordinator alike, so the round ends with the right sum, and what a participant uploads is
its quantised update as it is. The one function that draws the randomness of ciphertexts draws FEW_BITS bits of it: few
enough for anybody to try them all, and enough to keep the ciphertexts of a round apart, which both sides check.
"""

from collections.abc import Iterable

from fedveil_common.crypto.prg import Streams
from fedveil_common.masking import masks
from fedveil_common.paillier import encryption, tables
from fedveil_common.ports import Entropy

ORDER = "without protection"
"""What the demo adds to the command of such a process; no environment variable, so nobody can set it from outside."""

_DIGITS = 4
FEW_BITS = _DIGITS * tables.WINDOW


def remove_protection() -> None:
    """From now on this process masks nothing and unmasks nothing, and its ciphertexts hide nothing."""
    assert "streams" in vars(masks)  # renamed there, they would have to be renamed here
    assert "draw_digits" in vars(encryption)
    vars(masks)["streams"] = _no_streams
    vars(encryption)["draw_digits"] = _few_digits


def _no_streams(keys: Iterable[masks.MaskKey], start_word: int, bits: int) -> Streams:
    """In place of `masks.streams`."""
    return Streams((), start_word, 4 if bits <= 32 else 8)


def _few_digits(entropy: Entropy, count: int, bits: int) -> list[list[int]]:
    """In place of `tables.draw_digits`."""
    drawn = tables.draw_digits(entropy, count, bits)
    return [row[:_DIGITS] + [0] * (len(row) - _DIGITS) for row in drawn]
