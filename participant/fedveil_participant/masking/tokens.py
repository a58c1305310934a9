"""Values replaced by others that stand for them: keyed pseudonyms, random surrogates, format-preserving encryption.

Promise: a pseudonym is HMAC-SHA256 under a key of one scope and domain, so nobody without it can go from value to
pseudonym by trying values; a surrogate is random, and gone with the output; FF1 (NIST SP 800-38G) can be undone by
whoever holds the key, and is refused for domains under 10^6, which could be tried out.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from fedveil_common.ports import Entropy
from ffx import FF1, DomainError

from fedveil_participant.masking.rules import Fpe
from fedveil_participant.masking.typed_text import typed

BASE32 = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", dtype=np.uint8)
"""RFC 4648, in small letters."""

MIN_DOMAIN = 1_000_000
_AT_ONCE = 1 << 17


class BadText(Exception):
    """A text that cannot be encrypted: `code` and words, nothing of the text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code)
        self.code = code
        self.text = text


def pseudonyms(texts: Sequence[str], key: bytes, length: int, *, by_value: bool) -> pa.Array:
    """One pseudonym per text: the first `length` base32 characters of HMAC-SHA256(key, typed text).

    `by_value`: numbers count by their value; else every text by itself.
    """
    keyed = hmac.new(key, digestmod=hashlib.sha256)

    def digest(data: bytes) -> bytes:
        one = keyed.copy()
        one.update(data)
        return one.digest()

    form: Callable[[str], bytes] = typed if by_value else _plain
    return _base32(lambda start, end: b"".join([digest(form(text)) for text in texts[start:end]]), len(texts), length)


def _plain(text: str) -> bytes:
    return b"t" + text.encode()


def surrogates(texts: Sequence[str], entropy: Entropy, length: int) -> pa.Array:
    """One random token per value: texts that are the same value share one."""
    places: dict[bytes, int] = {}
    codes = [places.setdefault(typed(text), len(places)) for text in texts]
    drawn = _base32(lambda start, end: entropy.take(32 * (end - start)), len(places), length)
    return drawn.take(pa.array(codes, pa.int32()))


def _base32(octets: Callable[[int, int], bytes], count: int, length: int) -> pa.Array:
    """`octets(start, end)`: 32 bytes for each of these. The first 5 * length bits of each, at most 256, as base32."""
    parts = []
    for start in range(0, count, _AT_ONCE):
        end = min(start + _AT_ONCE, count)
        raw = np.frombuffer(octets(start, end), dtype=np.uint8).reshape(-1, 32)
        bits = np.unpackbits(raw, axis=1)
        if 5 * length > 256:  # the 52nd character has the last bit and four zeros
            bits = np.pad(bits, ((0, 0), (0, 5 * length - 256)))
        groups = bits[:, : 5 * length].reshape(-1, length, 5)
        places = groups @ np.array([16, 8, 4, 2, 1], dtype=np.uint8)
        offsets = np.arange(end - start + 1, dtype=np.int32) * length
        letters = BASE32[places].tobytes()
        parts.append(pa.StringArray.from_buffers(end - start, pa.py_buffer(offsets), pa.py_buffer(letters)))
    return pa.concat_arrays(parts) if parts else pa.array([], pa.string())


class FormatCipher:
    """FF1 of one column: AES-256 under the column's key, its tweak, its alphabet and separators."""

    def __init__(self, step: Fpe, key: bytes) -> None:
        self._alphabet = frozenset(step.alphabet)
        self._separators = frozenset(step.separators)
        self._tweak = step.tweak.encode()
        self._cipher = FF1(key, alphabet=step.alphabet)

    def encrypt(self, text: str) -> str:
        """Of the same length, with the same separators in the same places. BadText."""
        return self._through(text, self._cipher.encrypt)

    def decrypt(self, text: str) -> str:
        """What was encrypted to `text`. BadText."""
        return self._through(text, self._cipher.decrypt)

    def _through(self, text: str, crypt: Callable[..., str]) -> str:
        inner = [character for character in text if character not in self._separators]
        for place, character in enumerate(text, 1):
            if character not in self._alphabet and character not in self._separators:
                raise BadText("fpe_character", f"its character {place} is not in the alphabet, nor a separator")
        try:
            found = iter(crypt("".join(inner), tweak=self._tweak))
        except DomainError:
            raise BadText("fpe_domain", f"too short: fewer than {MIN_DOMAIN} texts have this form") from None
        return "".join(character if character in self._separators else next(found) for character in text)
