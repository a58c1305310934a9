"""The headers of the certified inputs as a holder fetches them, put in order; nothing of them is believed yet.

Promise: what is kept is bounded by the shape and by the survivors that this participant voted for, whatever arrives.
Source: docs/paillier.md, section 6.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.paillier.encoding import number
from fedveil_common.paillier.round_shape import RoundShape

LIFTS = ""
"""Under this name the lifts of the product arrive."""


@dataclass(frozen=True, slots=True)
class CertifiedHeaders:
    """`headers`: c_1..c_B of each survivor; `noise`: of the coordinator's, empty if there is none; `lifts`: L_b."""

    headers: Mapping[OrgId, Sequence[int]]
    noise: Sequence[int]
    lifts: Sequence[int]


def gather(
    arrived: Iterable[tuple[str, int, bytes]], survivors: Sequence[OrgId], shape: RoundShape, *, noise: bool
) -> CertifiedHeaders:
    """Puts (who, block, number) in order. PeerError `bad_headers` if one is missing, twice, or of another size."""
    count = shape.blocks.count
    names = [*survivors, LIFTS, *([COORDINATOR] if noise else [])]
    found: dict[str, list[int | None]] = {name: [None] * count for name in names}
    for name, block, data in arrived:
        row = found.get(name)
        width = shape.long_bytes if name == LIFTS else shape.short_bytes
        if row is None or not 0 <= block < count or row[block] is not None or len(data) != width:
            raise _bad(f"a number of {name or 'the product'} for block {block} is not one that is due")
        row[block] = number(data)
    whole = {name: [one for one in row if one is not None] for name, row in found.items()}
    lacking = [name or "the product" for name, row in whole.items() if len(row) < count]
    if lacking:
        raise _bad(f"headers are missing of {', '.join(sorted(lacking))}")
    return CertifiedHeaders({org: whole[org] for org in survivors}, whole.get(COORDINATOR, ()), whole[LIFTS])


def _bad(what: str) -> PeerError:
    return PeerError("bad_headers", what, peer=COORDINATOR, not_done="no key share was used")
