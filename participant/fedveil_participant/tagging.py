"""The tag of a participant's own vector: weighed piece by piece while it is encoded, so that no second pass is needed.

Promise: what is weighed are the integers before their reduction to the ring and before any mask. Source: FLSA/1 section
4.1 with A4 (docs/protocol.md).
"""

from fedveil_common.masking import checksum
from fedveil_common.masking.ring import Signed
from fedveil_common.secret import Seed

from fedveil_participant.protecting import Encode


class Tag:
    """Wraps `encode` of one vector; `masked` once every coordinate was encoded exactly once. Any thread may encode."""

    def __init__(self, encode: Encode, key: tuple[Seed, ...]) -> None:
        """`key`: the checksum key, or empty: then nothing is weighed and the tag is zero."""
        self._encode = encode
        self._key = key
        self._parts: list[int] = []

    def encode(self, start: int, count: int) -> Signed:
        """As the wrapped `encode`; what it returns is the organisation's secret."""
        integers = self._encode(start, count)
        for key in self._key:
            self._parts.append(checksum.weigh(key, start, integers))
        return integers

    def masked(self, mask: int) -> bytes:
        """The tag under its mask, as it travels in the header."""
        return checksum.to_bytes((sum(self._parts) + mask) % checksum.PRIME)
