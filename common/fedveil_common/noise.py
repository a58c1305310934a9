"""How much noise the coordinator adds to a sum under paillier, by the plan: part of what a plan means, like its layout.

Promise: both sides ask here, so a manifest with other noise than the plan's is refused. The mechanism that draws it
comes with differential privacy. Source: docs/paillier.md, section 6 (P5, G4).
"""

from fedveil_common.plan import Plan


def coordinator_cap(plan: Plan) -> int:
    """W_c: the largest absolute value that the coordinator's own noise adds to a coordinate, in units of the grid.

    0: no plan of this release asks for any.
    """
    return 0
