"""The model that a sum is about, derived here from the sums before it.

Promise: no update is made of a model that was not derived here.
"""

from fedveil_common import layout
from fedveil_common.messages import Manifest

from fedveil_participant import checks
from fedveil_participant.lineage import Walk, Walker, basis_of
from fedveil_participant.round import State


def derive(walker: Walker, state: State, manifest: Manifest, accepted: checks.AcceptedPlan) -> Walk | None:
    """The model that a sum is about; None for a question. PeerError `model_not_derived`."""
    if layout.is_query(manifest.purpose):
        return None
    run_id = manifest.key.run_id
    walk = walker.walk(accepted.plan, run_id, manifest.standardise, manifest.step, manifest.previous, basis_of(state))
    checks.not_stopped(walk.lineage)
    checks.derived_model(manifest, walk.lineage.model_hash)
    checks.derived_state(manifest, walk.lineage.state_hash)
    walker.keep(run_id, walk)
    return walk
