"""How the vector of an attempt lies in ciphertexts: slots, blocks, and the bytes of a leaf.

Promise: both sides and every auditor derive the same shape from the manifest and the terms of its key; nothing of it is
received. Public. Source: docs/paillier.md, sections 3 and 6.
"""

from dataclasses import dataclass

from fedveil_common.errors import PeerError
from fedveil_common.layout import layout_for, sums
from fedveil_common.limits import MAX_LEAVES
from fedveil_common.messages import Manifest
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.paillier.packing import Blocks, Slots
from fedveil_common.paillier.public_key import Terms
from fedveil_common.plan import Plan
from fedveil_common.private_sum import expected_bits


@dataclass(frozen=True, slots=True)
class RoundShape:
    """`short_bytes`, `long_bytes`: of a number mod n and mod n^(s+1)."""

    slots: Slots
    blocks: Blocks
    short_bytes: int
    long_bytes: int

    @property
    def input_leaf_bytes(self) -> int:
        """Of one leaf of an input, and of the product: header, lift, bodies."""
        return self.short_bytes + (1 + self.blocks.width) * self.long_bytes

    @property
    def partial_leaf_bytes(self) -> int:
        """Of one leaf of a holder's answer."""
        return self.blocks.width * self.long_bytes


def shape_of(terms: Terms, length: int, members: int, value_bits: int, noise_cap: int = 0) -> RoundShape:
    """For a vector of `length` coordinates of `value_bits` signed bits, from at most `members` members.

    PeerError `sum_too_large` if no slot is large enough or the blocks are more than an upload can have.
    """
    bits = int(terms.n).bit_length()
    return _shape(bits, terms.s, terms.width, length, members, value_bits, noise_cap)


def shape_in_use(use: KeyUse, manifest: Manifest) -> RoundShape:
    """The shape of an attempt under the key it names. Errors as `shape_of`."""
    noise_cap = manifest.encryption[0].noise_cap
    members = len(manifest.cohort)
    return _shape(use.modulus_bits, use.s, use.columns, manifest.length, members, manifest.value_bits, noise_cap)


def shape_of_plan(use: KeyUse, plan: Plan, members: int) -> RoundShape:
    """Of the largest sum of a plan, if so many members take part: for what is made ready before there is a manifest."""
    length = max(layout_for(plan, purpose, step).length for purpose, step in sums(plan))
    return _shape(use.modulus_bits, use.s, use.columns, length, members, expected_bits(plan, members), 0)


def _shape(bits: int, s: int, columns: int, length: int, members: int, value_bits: int, noise_cap: int) -> RoundShape:
    try:
        slots = Slots(s * bits, length, members, (1 << (value_bits - 1)) - 1, 0, noise_cap)
    except ValueError as error:
        raise _too_large(str(error)) from error
    blocks = Blocks.of(slots.plaintexts, columns)
    if blocks.count > MAX_LEAVES:
        raise _too_large(f"{blocks.count} blocks, {MAX_LEAVES} are the most")
    short = (bits + 7) // 8
    return RoundShape(slots, blocks, short, short * (s + 1))


def shape_of_manifest(terms: Terms, manifest: Manifest) -> RoundShape:
    """The shape of an attempt. Errors as `shape_of`. `terms`: of the key that the manifest names."""
    noise_cap = manifest.encryption[0].noise_cap
    return shape_of(terms, manifest.length, len(manifest.cohort), manifest.value_bits, noise_cap)


def _too_large(why: str) -> PeerError:
    return PeerError(
        "sum_too_large",
        f"a vector of this size cannot be encrypted under this key: {why}",
        not_done="nothing was encrypted",
        next_step="take a smaller model, fewer value_bits, a key with more columns, or protection masked",
    )
