"""The masking key of an organisation, and what is derived from it.

Promise: no two uses share a key: each is HKDF-SHA256 of the master key under a label of its own and, injectively, the
key id, scope and domain. The key id names the master key and says nothing about it. Whoever holds the key can make
every pseudonym again and undo format-preserving encryption: it never leaves the organisation.
"""

from fedveil_common.crypto import kdf
from fedveil_common.errors import ConfigError
from fedveil_common.secret import Secret

MIN_KEY_BYTES = 32
MAX_KEY_BYTES = 4096
_FEWEST_DIFFERENT = 8
"""Different bytes in a key: 64 random hex digits have fewer about once in 10^11, a typed word or padding often."""

_ID_BYTES = 8


class MaskingKey(Secret):
    """The master key: 32 bytes or more."""

    __slots__ = ()

    def __init__(self, value: bytes) -> None:
        """ConfigError `masking_key_short`, `masking_key_weak`."""
        if not MIN_KEY_BYTES <= len(value) <= MAX_KEY_BYTES:
            raise ConfigError(
                "masking_key_short",
                f"the masking key has {len(value)} bytes; {MIN_KEY_BYTES} to {MAX_KEY_BYTES} are needed",
                not_done="nothing was masked",
                next_step="make one with `fedveil data masking-key --out FILE`",
            )
        if len(set(value)) < _FEWEST_DIFFERENT:
            raise ConfigError(
                "masking_key_weak",
                "the masking key repeats a few bytes: it was not drawn at random",
                not_done="nothing was masked",
                next_step="make one with `fedveil data masking-key --out FILE`",
            )
        super().__init__(value)

    @property
    def key_id(self) -> str:
        """16 hex digits that name this key; public."""
        return kdf.derive(b"", self.expose(), "masking/key-id")[:_ID_BYTES].hex()

    def derive(self, use: str, scope: str, domain: str) -> bytes:
        """32 bytes for one use ("pseudonym", "fpe", ..) in one domain of one scope."""
        fields = (self.key_id.encode(), scope.encode(), domain.encode())
        return kdf.derive(b"", self.expose(), f"masking/{use}", *fields)
