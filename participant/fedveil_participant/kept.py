"""What a participant keeps between the steps of a run, and for how long: its update, and the data that it accepted.

Promise: an update is used again only for the model that it was made from; accepted data stays for runs that have not
ended, and for no others.
"""

import contextlib
from collections.abc import Collection

import structlog
from fedveil_common.errors import IntegrityError
from fedveil_common.ids import RunId

from fedveil_participant.events import SpentKey
from fedveil_participant.ports import Journal
from fedveil_participant.state import State

log = structlog.get_logger("fedveil.participant")


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


def drop_snapshots(state: State, journal: Journal, reading: Collection[RunId]) -> None:
    """Erases accepted data of runs that have ended. Nothing while a plan is being read: its data has no run yet."""
    if not reading:
        open_runs = [one for run, one in state.plans.items() if not journal.has_end(run)]
        journal.keep_snapshots([(one.plan_hash, one.version) for one in open_runs])
