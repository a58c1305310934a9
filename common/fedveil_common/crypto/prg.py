"""The stream that masks are made of: AES-256 in counter mode, read as little-endian 32-bit words.

Invariant: word l of a key's stream is the same whatever chunk it is read in, on every platform. A key is used for one
stream only. Source: FLSA/1 section 2.3 (docs/protocol.md); NIST SP 800-38A section 6.5, counter block starting at 0.
Heavy: one core yields about 10^9 words a second; OpenSSL and numpy do the work on 256 KiB at a time.
"""

from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
WORD_BYTES = 4

_BLOCK_BYTES = 16
_BLOCK_WORDS = _BLOCK_BYTES // WORD_BYTES
_CHUNK_WORDS = 256 * 1024 // WORD_BYTES
_ZEROS = memoryview(bytes(_CHUNK_WORDS * WORD_BYTES))


def keystream(key: bytes, size: int) -> bytes:
    """The first `size` bytes of the key's stream."""
    return _context(key, 0).update(bytes(size))


def words(key: bytes, start: int, count: int) -> NDArray[np.uint32]:
    """Words start .. start+count of the key's stream: shape (count,), uint32, uniform without the 32-byte key.

    Seekable: the cost does not depend on `start`. As secret as the key.
    """
    out = np.empty(count, dtype=np.uint32)
    for position, piece in _pieces(key, start, count):
        out[position : position + len(piece)] = piece
    return out


def add_stream(acc: NDArray[np.uint32], key: bytes, start_word: int = 0, *, subtract: bool = False) -> None:
    """Adds the key's words start_word .. start_word+len(acc) to `acc` in place, modulo 2^32; or subtracts them.

    `acc`: shape (d,), uint32, may be memory-mapped. Needs 256 KiB of its own whatever d is.
    """
    if acc.dtype != np.uint32 or acc.ndim != 1:
        raise ValueError("an accumulator is a one-dimensional uint32 array")
    combine = np.subtract if subtract else np.add
    for position, piece in _pieces(key, start_word, len(acc)):
        part = acc[position : position + len(piece)]
        combine(part, piece, out=part)


def _pieces(key: bytes, start: int, count: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """(position, words) over the asked range; each array is valid only until the next one is asked for."""
    if start < 0 or count < 0:
        raise ValueError("a stream is read from a word index >= 0")
    context = _context(key, start // _BLOCK_WORDS)
    skip = start % _BLOCK_WORDS
    if skip:
        context.update(bytes(skip * WORD_BYTES))
    buffer = bytearray(min(count, _CHUNK_WORDS) * WORD_BYTES)
    view = np.frombuffer(buffer, dtype="<u4")  # explicit order: a big-endian machine swaps while it adds
    for position in range(0, count, _CHUNK_WORDS):
        size = min(_CHUNK_WORDS, count - position)
        context.update_into(_ZEROS[: size * WORD_BYTES], buffer)
        yield position, view[:size]


def _context(key: bytes, block: int) -> CipherContext:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a stream key is {KEY_BYTES} bytes, not {len(key)}")
    return Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(_BLOCK_BYTES, "big"))).encryptor()
