"""What is on record of each reading of a data set for a run: which data, how many rows, what for; nothing of a row."""

from fedveil_common import plan as plans
from fedveil_common.ids import RunId

from fedveil_participant.ports import Bench, Journal


def note_read(
    journal: Journal, bench: Bench, run_id: RunId, plan: plans.Plan, version: bytes, why: str, number: int = 0
) -> None:
    """The data set was read for a run: to see whether it fits (`accept`), or for what enters the sum of a round."""
    place = (("run", run_id), ("round", str(number)), ("why", why))
    what = (("dataset", plan.data.dataset), ("rows", str(bench.rows(plan, version))))
    journal.note("data_read", (*place, *what, ("plan", plans.plan_hash(plans.canonical(plan)).hex())))
