"""The model that a sum is about, derived here from the sums before it, and whether an update of it is kept already.

Promise: no update is made of a model that was not derived here; a file of another format does not count as an update.
"""

import contextlib

import structlog
from fedveil_common import layout
from fedveil_common.errors import IntegrityError
from fedveil_common.messages import Manifest

from fedveil_participant import checks
from fedveil_participant.events import SpentKey
from fedveil_participant.lineage import Walk, Walker, basis_of
from fedveil_participant.ports import Journal
from fedveil_participant.round import State

log = structlog.get_logger("fedveil.participant")


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


def is_kept(journal: Journal, key: SpentKey, model_hash: bytes) -> bool:
    """Whether the update made from this model is kept; a file of another format is replaced."""
    try:
        known = journal.open_update(key)
    except IntegrityError as error:
        log.warning("update.unreadable", code=error.code, what=error.what)
        return False
    if known is None:
        return False
    with contextlib.closing(known):
        return known.model_hash == model_hash
