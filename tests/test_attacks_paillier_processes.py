"""The heaviest attacks on rounds under paillier against holders that are real processes: `fedveil participate`.

Three holders run, each with its own home, pin and seeds; the coordinator is malicious, holds the coordinator's key and
everything that the other two members could sign, and tells each holder a story of its own. All answers that come over
mutual TLS are looked at: nothing leaves a holder but its refusal.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import gmpy2
import key_homes
import pytest
from encrypted_federation import KEY_ID, wide_plan
from enrolment_office import Clock, Entropy
from federation import RUN, body_of, table
from fedveil_common import plan as plans
from fedveil_common import transcript
from fedveil_common.crypto import signing
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.messages import (
    AbortCertificate,
    AbortMessage,
    AbortOrder,
    AbortRequest,
    AbortVote,
    AdvertMessage,
    BlobType,
    Certificate,
    CipherHeader,
    KeyAdvert,
    KeySet,
    Manifest,
    Offer,
    Partial,
    PlanAnswer,
    PlanOffer,
    Proposal,
    QuorumCall,
    Refusal,
    RosterNotice,
    SignedBlob,
    Vote,
    VoteMessage,
)
from fedveil_common.paillier.block_leaves import BlockLeaf, read_block
from fedveil_common.paillier.encoding import integer
from fedveil_common.paillier.key_use import use_of
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import shape_in_use
from fedveil_common.ports import NoFailpoints
from fedveil_common.secret import PrivateKey
from fedveil_common.succession import roster_in_force
from fedveil_common.wire import encode_body
from fedveil_coordinator import founding
from fedveil_coordinator import run as runs
from fedveil_coordinator.store import open_store as open_coordinator
from fedveil_participant import key_pins
from fedveil_participant.key_seat import Seat, save_key
from fedveil_participant.store import journal_key, open_store
from fedveil_simulation.key_book import make_key
from fedveil_simulation.ports import SeededEntropy
from key_homes import ORGS
from paillier_forge import Forge, Input, Served, numbers, product_of, proof_of
from processes import House, house
from rogue_server import RogueDriver, listening

PLAN = wide_plan()
ACME, BOREALIS, CYGNUS = (OrgId(name) for name in ORGS)
MEMBERS = (ACME, BOREALIS, CYGNUS)


class Scene:
    """Homes with a key, the rogue coordinator, and the holders' processes."""

    def __init__(self, made: House) -> None:
        folder = self.folder = made.folder
        key_homes.found(folder)
        federation = self.federation = founding.load_federation(folder / "operator")
        store = open_coordinator(folder / "operator", Clock())
        newest = store.records.latest_roster()
        store.close()
        assert newest is not None
        self.roster = roster_in_force(newest[1], federation.trust)
        self.private: dict[OrgId, PrivateKey] = {}
        for org in MEMBERS:
            kept = open_store(folder / org, journal_key(folder / org, None), Clock(), Entropy(5))
            self.private[org] = kept.protocol_key()
            kept.close()
        # one column: three blocks, so that holders check lifts
        book = make_key(federation.federation_id, self.private, 2, 1, 1, KEY_ID)
        self.key: PublicKey = book.key
        for org in MEMBERS:
            files = key_homes.files_of(folder / org)
            key_pins.pin(files, book.terms, book.held[org].record)
            save_key(Seat(files, self.private[org], Entropy(8), NoFailpoints()), book.terms, book.held[org], ())
        office = federation.protocol_key()
        notice = RosterNotice(newest[1], federation.trust_chain)
        self.driver = RogueDriver(office, notice, federation.federation_id, frozenset(MEMBERS))
        self.office = runs.Office(office)

    def sign(self, org: OrgId, type: BlobType, body: object) -> SignedBlob:
        return signing.sign(self.private[org], org, type, encode_body(body))  # type: ignore[arg-type]

    def start(self, made: House) -> None:
        for index, org in enumerate(MEMBERS):
            path = self.folder / f"{org}.csv"
            path.write_bytes(table(index)["table"])
            accepted = plans.plan_hash(PLAN).hex()
            made.start(org, "participate", "--data", f"table={path}", "--accept", accepted, home=org)
        self.driver.wait_for(*MEMBERS)
        for org in MEMBERS:
            self.driver.say(org, PlanOffer(RUN, PLAN))
        assert {self.driver.next(org, PlanAnswer).code for org in MEMBERS} == {""}


