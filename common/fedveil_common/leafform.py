"""How leaves lie in a file: as they travel, or sealed under the key of whoever keeps them.

Promise: of a sealed file a disk shows how many leaves there are and how large, and nothing of what is in them; a leaf
that was changed, moved within its file or put into another, and a file that is not the one of this name, do not open.
Sealing says nothing of who made a vector: that was checked when it arrived.

Format of a sealed file: 32-byte salt; each leaf as ciphertext and 16-byte tag; the check sums of all leaves, sealed in
the same way; the trailer of the shape (`leaffile`); the 8 bytes "FVREST01". Key = KDF(salt, the holder's key,
"storage/leaves", context), where `context` says which file it is; AES-256-GCM (NIST SP 800-38D), nonce = 0^4 ||
u64be(leaf), the check sums as the leaf after the last; associated data = the trailer. The salt is fresh for each file.
What arrives in parts may be sealed twice under one nonce after a crash, and is then the same plaintext: the salt is of
one part, and what a part holds is committed to before its first leaf is taken (`leafspool`).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedveil_common.crypto import aead
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import u32, u64
from fedveil_common.leafshape import Shape
from fedveil_common.ports import Entropy
from fedveil_common.secret import Seed

SEALED_MARK = b"FVREST01"
"""How a sealed file of leaves ends."""

SALT_BYTES = 32

Data = bytes | bytearray | memoryview


class LeafForm(Protocol):
    """One file's way of keeping leaves. Any thread. What does not open is a ValueError."""

    @property
    def head(self) -> bytes:
        """What stands before the first leaf."""
        ...

    @property
    def tail(self) -> bytes:
        """What stands behind the shape's trailer."""
        ...

    def place(self, index: int) -> int:
        """Where leaf `index` begins; of the number of leaves: where the check sums do."""
        ...

    def size(self, index: int) -> int:
        """Bytes of leaf `index` in the file."""
        ...

    @property
    def checks_size(self) -> int:
        """Bytes of the check sums in the file."""
        ...

    def keep(self, index: int, leaf: Data) -> Data:
        """Leaf `index` as it lies in the file."""
        ...

    def open(self, index: int, stored: bytearray) -> bytearray:
        """Leaf `index` as it travels; `stored` may be used for it."""
        ...

    def keep_checks(self, checks: Sequence[int]) -> bytes:
        """The check sums as they lie in the file: CRC-32 of each leaf as it travels."""
        ...

    def open_checks(self, stored: bytes) -> list[int]:
        """The check sums."""
        ...


class Plain:
    """Leaves as they travel."""

    head = tail = b""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.checks_size = 4 * shape.leaves

    def place(self, index: int) -> int:
        """See `LeafForm`."""
        return self._shape.offset(index)

    def size(self, index: int) -> int:
        """See `LeafForm`."""
        return self._shape.size(index)

    def keep(self, index: int, leaf: Data) -> Data:
        """See `LeafForm`."""
        return leaf

    def open(self, index: int, stored: bytearray) -> bytearray:
        """See `LeafForm`."""
        return stored

    def keep_checks(self, checks: Sequence[int]) -> bytes:
        """See `LeafForm`."""
        return np.array(checks, dtype="<u4").tobytes()

    def open_checks(self, stored: bytes) -> list[int]:
        """See `LeafForm`."""
        return [int(check) for check in np.frombuffer(stored, dtype="<u4")]


class Sealed:
    """Leaves under the key of one file. `LeafSeal` makes them."""

    tail = SEALED_MARK

    def __init__(self, shape: Shape, salt: bytes, key: bytes) -> None:
        self._shape = shape
        self._cipher = AESGCM(key)
        self.head = salt
        self.checks_size = 4 * shape.leaves + aead.TAG_BYTES

    def place(self, index: int) -> int:
        """See `LeafForm`."""
        return SALT_BYTES + self._shape.offset(index) + index * aead.TAG_BYTES

    def size(self, index: int) -> int:
        """See `LeafForm`."""
        return self._shape.size(index) + aead.TAG_BYTES

    def keep(self, index: int, leaf: Data) -> Data:
        """See `LeafForm`."""
        return self._cipher.encrypt(_nonce(index), leaf, self._shape.trailer)

    def open(self, index: int, stored: bytearray) -> bytearray:
        """See `LeafForm`."""
        leaf = bytearray(max(0, len(stored) - aead.TAG_BYTES))
        try:
            self._cipher.decrypt_into(_nonce(index), stored, self._shape.trailer, leaf)
        except InvalidTag:
            raise ValueError(f"leaf {index} does not open under this key") from None
        return leaf

    def keep_checks(self, checks: Sequence[int]) -> bytes:
        """See `LeafForm`."""
        return bytes(self.keep(self._shape.leaves, np.array(checks, dtype="<u4").tobytes()))

    def open_checks(self, stored: bytes) -> list[int]:
        """See `LeafForm`."""
        opened = self.open(self._shape.leaves, bytearray(stored))
        return [int(check) for check in np.frombuffer(opened, dtype="<u4")]


class LeafSeal:
    """Seals the file that `context` names, each time it is written under another salt. None in its place: in clear."""

    def __init__(self, key: Seed, entropy: Entropy, context: tuple[bytes, ...]) -> None:
        self._key, self._entropy, self._context = key, entropy, context

    def fresh(self, shape: Shape) -> Sealed:
        """For a file that is to be written."""
        return self.under(shape, self._entropy.take(SALT_BYTES))

    def under(self, shape: Shape, salt: bytes) -> Sealed:
        """For a file that begins with `salt`."""
        return Sealed(shape, salt, derive(salt, self._key.expose(), "storage/leaves", *self._context))


def form_of(shape: Shape, seal: LeafSeal | None) -> LeafForm:
    """How a new file keeps its leaves."""
    return Plain(shape) if seal is None else seal.fresh(shape)


def _nonce(index: int) -> bytes:
    return u32(0) + u64(index)


__all__ = ["SALT_BYTES", "SEALED_MARK", "Data", "LeafForm", "LeafSeal", "Plain", "Sealed", "form_of"]
