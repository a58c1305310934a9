"""The bytes of one train sum under paillier, for one participant, once the key is known.

Promise: exact for vectors and ciphertexts, from the shape that both sides derive (`round_shape`) and the share that
participants draw (`audit`); messages beside them are not counted. Source: docs/paillier.md, sections 3 and 6.
"""

from dataclasses import dataclass

from fedveil_common import audit, layout, private_sum
from fedveil_common.paillier.public_key import Terms
from fedveil_common.paillier.round_shape import RoundShape, shape_of
from fedveil_common.plan import Plan

from fedveil_cli.cohort_figures import LEAF_HASH_BYTES, CohortFigures


@dataclass(frozen=True, slots=True)
class CipherTraffic:
    """`input_up`: what everybody uploads. `answer_up`, `headers_down`: what a holder uploads and downloads besides when
    it answers. `sum_down`, `checks_down`: the sum, and what everybody downloads to check it. All if nobody drops.
    """

    ciphertexts: int
    blocks: int
    input_up: int
    answer_up: int
    headers_down: int
    sum_down: int
    checks_down: int


def traffic(plan: Plan, figures: CohortFigures, terms: Terms) -> CipherTraffic:
    """Of a train sum of this cohort that also evaluates. PeerError `sum_too_large` if the key cannot take it."""
    members = figures.members
    length = layout.first(plan).length
    shape = shape_of(terms, length, members, private_sum.value_bits(plan, members, figures.quorum, figures.corrupt))
    blocks = shape.blocks.count
    return CipherTraffic(
        ciphertexts=blocks * shape.blocks.width,
        blocks=blocks,
        input_up=blocks * (shape.input_leaf_bytes + LEAF_HASH_BYTES),
        answer_up=blocks * (shape.partial_leaf_bytes + LEAF_HASH_BYTES),
        headers_down=blocks * (members * shape.short_bytes + shape.long_bytes),
        sum_down=figures.vector_down,
        checks_down=_checks(shape, figures, terms),
    )


def _checks(shape: RoundShape, figures: CohortFigures, terms: Terms) -> int:
    """The whole product, every answer, and some blocks of every input."""
    blocks, leaf = shape.blocks.count, shape.input_leaf_bytes
    drawn = audit.thorough_share(figures.quorum - figures.corrupt, blocks)
    return blocks * (leaf + terms.threshold * shape.partial_leaf_bytes) + drawn * figures.members * leaf