class Story:
    """One attempt as one holder is told it: the others say what the coordinator wants."""

    def __init__(self, scene: Scene, holder: OrgId, attempt: int = 1, *earlier: AbortCertificate) -> None:
        self.scene, self.driver, self.holder, self.key = scene, scene.driver, holder, scene.key
        self.others = tuple(org for org in MEMBERS if org != holder)
        state, _ = runs.open_run(RUN, PLAN, scene.office, scene.roster, (), 0.0, (use_of(scene.key),))
        state = replace(state, connected=frozenset(MEMBERS), answers=dict.fromkeys(MEMBERS, ""))
        plain = runs.manifest_of(state, bytes([attempt]) * 32)
        self.manifest: Manifest = replace(plain, key=AttemptKey(RUN, 1, attempt), abort_certificates=tuple(earlier))
        self.offer = self.driver.sign(BlobType.MANIFEST, self.manifest)
        self.t0 = transcript.t0(self.offer.body)
        self.driver.shape = self.shape = shape_in_use(use_of(scene.key), self.manifest)
        self.sent: dict[OrgId, list[BlockLeaf]] = {}
        self.headers: dict[OrgId, SignedBlob] = {}
        self.entropy = SeededEntropy(3, f"{holder}/{attempt}")
        self._begin()

    def _begin(self) -> None:
        """Until the holder's input has come."""
        adverts, uploads = len(self.driver.heard(self.holder, AdvertMessage)), len(self._uploads())
        self.driver.say(self.holder, Offer(self.offer))
        mine = self.driver.next(self.holder, AdvertMessage, adverts).advert
        fingerprint = self.key.fingerprint
        made = [self.scene.sign(org, BlobType.KEY_ADVERT, KeyAdvert(self.t0, org, fingerprint)) for org in self.others]
        told = sorted([mine, *made], key=lambda blob: blob.signer_id)
        t1 = transcript.t1(self.t0, {blob.signer_id: blob.body for blob in told})
        self.t2 = transcript.t2(t1, MEMBERS)
        self.driver.say(self.holder, KeySet(self.t0, tuple(told)))
        self.headers[self.holder] = self.driver.next(self.holder, SignedBlob, uploads)
        kept = self.driver.memory.inputs[self.t2, self.holder]  # type: ignore[index]
        self.sent[self.holder] = [read_block(kept.packed(index), self.shape) for index in range(kept.leaves)]

    def _uploads(self) -> list[SignedBlob]:
        return self.driver.heard(self.holder, SignedBlob)

    def forge(self, org: OrgId) -> Forge:
        return Forge(self.key, self.shape, self.manifest, self.t0, self.t2, org, self.entropy)

    def put(self, org: OrgId, made: Input) -> None:
        self.sent[org] = made.blocks
        self.headers[org] = self.scene.sign(org, BlobType.CIPHER_HEADER, made.header)

    @property
    def t3(self) -> bytes:
        return transcript.t3(self.t2, {org: blob.body for org, blob in self.headers.items()})

    def proposal(self) -> Proposal:
        return Proposal(self.t2, tuple(self.headers[org] for org in MEMBERS))

    def certify(self) -> None:
        votes = len(self.driver.heard(self.holder, VoteMessage))
        self.driver.say(self.holder, self.proposal())
        mine = self.driver.next(self.holder, VoteMessage, votes).vote
        made = {org: self.scene.sign(org, BlobType.VOTE, Vote(self.t3)) for org in self.others}
        self.driver.say(self.holder, Certificate(self.t3, tuple({**made, self.holder: mine}[org] for org in MEMBERS)))

    def served(self) -> Served:
        told = [one for org in MEMBERS for one in numbers(self.shape, org, [block.header for block in self.sent[org]])]
        return told + numbers(self.shape, "", [block.lift for block in self.product()])

    def product(self, orgs: Sequence[OrgId] = MEMBERS) -> list[BlockLeaf]:
        return product_of(self.key, [self.sent[org] for org in orgs])

    def call(self, serve: Served) -> str:
        """The holder is called: the code with which it refuses; nothing else has left it."""
        refused, uploads = len(self.driver.heard(self.holder, Refusal)), len(self._uploads())
        self.driver.serve[self.holder] = serve
        index = MEMBERS.index(self.holder)
        quorum = (0, 1) if index < 2 else (0, 2)
        self.driver.say(self.holder, QuorumCall(self.t3, quorum, ()))
        code = self.driver.next(self.holder, Refusal, refused).code
        assert len(self._uploads()) == uploads
        return code

    def answered(self) -> Partial:
        """The same with what is right: the holder answers."""
        uploads = len(self._uploads())
        self.driver.serve[self.holder] = self.served()
        self.driver.say(self.holder, QuorumCall(self.t3, (0, 1), ()))
        body = body_of(self.driver.next(self.holder, SignedBlob, uploads))
        assert isinstance(body, Partial)
        return body


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with house(tmp_path_factory.mktemp("rogue")) as made:
        scene = Scene(made)
        with listening(scene.federation, scene.driver):
            scene.start(made)
            yield scene
        for org in MEMBERS:
            assert made.running[org].poll() is None, made.err(org)


