"""The stream that masks are made of: AES-256 in counter mode, read as little-endian words of 32 or 64 bits.

Invariant: word l of a key's stream is the same whatever chunk it is read in, on every platform. A key is used for one
stream only. Source: FLSA/1 section 2.3 (docs/protocol.md); NIST SP 800-38A section 6.5, counter block starting at 0.
Heavy: one core yields about 10^9 words a second; OpenSSL and numpy do the work on 256 KiB at a time.
"""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
WORD_BYTES = 4

_BLOCK_BYTES = 16
_CHUNK_BYTES = 256 * 1024
_ZEROS = memoryview(bytes(_CHUNK_BYTES))


def keystream(key: bytes, size: int) -> bytes:
    """The first `size` bytes of the key's stream."""
    return _context(key, 0).update(bytes(size))


def words(key: bytes, start: int, count: int) -> NDArray[np.uint32]:
    """Words start .. start+count of the key's stream: shape (count,), uint32, uniform without the 32-byte key.

    Seekable: the cost does not depend on `start`. As secret as the key.
    """
    if count < 0:
        raise ValueError("a stream is read for a count >= 0")
    out = np.zeros(count, dtype=np.uint32)
    add_stream(out, key, start)
    return out


class Streams:
    """Several streams read side by side from one word on, added to (or subtracted from) one vector piece by piece.

    Whoever masks a vector of many leaves makes one for each stretch that it works through: a stream's cipher is set up
    once a stretch and not once a piece. For one thread at a time.
    """

    def __init__(self, keys: Iterable[tuple[bytes, bool]], start_word: int, word_bytes: int = WORD_BYTES) -> None:
        """`keys`: (32-byte key, whether its stream is subtracted). `word_bytes`: 4 or 8, little-endian."""
        self._type = _word_type(word_bytes)
        self._streams = [(_context_at(key, start_word * word_bytes), subtract) for key, subtract in keys]
        self._buffer = bytearray(0)

    def apply(self, part: NDArray[np.uint32] | NDArray[np.uint64]) -> None:
        """The next len(part) words of every stream into `part`, in place, modulo the word. One key at a time over
        pieces of 256 KiB, so that keystream and vector stay in the cache.
        """
        if part.dtype.itemsize != self._type.itemsize or part.dtype.kind != "u" or part.ndim != 1:
            raise ValueError(f"an accumulator is a one-dimensional array of unsigned {8 * self._type.itemsize} bits")
        if len(self._buffer) < min(part.nbytes, _CHUNK_BYTES):
            self._buffer = bytearray(min(part.nbytes, _CHUNK_BYTES))
        words_of = np.frombuffer(self._buffer, dtype=self._type)
        step = _CHUNK_BYTES // self._type.itemsize
        for start in range(0, len(part), step):
            piece = part[start : start + step]
            zeros, drawn = _ZEROS[: piece.nbytes], words_of[: len(piece)]
            for context, subtract in self._streams:
                context.update_into(zeros, self._buffer)
                (np.subtract if subtract else np.add)(piece, drawn, out=piece)

    def fill(self, part: NDArray[np.uint32] | NDArray[np.uint64]) -> None:
        """The next len(part) words of the only stream, over whatever `part` held: as `apply` to zeros, in one pass.

        `part`: little-endian whatever the machine, since the stream is written there as it is. ValueError for another
        type, and unless there is one stream, which is added.
        """
        if part.dtype != self._type or part.ndim != 1 or not part.flags.c_contiguous:
            raise ValueError(f"a stream fills a one-dimensional array of {self._type.str} without gaps")
        if len(self._streams) != 1 or self._streams[0][1]:
            raise ValueError("one stream fills an array, and it is not subtracted")
        context, octets = self._streams[0][0], part.view(np.uint8).data
        for start in range(0, len(octets), _CHUNK_BYTES):
            piece = octets[start : start + _CHUNK_BYTES]
            context.update_into(_ZEROS[: len(piece)], piece)


def add_stream(
    acc: NDArray[np.uint32] | NDArray[np.uint64], key: bytes, start_word: int = 0, *, subtract: bool = False
) -> None:
    """Adds the key's words start_word .. start_word+len(acc) to `acc` in place, modulo its word; or subtracts them.

    `acc`: shape (d,), uint32 or uint64, may be memory-mapped. Needs 256 KiB of its own whatever d is.
    """
    if acc.dtype not in (np.dtype(np.uint32), np.dtype(np.uint64)) or acc.ndim != 1:
        raise ValueError("an accumulator is a one-dimensional uint32 or uint64 array")
    Streams([(key, subtract)], start_word, acc.dtype.itemsize).apply(acc)


def _word_type(word_bytes: int) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
    match word_bytes:
        case 4:
            return np.dtype("<u4")  # explicit order: a big-endian machine swaps while it adds
        case 8:
            return np.dtype("<u8")
        case _:
            raise ValueError("a stream is read in words of 4 or 8 bytes")


def _context_at(key: bytes, offset: int) -> CipherContext:
    """The key's stream from byte `offset` on."""
    if offset < 0:
        raise ValueError("a stream is read from a word index >= 0")
    context = _context(key, offset // _BLOCK_BYTES)
    if offset % _BLOCK_BYTES:
        context.update(bytes(offset % _BLOCK_BYTES))
    return context


def _context(key: bytes, block: int) -> CipherContext:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a stream key is {KEY_BYTES} bytes, not {len(key)}")
    return Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(_BLOCK_BYTES, "big"))).encryptor()
