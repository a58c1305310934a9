"""How much noise the coordinator adds to a sum under paillier, by the plan: part of what a plan means, like its layout.

Promise: both sides ask here, so a manifest with other noise than the plan's is refused.
Source: docs/paillier.md, section 6 (P5, G4); the mechanism is `private_sum`'s.
"""

from fedveil_common import private_sum
from fedveil_common.plan import Plan


def coordinator_cap(plan: Plan) -> int:
    """W_c: the largest absolute value that the coordinator's own noise adds to a coordinate, in units of the grid; 0
    for a plan whose noise is not the coordinator's.
    """
    return private_sum.coordinator_cap(plan)
