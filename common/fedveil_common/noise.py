"""How much noise the coordinator adds to a sum, by the plan, and which sums rest on it for that reason.

Promise: both sides ask here, so a manifest with other noise than the plan's is refused.
Source: docs/paillier.md, section 6 (P5, G4); A5 (docs/protocol.md); the mechanism is `private_sum`'s.
"""

from fedveil_common import private_sum
from fedveil_common.messages import Manifest
from fedveil_common.plan import NoiseSource, Plan


def coordinator_cap(plan: Plan) -> int:
    """W_c: the largest absolute value that the coordinator's own noise adds to a coordinate, in units of the grid; 0
    for a plan whose noise is not the coordinator's.
    """
    return private_sum.coordinator_cap(plan)


def rests_on_coordinator(manifest: Manifest) -> bool:
    """Whether the coordinator adds its noise to the opened sum, under masked: then it alone ever sees the exact sum,
    nothing that would give it away is published, and nobody can check what is (A5).
    """
    return manifest.noise == "coordinator" and not manifest.encryption


def rests_on(plan: Plan) -> str:
    """On whom it rests that the opened sums are the true ones, with their noise: "members", who check each; or
    "coordinator", where it alone sees the exact sum. Stands beside every figure of such a run.
    """
    alone = plan.privacy is not None and plan.privacy.noise is NoiseSource.COORDINATOR and not plan.protection.key
    return "coordinator" if alone else "members"
