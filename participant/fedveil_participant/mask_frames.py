"""What a participant and the process that makes its masks say to each other, over two anonymous pipes.

To it: one request, of public values alone. From it: masks, one a frame, secret. A frame is u32 length || bytes. Nothing
else is said: no names, no pickles, no errors. Source: docs/paillier.md, section 3 (G10).
"""

from dataclasses import dataclass
from typing import IO, Self

from fedveil_common.crypto.labels import u16, u32
from fedveil_common.paillier.encoding import integer, number
from fedveil_common.paillier.encryption import Exponent, Mask, MaskTables
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.tables import WINDOW, digits_for

_HEAD = 7


@dataclass(frozen=True, slots=True)
class Request:
    """Of a public key what masks are made of: `bits` of randomness, the base `g`, as many `columns` h_k mod n as a
    block is wide. Public.
    """

    group: Group
    bits: int
    g: int
    columns: tuple[int, ...]

    @classmethod
    def of(cls, key: PublicKey, width: int) -> Self:
        """For blocks of `width` ciphertexts. ValueError for a width that the key does not have."""
        if not 1 <= width <= key.terms.width:
            raise ValueError(f"blocks of {width} ciphertexts under a key of {key.terms.width} columns")
        return cls(key.group, key.terms.bits, key.g, key.columns[:width])

    def tables(self) -> MaskTables:
        """The tables: some seconds."""
        return MaskTables(self.group, self.bits, self.g, self.columns)

    def to_bytes(self) -> bytes:
        """u8 s || u16 bits || u16 width || u16 bytes of n || I(n) || I(g) || I(h_0) .., as a frame."""
        short = self.group.short_bytes
        head = bytes([self.group.s]) + u16(self.bits) + u16(len(self.columns)) + u16(short)
        numbers = b"".join(integer(one, short) for one in (self.group.n, self.g, *self.columns))
        return _frame(head + numbers)

    @classmethod
    def read_from(cls, stream: IO[bytes]) -> Self:
        """The one request of a stream. EOFError if it ends before that; ValueError if it is none."""
        size = int.from_bytes(_exactly(stream, 4), "big")
        head = _exactly(stream, _HEAD)
        s, bits, width, short = head[0], *(int.from_bytes(head[at : at + 2], "big") for at in (1, 3, 5))
        if size != _HEAD + (2 + width) * short:
            raise ValueError(f"a request of {size} bytes")
        data = _exactly(stream, size - _HEAD)
        n, g, *columns = (number(data[at : at + short]) for at in range(0, len(data), short))
        return cls(Group(n, s), bits, g, tuple(columns))

    @property
    def _exponent_bytes(self) -> int:
        return (digits_for(self.bits) * WINDOW + 7) // 8

    def write_mask(self, mask: Mask) -> bytes:
        """The exponent || I(header) || I(lift) || I(H_k^r) .., as a frame. Secret. The mask is spent by it."""
        exponent, header, lift, powers = mask.spend()
        long = self.group.long_bytes
        parts = [exponent.expose().rjust(self._exponent_bytes, b"\0"), integer(header, self.group.short_bytes)]
        return _frame(b"".join([*parts, *(integer(one, long) for one in (lift, *powers))]))

    def read_mask(self, stream: IO[bytes]) -> Mask:
        """The next mask of a stream, this process's own from here on. EOFError at its end; ValueError if it is none."""
        first = self._exponent_bytes
        second, long = first + self.group.short_bytes, self.group.long_bytes
        size = int.from_bytes(_exactly(stream, 4), "big")
        if size != second + (1 + len(self.columns)) * long:
            raise ValueError(f"a mask of {size} bytes")
        data = memoryview(_exactly(stream, size))
        lift, *powers = (number(data[at : at + long]) for at in range(second, len(data), long))
        return Mask(Exponent(bytes(data[:first])), number(data[first:second]), lift, tuple(powers))


def _frame(data: bytes) -> bytes:
    return u32(len(data)) + data


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) != size:
        raise EOFError
    return found
