"""A coordinator that is a puppet: it holds the coordinator's key and says whatever a test wants, to whom it wants.

The members are the production drivers with their journals. `reach` plays an attempt honestly up to a point; then a test
says the next thing honestly or as an attack, and looks at what one member did (`say` returns an `Outcome`).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import cast

import numpy as np
from federation import FIVE, RUN, body_of, federation, journal, plan_bytes, signed
from fedveil_common import transcript
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking import packing, ring
from fedveil_common.messages import (
    AbortCertificate,
    AbortMessage,
    AbortOrder,
    AbortRequest,
    AbortVote,
    AckMessage,
    AdvertMessage,
    BlobType,
    Certificate,
    CoordinatorHello,
    CoordinatorMessage,
    Header,
    KeySet,
    Manifest,
    Offer,
    ParticipantHello,
    ParticipantMessage,
    PlanOffer,
    Progress,
    Proposal,
    Receipt,
    ReceiptKind,
    Refusal,
    RevealMessage,
    ShareDelivery,
    ShareMsg,
    Shares,
    ShareSet,
    SignedBlob,
    VoteMessage,
)
from fedveil_coordinator import driver as coordinator
from fedveil_coordinator import run as runs
from fedveil_coordinator.intake import due
from fedveil_coordinator.ports import Outlet
from fedveil_simulation.charter import Charter
from fedveil_simulation.cluster import Cluster
from numpy.typing import NDArray

Blobs = Mapping[OrgId, SignedBlob]

HARMLESS = (Refusal, Progress)
"""What a member may say after it refused: neither holds a secret."""


class Puppet:
    """Stands where the coordinator's driver stands; keeps what members say and says nothing by itself."""

    def __init__(self, charter: Charter) -> None:
        self._charter = charter
        self.outlets: dict[OrgId, Outlet] = {}
        self.heard: list[tuple[OrgId, ParticipantMessage]] = []
        self.taken: dict[OrgId, list[SignedBlob]] = {}
        self.active = None

    def connected(self, org_id: OrgId, outlet: Outlet) -> None:
        self.outlets[org_id] = outlet

    def disconnected(self, org_id: OrgId, outlet: Outlet) -> None:
        if self.outlets.get(org_id) is outlet:
            del self.outlets[org_id]

    def received(self, org_id: OrgId, message: ParticipantMessage) -> None:
        if isinstance(message, ParticipantHello):
            self.outlets[org_id].send(CoordinatorHello("rogue", (1,), self._charter.roster.federation_id))
        else:
            self.heard.append((org_id, message))

    def expect_upload(self, org_id: OrgId, blob: SignedBlob) -> object:
        header = body_of(blob)
        assert isinstance(header, Header)
        return SimpleNamespace(attempt=SimpleNamespace(key=header.t2), due=due(header, None))

    def examine(self, org_id: OrgId, upload: object) -> None:
        """Masked inputs promise nothing but their leaves."""

    def input_complete(self, org_id: OrgId, blob: SignedBlob) -> Future[SignedBlob]:
        self.taken.setdefault(org_id, []).append(blob)
        done: Future[SignedBlob] = Future()
        done.set_result(
            signed(self._charter, COORDINATOR, BlobType.RECEIPT, Receipt(bytes(32), ReceiptKind.INPUT, bytes(32)))
        )
        return done

    def pump(self) -> bool:
        return False

    def next_deadline(self) -> None:
        return None


class RogueCluster(Cluster):
    """A cluster whose coordinator is a puppet."""

    def _new_coordinator(self) -> coordinator.Driver:
        return cast(coordinator.Driver, Puppet(self.charter))


@dataclass(frozen=True)
class Outcome:
    """What one member did about one message."""

    codes: tuple[str, ...]
    said: tuple[ParticipantMessage, ...]
    trail: tuple[str, ...]
    uploads: int
    stage_kept: bool

    def refused(self, code: str) -> None:
        """It refused with this code: nothing that carries a secret left, and no state moved."""
        assert self.codes == (code,), f"refused with {self.codes}, said {self.said}"
        assert all(isinstance(one, HARMLESS) for one in self.said), self.said
        assert (self.trail, self.uploads) == ((), 0)
        assert self.stage_kept

    def accepted(self, kind: str) -> None:
        """It went on: the trail shows the next step."""
        assert not self.codes, self.codes
        assert kind in self.trail, self.trail


