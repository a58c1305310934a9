"""Sealing single records of a journal: each under a key of its own, bound to what it is.

Format: 32-byte salt, then AES-256-GCM under KDF(salt, holder's key, "journal/record") with nonce zero; the associated
data names the record, so that a sealed value cannot stand in another's place.
"""

from fedveil_common.crypto import aead
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import labelled
from fedveil_common.ports import Entropy
from fedveil_common.secret import Seed

SALT_BYTES = 32
_NONCE = bytes(aead.NONCE_BYTES)  # the salt is fresh, so the key seals one message


class Sealer:
    """Seals and opens under the key of whoever keeps the records: journal key, storage key."""

    def __init__(self, key: Seed, entropy: Entropy) -> None:
        self._key = key
        self._entropy = entropy

    def seal(self, plaintext: bytes, *name: bytes) -> bytes:
        """`plaintext` sealed as the record called `name`."""
        salt = self._entropy.take(SALT_BYTES)
        return salt + aead.seal(self._of(salt), _NONCE, plaintext, labelled("journal/name", *name))

    def open(self, sealed: bytes, *name: bytes) -> bytes:
        """What was sealed as `name`; IntegrityError `aead_failed` for another key, name or byte."""
        salt, rest = sealed[:SALT_BYTES], sealed[SALT_BYTES:]
        return aead.open_sealed(self._of(salt), _NONCE, rest, labelled("journal/name", *name))

    def _of(self, salt: bytes) -> bytes:
        return derive(salt, self._key.expose(), "journal/record")
