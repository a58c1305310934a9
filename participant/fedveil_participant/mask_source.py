"""Where the masks of an input come from: made ahead of time (`mask_pool`), or here and now.

Promise: every mask is given out once. Whoever sees a mask before it is spent reads the update that is encrypted with
it. Source: docs/paillier.md, section 3 (P6, G10).
"""

from typing import Protocol

from fedveil_common.paillier.encryption import Encryptor, Mask, masks_without_tables
from fedveil_common.paillier.public_key import PublicKey, lifts_of
from fedveil_common.ports import Entropy

WITHOUT_TABLES = 48
"""Masks, times s, that cost as much without tables as the tables do: 93 ms a column against 1.9 ms a power (2048 bits).
"""


class MaskSource(Protocol):
    """Masks of one key in one epoch."""

    def take(self, count: int, width: int) -> list[Mask]:
        """Up to `count` masks for blocks of `width` ciphertexts, at once: what there is. Secret, for one input."""
        ...


class InlineMasks:
    """Masks made when they are asked for, in this process: as many as that. Nothing is kept but public tables.

    A few are made without tables; once so many were asked for that tables would have paid, they are built, as wide as
    the blocks are, and stay. A call occupies its thread throughout, and no other thread runs during one power.
    """

    def __init__(self, key: PublicKey, entropy: Entropy) -> None:
        self._key, self._entropy = key, entropy
        self._tables: Encryptor | None = None
        self._lifts: list[int] = []
        self._without = 0

    def take(self, count: int, width: int) -> list[Mask]:
        """`count` masks. ValueError for a width that the key does not have."""
        if not 1 <= width <= self._key.terms.width:
            raise ValueError(f"blocks of {width} ciphertexts under a key of {self._key.terms.width} columns")
        if count < 1:
            return []
        tables = self._tables
        if tables is not None and tables.width >= width:
            return tables.masks(count, width, self._entropy)
        if self._without + count > WITHOUT_TABLES * self._key.terms.s:
            self._tables = tables = Encryptor(self._key, width)
            return tables.masks(count, width, self._entropy)
        self._without += count
        if len(self._lifts) < width:
            self._lifts = lifts_of(self._key.group, self._key.columns[:width])
        return list(masks_without_tables(self._key, self._lifts[:width], count, self._entropy))
