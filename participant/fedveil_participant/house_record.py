"""What a running participant puts on record beside its rounds: answers, reads of the data, ends of runs, receipts.

Notes are facts about what was done; no value of the data is in them. Nothing here is sent.
"""

from fedveil_common import plan as plans
from fedveil_common.ids import RunId
from fedveil_common.messages import SignedBlob
from fedveil_common.plan import Plan

from fedveil_participant import receipts
from fedveil_participant.ports import Bench, Journal


class HouseRecord:
    """Any thread, as the journal. Every method may raise StorageError."""

    def __init__(self, journal: Journal, bench: Bench) -> None:
        self._journal = journal
        self._bench = bench

    def answered(self, plan_hash: bytes, code: str) -> None:
        """What the coordinator hears about a plan."""
        self._journal.note("plan_answered", (("plan", plan_hash.hex()), ("code", code)))

    def read(self, run_id: RunId, plan: Plan, version: bytes, why: str, number: int = 0) -> None:
        """The data set was read for a run: to see whether it fits (`accept`), or for the sum of round `number`."""
        place = (("run", run_id), ("round", str(number)), ("why", why))
        what = (("dataset", plan.data.dataset), ("rows", str(self._bench.rows(plan, version))))
        self._journal.note("data_read", (*place, *what, ("plan", plans.plan_hash(plans.canonical(plan)).hex())))

    def ended(self, run_id: RunId, code: str, with_model: bool) -> None:
        """How a run ended here."""
        self._journal.note("run_ended", (("run", run_id), ("code", code), ("model", str(with_model))))

    def receipt(self, receipt: SignedBlob, key: bytes, due: bytes) -> bool:
        """A receipt that came for what awaits one with the body `due` is kept, also one that is false; whether
        anything awaited it. `key`: the coordinator's that is pinned. PeerError `receipt_false`.
        """
        if not due:
            return False  # the attempt was over when its upload began anew
        kept = self._journal.keep_receipt(receipt, key, due)
        receipts.check(receipt, key, due)
        return kept
