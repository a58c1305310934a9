"""The audit of an opened sum: leaves of it are made again from the published inputs and reveals, and compared.

After the reveal every mask is computable, and every input is bound by the headers that the certificate is over, so who
is shown the inputs can make the sum again. It holds whoever works together with the coordinator. Invariant: the leaves
are drawn by the auditor, after the Result was signed. Source: FLSA/1 section 4.2 with A4 (docs/protocol.md).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import ceil

import numpy as np

from fedveil_common import transcript
from fedveil_common.crypto.prg import keystream
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking import masks
from fedveil_common.masking.packing import pack, unpack
from fedveil_common.masking.ring import zeros
from fedveil_common.published import Proven
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.secret import Seed
from fedveil_common.transcript import LEAF_COORDINATES

FetchLeaves = Callable[[Sequence[int]], Iterable[tuple[OrgId, int, bytes]]]
"""Leaf indices -> (survivor, index, packed leaf of its masked input), leaf after leaf in the order asked for, the
survivors of each in the order of their ids."""

CERTAINTY = 24
"""Where no tag vouches for a sum, h honest auditors miss one false leaf with at most e^-24."""


def routine_share(survivors: int, leaves: int) -> int:
    """How many leaves each member makes again where the tag was right: about as many bytes as one vector has."""
    return min(leaves, ceil(Fraction(leaves, survivors)))


def thorough_share(honest: int, leaves: int) -> int:
    """How many where there is no tag to go by: together the `honest` members then look at every leaf, but for e^-24."""
    return min(leaves, ceil(Fraction(leaves * CERTAINTY, max(1, honest))))


def draw(seed: Seed, leaves: int, count: int) -> list[int]:
    """`count` of `leaves` indices, every choice as likely, ascending. `seed`: 32 fresh random bytes."""
    words = np.frombuffer(keystream(seed.expose(), 8 * leaves), dtype="<u8")
    return sorted(int(index) for index in np.argsort(words, kind="stable")[:count])


def audit(proven: Proven, sum_leaves: Mapping[int, bytes], fetch: FetchLeaves) -> None:
    """Makes leaves of the sum again, from the masked inputs. `sum_leaves`: which, and their hashes under T3.

    Raises PeerError `sum_disputed` if one differs: the coordinator signed a false sum. PeerError `round_not_proved` if
    what it publishes as an input is not what the member's header commits to.
    """
    survivors = proven.unmasking.survivors
    wanted = sorted(sum_leaves)
    arrived = iter(fetch(wanted))
    for index in wanted:
        made = _sum_leaf(proven, index, _inputs(arrived, survivors, index))
        if made != sum_leaves[index]:
            raise disputed(f"leaf {index} of {leaf_count(proven.manifest.length)} is not the sum of the inputs")


def disputed(why: str) -> PeerError:
    """The coordinator signed a false sum."""
    return PeerError(
        "sum_disputed",
        f"the coordinator signed a false sum: {why}",
        peer=COORDINATOR,
        not_done="no model was derived from it; this participant leaves the run",
        next_step="keep the participant's folder and call the other organisations; fedveil verify shows the round",
    )


def _inputs(arrived: Iterable[tuple[OrgId, int, bytes]], survivors: Sequence[OrgId], index: int) -> dict[OrgId, bytes]:
    leaves: dict[OrgId, bytes] = {}
    for org in survivors:
        place = next(iter(arrived), None)
        if place is None or place[:2] != (org, index):
            raise _bad_leaf(org, index, "is missing or out of order")
        leaves[org] = place[2]
    return leaves


def _sum_leaf(proven: Proven, index: int, inputs: Mapping[OrgId, bytes]) -> bytes:
    """The hash of the leaf that the inputs come to."""
    unmasking = proven.unmasking
    count, bits = leaf_length(unmasking.length, index), unmasking.bits
    total = zeros(count, bits)
    for org, data in inputs.items():
        if transcript.input_leaf(proven.t2, org, index, data) != proven.leaf_hashes[org][index]:
            raise _bad_leaf(org, index, "is not the one its header commits to")
        total += unpack(data, count, bits)
    masks.streams(unmasking.keys, index * LEAF_COORDINATES, bits).apply(total)
    return transcript.sum_leaf(unmasking.t3, index, pack(total, bits))


def _bad_leaf(org: OrgId, index: int, why: str) -> PeerError:
    return PeerError(
        "round_not_proved",
        f"leaf {index} of the input of {org}, as the coordinator publishes it, {why}",
        peer=COORDINATOR,
        not_done="the sum was not accepted",
        next_step="try again; if it stays so, call the operator and the other organisations",
    )