def test_crafted_headers_substituted_ones_wrong_lifts_and_a_second_set(scene: Scene) -> None:
    """One attempt, one process: each is refused by its own check; then the true product is answered, and no other."""
    story = Story(scene, ACME)
    for org in story.others:
        story.put(org, story.forge(org).make())
    story.certify()
    first = story.t3
    honest, group, shape = story.served(), story.key.group, story.shape
    poisoned = integer(story.sent[CYGNUS][0].header * group.one_plus(1 << 1000) % group.cipher, shape.long_bytes)
    crafted = [(who, block, poisoned if (who, block) == (CYGNUS, 0) else data) for who, block, data in honest]
    assert story.call(crafted) == "bad_headers"
    swapped = {BOREALIS: CYGNUS, CYGNUS: BOREALIS}
    assert story.call([(swapped.get(who, who), block, data) for who, block, data in honest]) == "headers_differ"  # type: ignore[call-overload]
    headers = [one for one in honest if one[0]]
    lifts = [one.lift for one in story.product()]
    wrong = [
        [lifts[0] * group.one_plus(1) % group.cipher, *lifts[1:]],
        [group.one_plus(1)] * 3,
        [one.lift for one in story.sent[ACME]],
        [one.lift for one in story.product([ACME, BOREALIS])],
    ]
    for lie in wrong:
        assert story.call(headers + numbers(shape, "", lie)) == "bad_lift"
    assert story.answered().t3 == first
    story.put(CYGNUS, story.forge(CYGNUS).make())
    assert story.t3 != first
    assert story.call(story.served()) == "wrong_transcript"


def test_an_old_input_in_a_new_attempt(scene: Scene) -> None:
    """What the holder itself sent in an attempt that was aborted comes back as another member's input."""
    before = Story(scene, BOREALIS)
    order = AbortRequest(before.t0, 1, "test")
    scene.driver.say(BOREALIS, AbortOrder(scene.driver.sign(BlobType.ABORT_REQUEST, order)))
    mine = scene.driver.next(BOREALIS, AbortMessage).vote
    theirs = scene.sign(CYGNUS, BlobType.ABORT, AbortVote(before.t0, 1))
    story = Story(scene, BOREALIS, 2, AbortCertificate(before.t0, (mine, theirs)))
    old = body_of(before.headers[BOREALIS])
    assert isinstance(old, CipherHeader)
    story.put(ACME, story.forge(ACME).make())
    story.put(CYGNUS, story.forge(CYGNUS).claim(before.sent[BOREALIS], proof_of(old)))
    story.certify()
    assert story.call(story.served()) == "bad_input_proof"


def test_a_cancelling_header(scene: Scene) -> None:
    """The sum would be the holder's own update alone."""
    story = Story(scene, CYGNUS)
    story.put(ACME, story.forge(ACME).make())
    forge = story.forge(BOREALIS)
    story.put(BOREALIS, forge.make(forge.inverse([story.sent[ACME]])))
    story.certify()
    assert story.call(story.served()) == "bad_input_proof"
    assert gmpy2.gcd(story.product()[0].header, story.key.group.n) == 1
