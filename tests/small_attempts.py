"""One attempt of the pure participant machine, for few members and every figure: no driver, no network, no disk.

The members are `fedveil_participant.round.State` and are moved by its `step` alone; a test says what the coordinator
says. What a driver would compute is handed in: an update that is ready, and leaf hashes of a masked input.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from federation import RUN, body_of, plan_bytes, signed
from fedveil_common import plan as plans
from fedveil_common import transcript
from fedveil_common.crypto.labels import h
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking import ring
from fedveil_common.messages import (
    AbortCertificate,
    AbortNotice,
    AbortOrder,
    AbortRequest,
    AbortVote,
    AdvertMessage,
    BlobType,
    Body,
    Certificate,
    CoordinatorMessage,
    Header,
    KeySet,
    Manifest,
    Offer,
    ParticipantMessage,
    Proposal,
    ShareDelivery,
    ShareMsg,
    Shares,
    ShareSet,
    SignedBlob,
    Vote,
)
from fedveil_common.secret import Seed
from fedveil_coordinator import run as runs
from fedveil_participant import round
from fedveil_participant.checks import AcceptedPlan
from fedveil_participant.events import Action, Event, InputReady, Received, Send, UpdateReady
from fedveil_participant.stages import Encoding, Inputting, Stage
from fedveil_simulation.charter import Charter, make_charter

Orgs = tuple[OrgId, ...]

AT = 1.0
"""The instant of every event: time does not pass here."""

LEAF_HASHES = (b"\x11" * 32,)
"""What stands for a masked input that is durable on disk."""


def names(count: int) -> Orgs:
    """The members' names, sorted."""
    return tuple(OrgId(f"org-{index}") for index in range(1, count + 1))


def said(actions: Iterable[Action]) -> list[ParticipantMessage]:
    """What a step sends."""
    return [action.message for action in actions if isinstance(action, Send)]


