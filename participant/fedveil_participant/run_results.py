"""What is left of a run here, and what the coordinator hears of it: the end, the countersignature; and which released
models are in force.

Promise: the end of a run and the countersignature of its model are durable before either leaves; an end is acknowledged
once its owner has decided about the countersignature, so that the coordinator tells it again until then. A status list
that goes back is an alarm and changes nothing.
"""

from collections.abc import Callable, Mapping

from fedveil_common.errors import IntegrityError, PeerError, PolicyRefusal
from fedveil_common.ids import RunId
from fedveil_common.messages import RunEnded, RunEndedAck, StatusNotice
from fedveil_common.registry.stages import Stage
from fedveil_common.registry.status import StatusList

from fedveil_participant.finish import Results
from fedveil_participant.ports import Journal, Link

Tell = Callable[[str, Mapping[str, str]], None]


class RunResults:
    """`asks`: countersignatures wait for the owner. `take_status`: keeps the newest list, raising PeerError for one
    that may not take its place, IntegrityError where that cannot be known; None where nobody asks for one.
    `check_ancestry`: raises PolicyRefusal for a model file that descends from a withdrawn one, which is not
    countersigned then. `store` on any thread, the rest on the driver's.
    """

    def __init__(self, journal: Journal, link: Link, tell: Tell) -> None:
        self._journal = journal
        self._link = link
        self._tell = tell
        self.asks = False
        self.take_status: Callable[[bytes], StatusList] | None = None
        self.check_ancestry: Callable[[bytes], None] = lambda model: None
        self._told = (0, 0)

    def store(self, ended: RunEnded, left: Results) -> bool:
        """The end of a run, with all that is left of it, is durable; whether that is a model."""
        for blob in left.countersignature if self._vouches(left) else ():
            self._journal.put_countersignature(ended.run_id, blob, held=self.asks)
        self._journal.save_end(ended.run_id, ended.plan_hash, ended.code, left.model, left.answers)
        return bool(left.model)

    def _vouches(self, left: Results) -> bool:
        """Whether this participant may stand behind the model that it derived. The run ended for it all the same."""
        if not left.countersignature:
            return False
        try:
            self.check_ancestry(left.model)
        except (PolicyRefusal, IntegrityError) as error:
            self._tell("alarm", {"code": error.code, "what": error.what})
            return False
        return True

    def acknowledge(self, run_id: RunId) -> None:
        """The end of a run is stored: the coordinator hears it, after this participant's countersignature."""
        if self._journal.countersignature_held(run_id):
            self._tell("countersign_asks", {"run": run_id, "next": f"fedveil model countersign {run_id}"})
            return
        for blob in self._journal.countersignature(run_id):
            self._link.send(blob)
        self._link.send(RunEndedAck(run_id))

    def status(self, message: StatusNotice) -> None:
        """The status list in force."""
        if self.take_status is None:
            return
        try:
            found = self.take_status(message.document)
        except (PeerError, IntegrityError) as error:
            self._tell("alarm", {"code": error.code, "what": error.what})
            return
        if found.place == self._told:
            return
        self._told = found.place
        withdrawn = sorted(str(one.model.run_id) for one in found.models if one.stage is Stage.WITHDRAWN)
        self._tell("status", {"sequence": str(found.sequence), "withdrawn": ",".join(withdrawn)})