class Rogue:
    """The puppet's hand: one attempt against honest members."""

    def __init__(self, names: Sequence[OrgId] = FIVE, *, plan: bytes | None = None, **settings: object) -> None:
        self.canonical = plan or plan_bytes(**settings)
        self.cluster = federation(names, plan=self.canonical, cls=RogueCluster)
        self.charter, self.names = self.cluster.charter, tuple(names)
        self.puppet = cast(Puppet, self.cluster.coordinator)
        for name in names:
            self.whisper(name, PlanOffer(RUN, self.canonical))
        self.cluster.settle()
        self.offered = self.manifest()

    # --- speaking -----------------------------------------------------------------------------------------------------

    def whisper(self, org: OrgId, message: CoordinatorMessage) -> None:
        """Send one message to one member; it arrives with the next `settle`."""
        self.puppet.outlets[org].send(message)

    def say(self, org: OrgId, message: CoordinatorMessage) -> Outcome:
        """Send one message to one member and see what it does."""
        memory = journal(self.cluster, org)
        notes, trail, heard, uploads = (
            len(memory.notes),
            len(memory.trail),
            len(self.puppet.heard),
            len(self.cluster.uploads),
        )
        stage = memory.stage
        self.whisper(org, message)
        self.cluster.settle()
        return Outcome(
            tuple(dict(facts)["code"] for _, facts in memory.notes[notes:]),
            tuple(said for name, said in self.puppet.heard[heard:] if name == org),
            tuple(kind for kind, _, _ in memory.trail[trail:]),
            len(self.cluster.uploads) - uploads,
            memory.stage == stage,
        )

    def said(self, org: OrgId, kind: type[ParticipantMessage]) -> list[ParticipantMessage]:
        """Everything of one kind that a member said, in order."""
        return [message for name, message in self.puppet.heard if name == org and isinstance(message, kind)]

    # --- the honest course --------------------------------------------------------------------------------------------

    def earlier(self, *attempts: int) -> tuple[AbortCertificate, ...]:
        """Certificates for attempts that this member never saw: only their number and names can be checked."""
        vote = signed(self.charter, FIVE[0], BlobType.ABORT, AbortVote(bytes(32), 1))
        return tuple(AbortCertificate(bytes([number]) * 32, (vote,)) for number in attempts)

    def manifest(self, **changes: object) -> SignedBlob:
        """M0 of round 1 as an honest coordinator makes it, with changes."""
        state, _ = runs.open_run(
            RUN, self.canonical, runs.Office(self.charter.coordinator_key), self.charter.roster, (), 0.0
        )
        state = replace(state, connected=frozenset(self.names), answers=dict.fromkeys(self.names, ""))
        made = runs.manifest_of(state, bytes(32))
        cohort = changes.get("cohort", made.cohort)
        assert isinstance(cohort, tuple)
        changes = {"ring_bits": ring.smallest(len(cohort), made.value_bits), **changes}
        return signed(self.charter, COORDINATOR, BlobType.MANIFEST, replace(made, **changes))  # type: ignore[arg-type]

    def again(self, blob: SignedBlob, **changes: object) -> SignedBlob:
        """A blob with a changed body, signed by its own signer: the attacker holds that key."""
        return signed(self.charter, blob.signer_id, blob.type, replace(body_of(blob), **changes))  # type: ignore[arg-type]

    @property
    def body(self) -> Manifest:
        """The manifest that was offered."""
        body = body_of(self.offered)
        assert isinstance(body, Manifest)
        return body

    @property
    def t0(self) -> bytes:
        return transcript.t0(self.offered.body)

    def advert(self, org: OrgId) -> SignedBlob:
        """The last advert a member sent."""
        message = self.said(org, AdvertMessage)[-1]
        assert isinstance(message, AdvertMessage)
        return message.advert

    def keyset(self, orgs: Sequence[OrgId] | None = None, replaced: Blobs = MappingProxyType({})) -> KeySet:
        """M2 over these members' adverts, some of them replaced."""
        return KeySet(self.t0, tuple(replaced.get(org) or self.advert(org) for org in sorted(orgs or self.names)))

    @property
    def t1(self) -> bytes:
        return transcript.t1(self.t0, {org: self.advert(org).body for org in self.names})

    def shares(self, dealer: OrgId) -> dict[OrgId, SignedBlob]:
        """What a member dealt, by recipient."""
        message = self.said(dealer, Shares)[-1]
        assert isinstance(message, Shares)
        found = {}
        for blob in message.shares:
            body = body_of(blob)
            assert isinstance(body, ShareMsg)
            found[body.recipient] = blob
        return found

    def delivery(self, org: OrgId, replaced: Blobs = MappingProxyType({})) -> ShareDelivery:
        """M4a to a member, some dealers' messages replaced."""
        dealers = [dealer for dealer in self.names if dealer != org]
        return ShareDelivery(
            transcript.t1(self.t0, {one: self.advert(one).body for one in self.names}),
            tuple(replaced.get(dealer) or self.shares(dealer)[org] for dealer in dealers),
        )

    def ack(self, org: OrgId) -> SignedBlob:
        message = self.said(org, AckMessage)[-1]
        assert isinstance(message, AckMessage)
        return message.ack

    def share_set(self, dealers: Sequence[OrgId] | None = None, openings: tuple[SignedBlob, ...] = ()) -> ShareSet:
        """M4."""
        return ShareSet(self.t1, tuple(sorted(dealers or self.names)), openings)

    @property
    def t2(self) -> bytes:
        return transcript.t2(self.t1, self.names)

    def header(self, org: OrgId) -> SignedBlob:
        return self.puppet.taken[org][-1]

    def proposal(self, orgs: Sequence[OrgId] | None = None, replaced: Blobs = MappingProxyType({})) -> Proposal:
        """M6 over these members' headers, some of them replaced."""
        return Proposal(self.t2, tuple(replaced.get(org) or self.header(org) for org in sorted(orgs or self.names)))

    def t3(self, orgs: Sequence[OrgId] | None = None) -> bytes:
        return transcript.t3(self.t2, {org: self.header(org).body for org in sorted(orgs or self.names)})

    def vote(self, org: OrgId) -> SignedBlob:
        message = self.said(org, VoteMessage)[-1]
        assert isinstance(message, VoteMessage)
        return message.vote

    def certificate(self, voters: Sequence[OrgId] | None = None, t3: bytes | None = None) -> Certificate:
        """M8 of these members' votes."""
        chosen = sorted(voters or self.names)[: self.body.quorum] if voters is None else sorted(voters)
        return Certificate(t3 or self.t3(), tuple(self.vote(org) for org in chosen))

    def abort_certificate(self, voters: Sequence[OrgId]) -> AbortCertificate:
        """Abort votes that these members really cast."""
        votes = [cast(AbortMessage, self.said(org, AbortMessage)[-1]).vote for org in sorted(voters)]
        return AbortCertificate(self.t0, tuple(votes))

    def abort_order(self) -> AbortOrder:
        """The coordinator's signed wish to end the attempt."""
        body = AbortRequest(self.t0, self.body.key.attempt, "test")
        return AbortOrder(signed(self.charter, COORDINATOR, BlobType.ABORT_REQUEST, body))

    def everyone(self, made: Callable[[OrgId], CoordinatorMessage], but: Sequence[OrgId] = ()) -> None:
        """The same step for every member but some."""
        for org in self.names:
            if org not in but:
                self.whisper(org, made(org))
        self.cluster.settle()

    def reach(self, stage: str, but: Sequence[OrgId] = ()) -> "Rogue":
        """Play honestly until every member but `but` has said `stage`; those were told nothing of that last step."""
        steps: dict[str, Callable[[OrgId], CoordinatorMessage]] = {
            "advert": lambda org: Offer(self.offered),
            "shares": lambda org: self.keyset(),
            "ack": self.delivery,
            "input": lambda org: self.share_set(),
            "vote": lambda org: self.proposal(),
            "reveal": lambda org: self.certificate(),
        }
        for name, made in steps.items():
            self.everyone(made, but if name == stage else ())
            if name == stage:
                break
        return self

    # --- what the attacker knows --------------------------------------------------------------------------------------

    def masked(self, org: OrgId) -> ring.Ring:
        """The masked input that a member uploaded."""
        (data,) = [data for name, _, data in self.cluster.uploads if name == org]
        return packing.unpack(data, self.body.length, self.body.ring_bits)

    def read(self, residues: ring.Ring) -> NDArray[np.int64]:
        """Residues as the signed integers of this attempt's ring."""
        return ring.signed(residues, self.body.ring_bits).astype(np.int64)

    def truth(self, org: OrgId) -> NDArray[np.int64]:
        """The member's quantised input before masking: from its own journal, to compare with."""
        (vector,) = journal(self.cluster, org).encoded.values()
        return vector

    def reveal(self, org: OrgId) -> SignedBlob:
        message = self.said(org, RevealMessage)[-1]
        assert isinstance(message, RevealMessage)
        return message.reveal