@dataclass
class Attempt:
    """The members of one attempt, each where `states` has it."""

    charter: Charter
    offered: SignedBlob
    body: Manifest
    states: dict[OrgId, round.State]
    adverts: dict[OrgId, SignedBlob] = field(default_factory=dict)
    shares: dict[OrgId, dict[OrgId, SignedBlob]] = field(default_factory=dict)
    advertised: dict[OrgId, Stage] = field(default_factory=dict)
    signatures: dict[tuple[OrgId, Body], SignedBlob] = field(default_factory=dict)

    @property
    def orgs(self) -> Orgs:
        """The cohort."""
        return self.body.cohort

    @property
    def t0(self) -> bytes:
        return transcript.t0(self.offered.body)

    @property
    def t1(self) -> bytes:
        return transcript.t1(self.t0, {org: blob.body for org, blob in self.adverts.items()})

    def sign(self, org: OrgId, type: BlobType, body: Body) -> SignedBlob:
        """As `org` would sign it; signatures are deterministic, so each is made once."""
        if (org, body) not in self.signatures:
            self.signatures[org, body] = signed(self.charter, org, type, body)
        return self.signatures[org, body]

    def event(self, org: OrgId, message: CoordinatorMessage) -> Received:
        """The arrival of a message; the randomness of a step is one value for each member and kind of message."""
        return Received(message, AT, Seed(h("seed", org.encode(), type(message).__name__.encode())))

    def tell(self, org: OrgId, message: CoordinatorMessage) -> list[ParticipantMessage]:
        """Move one member by one message; what it sends."""
        return self.move(org, self.event(org, message))

    def move(self, org: OrgId, event: Event) -> list[ParticipantMessage]:
        """Move one member by one event; what it sends."""
        self.states[org], actions = round.step(self.states[org], event)
        return said(actions)

    # --- the honest course, up to the acks ----------------------------------------------------------------------------

    def advertise(self, orgs: Sequence[OrgId] | None = None) -> None:
        """M0, M1."""
        for org in orgs or self.orgs:
            self.tell(org, Offer(self.offered))
            ready = UpdateReady(self.body.key, self.body.model_hash, AT, Seed(h("advert", org.encode())))
            (message,) = self.move(org, ready)
            assert isinstance(message, AdvertMessage)
            self.adverts[org] = message.advert
            self.advertised[org] = self.states[org].stage

    def keyset(self) -> KeySet:
        """M2."""
        return KeySet(self.t0, tuple(blob for _, blob in sorted(self.adverts.items())))

    def deal(self, orgs: Sequence[OrgId] | None = None) -> None:
        """M2, M3."""
        for org in orgs or self.orgs:
            (message,) = self.tell(org, self.keyset())
            assert isinstance(message, Shares)
            for blob in message.shares:
                body = self.parsed_share(blob)
                self.shares.setdefault(org, {})[body.recipient] = blob

    def parsed_share(self, blob: SignedBlob) -> ShareMsg:
        """The body of a ShareMsg."""
        body = body_of(blob)
        assert isinstance(body, ShareMsg)
        return body

    def delivery(self, org: OrgId) -> ShareDelivery:
        """M4a."""
        return ShareDelivery(self.t1, tuple(self.shares[dealer][org] for dealer in self.orgs if dealer != org))

    def acknowledge(self) -> None:
        """M4a, M4b."""
        for org in self.orgs:
            self.tell(org, self.delivery(org))

    # --- what the coordinator may say afterwards ----------------------------------------------------------------------

    def share_set(self, dealers: Orgs) -> ShareSet:
        """M4."""
        return ShareSet(self.t1, dealers, ())

    def t2(self, dealers: Orgs) -> bytes:
        return transcript.t2(self.t1, dealers)

    def header(self, org: OrgId, dealers: Orgs) -> SignedBlob:
        """The header that `org` sends under these dealers: whatever the machine makes of it, this is the one there is.

        A corrupt member signs the same one, for it has nothing to gain from another.
        """
        leaves = transcript.leaf_root(LEAF_HASHES)
        bits, length = self.body.ring_bits, self.body.length
        body = Header(self.t2(dealers), org, length, bits, len(LEAF_HASHES), leaves, True, bytes(8))
        return self.sign(org, BlobType.HEADER, body)

    def proposal(self, dealers: Orgs, survivors: Orgs) -> Proposal:
        """M6."""
        return Proposal(self.t2(dealers), tuple(self.header(org, dealers) for org in survivors))

    def t3(self, dealers: Orgs, survivors: Orgs) -> bytes:
        return transcript.t3(self.t2(dealers), {org: self.header(org, dealers).body for org in survivors})

    def certificate(self, dealers: Orgs, survivors: Orgs, voters: Orgs) -> Certificate:
        """M8 with the votes of these members, whether they would cast them or not."""
        t3 = self.t3(dealers, survivors)
        return Certificate(t3, tuple(self.sign(org, BlobType.VOTE, Vote(t3)) for org in voters))

    def abort_notice(self, voters: Orgs) -> AbortNotice:
        """M8' with the abort votes of these members, whether they would cast them or not."""
        body = AbortVote(self.t0, self.body.key.attempt)
        return AbortNotice(AbortCertificate(self.t0, tuple(self.sign(org, BlobType.ABORT, body) for org in voters)))

    def abort_order(self) -> AbortOrder:
        """The coordinator's wish to end the attempt."""
        body = AbortRequest(self.t0, self.body.key.attempt, "test")
        return AbortOrder(self.sign(COORDINATOR, BlobType.ABORT_REQUEST, body))

    def masked(self, org: OrgId) -> list[ParticipantMessage]:
        """The masked input of a member that knows its dealers is durable now."""
        stage = self.states[org].stage
        assert isinstance(stage, Encoding)
        return self.move(org, InputReady(self.body.key, stage.t2, LEAF_HASHES, bytes(8), AT))

    def own_header(self, org: OrgId) -> SignedBlob:
        """The header that a member has made itself."""
        stage = self.states[org].stage
        assert isinstance(stage, Inputting)
        return stage.header


def begin(count: int, corrupt: int) -> Attempt:
    """`count` members that know of a run with `corrupt` corrupt members; nothing was offered yet."""
    orgs = names(count)
    canonical = plan_bytes(max_corrupt=corrupt, min_participants=corrupt + 2)
    charter = make_charter(orgs, 1)
    opened, _ = runs.open_run(RUN, canonical, runs.Office(charter.coordinator_key), charter.roster, (), 0.0)
    opened = replace(opened, connected=frozenset(orgs), answers=dict.fromkeys(orgs, ""))
    body = runs.manifest_of(opened, bytes(32))
    assert body.ring_bits == ring.smallest(count, body.value_bits)
    accepted = AcceptedPlan(plans.parse_canonical(canonical), plans.plan_hash(canonical), b"v" * 32)
    states = {
        org: round.State(org, charter.member_keys[org], charter.roster, plans={RUN: accepted})  # as after a PlanOffer
        for org in orgs
    }
    return Attempt(charter, signed(charter, COORDINATOR, BlobType.MANIFEST, body), body, states)


def acknowledged(count: int, corrupt: int) -> Attempt:
    """An attempt in which every member has dealt, opened and acknowledged its shares."""
    attempt = begin(count, corrupt)
    attempt.advertise()
    attempt.deal()
    attempt.acknowledge()
    return attempt
