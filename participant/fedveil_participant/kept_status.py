"""The highest status list that this organisation has seen: HOME/status.json.

Promise: it is only ever replaced by a later one of the coordinator in force in which nothing that was withdrawn comes
back. Whoever predicts here asks this file, and so does who is offered a plan that goes on from a model.
Source: docs/registry.md, section 4.
"""

from collections.abc import Callable
from pathlib import Path

from fedveil_common import durable, modelfile
from fedveil_common.errors import IntegrityError, PeerError
from fedveil_common.limits import MAX_STATUS
from fedveil_common.pki.governance import Trust
from fedveil_common.plan import Plan
from fedveil_common.registry import status
from fedveil_common.registry.status import StatusList


class KeptStatus:
    """One home's list. Any thread."""

    def __init__(self, home: Path, trust: Callable[[], Trust]) -> None:
        """`trust`: the chain that is pinned now."""
        self._path = home / status.FILE
        self._trust = trust

    def document(self) -> bytes:
        """The file; empty if there is none yet. StorageError."""
        with durable.storing(self._path):
            if not self._path.exists():
                return b""
            with self._path.open("rb") as stream:
                return stream.read(MAX_STATUS + 1)

    def take(self, document: bytes) -> StatusList:
        """The list in `document`, kept durably if it is later than the one that is here.

        PeerError: those of `status.read` and `status.check_follows`; IntegrityError `kept_status_damaged` if what is
        kept cannot be read: nobody knows what may follow it. What is kept stays then.
        """
        trust, before = self._trust(), self.document()
        found = status.read(document, trust.fingerprint, [trust])
        if before:
            known = self._kept(before)
            status.check_follows(known, found)
            if known.place == found.place:
                return found
        durable.write_file(self._path, document)
        return found

    def check_first_model(self, plan: Plan) -> None:
        """Returns unless the plan goes on from a model that was withdrawn, or from one that descends from such a model.
        PolicyRefusal `model_withdrawn`.

        By what the plan says: the walk to the first model shows later that the sums of these runs lead to it.
        """
        document = self.document() if plan.continues else b""
        if not document:
            return
        status.check_first_model(self._kept(document), plan.earlier_runs, bytes.fromhex(plan.model.initial))

    def check_ancestry(self, model: bytes) -> None:
        """Returns unless the model file `model`, which was derived here, descends from a model that was withdrawn: then
        nobody here vouches for it. PolicyRefusal `model_withdrawn`; IntegrityError as `take`.
        """
        plan = modelfile.read_head(model[: modelfile.head_size(model)]).plan
        document = self.document() if plan.continues else b""
        if not document:
            return
        found = self._kept(document)
        gone = found.withdrawn_of(plan.earlier_runs)
        if gone:
            raise status.withdrawn(f"the model of run {gone[0]}, from which the one that was derived descends,", found)

    def _kept(self, before: bytes) -> StatusList:
        try:
            return status.contents(before)
        except PeerError as error:
            raise IntegrityError(
                "kept_status_damaged",
                f"the status list that is kept in {self._path} cannot be read: it was not the coordinator's doing",
                not_done="no later list was taken, and withdrawals since are not known here",
                next_step=f"look at the disk; then move {self._path} away, and the next list is taken as the first",
            ) from error
