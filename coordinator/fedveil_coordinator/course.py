"""The course of one step: facts recorded and actions asked for, in order, each fact applied as it is recorded."""

from collections.abc import Iterable
from dataclasses import replace

from fedveil_common import wire
from fedveil_common.crypto import signing
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.messages import AbortOrder, AbortRequest, BlobType, Body, CoordinatorMessage, SignedBlob
from fedveil_common.secret import PrivateKey

from fedveil_coordinator import facts
from fedveil_coordinator.attempt import Aborted, Aborting, Attempt, Certain, Dead, apply
from fedveil_coordinator.events import Action, Announce, Persist, Send


class Course:
    """The facts and actions of one step, in order; each fact is applied as it is recorded."""

    def __init__(self, attempt: Attempt, signing_key: PrivateKey) -> None:
        self.attempt = attempt
        self.actions: list[Action] = []
        self._signing_key = signing_key

    def record(self, fact: facts.Fact, at: float) -> None:
        """Apply a fact and ask for it to be journaled."""
        before = type(self.attempt.stage)
        self.attempt = apply(self.attempt, fact)
        if type(self.attempt.stage) is not before:
            self.attempt = replace(self.attempt, since=at)
        self.actions.append(Persist(fact))

    def exclude(self, org: OrgId, code: str, evidence: tuple[SignedBlob, ...], at: float) -> bool:
        """Blame a member, with the evidence. The first proof stays; False if there was one already."""
        if org in self.attempt.excluded:
            return False
        self.record(facts.Excluded(org, code, evidence), at)
        return True

    def act(self, *actions: Action) -> None:
        """Ask for something else."""
        self.actions.extend(actions)

    def send(self, members: Iterable[OrgId], message: CoordinatorMessage) -> None:
        """One message to several members."""
        self.actions.extend(Send(org, message) for org in members)

    def sign(self, type: BlobType, body: Body) -> SignedBlob:
        """The coordinator's signed blob over a body."""
        return signing.sign(self._signing_key, COORDINATOR, type, wire.encode_body(body))

    def abort_request(self, reason: str) -> SignedBlob:
        """The signed wish to end this attempt."""
        frame = self.attempt.frame
        return self.sign(BlobType.ABORT_REQUEST, AbortRequest(frame.t0, frame.key.attempt, reason))

    def begin_abort(self, reason: str, missing: tuple[OrgId, ...], at: float) -> None:
        """Ask everyone for an abort vote, unless a certificate exists: then nothing can prove that nobody revealed."""
        if isinstance(self.attempt.stage, Certain | Aborting | Aborted | Dead):
            return
        self.record(facts.AbortStarted(reason, missing), at)
        self.send(self.attempt.frame.manifest.cohort, AbortOrder(self.abort_request(reason)))
        self.act(Announce("aborting", (("reason", reason), ("missing", ",".join(missing)))))
