"""A census of a simulated run: how many messages of each type are sent, complaint and abort included.

Every packet is parsed from its bytes here once more, every signature in it is verified with the roster key of its
signer, and it is counted which side verified which signatures while the run was played.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import get_args

import pytest
from encrypted_federation import encrypted_federation, encrypted_plan
from federation import FIVE, RUN, parse, rebuilt, run
from fedveil_common import modelfile, wire
from fedveil_common.crypto import signing
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking.quorum import quorum
from fedveil_common.messages import (
    AbortCertificate,
    BlobType,
    Certificate,
    CoordinatorMessage,
    ParticipantMessage,
    ShareDelivery,
    SignedBlob,
    VoteMessage,
)
from fedveil_coordinator import acceptance
from fedveil_participant import checks
from fedveil_simulation.cluster import Cluster, Packet
from ledger import LedgerCluster, observed
from lies import addressed, unsigned

SUMS = 2
"""One round, and the sum that measures its model."""

Census = Counter[str]
Verified = Counter[tuple[str, BlobType]]


class Verifier:
    """Stands for the module `signing` on one side, and counts what that side verifies."""

    def __init__(self, side: str, verified: Verified) -> None:
        self._side, self._verified = side, verified

    def verify(self, blob: SignedBlob, public: bytes, expected: BlobType) -> None:
        signing.verify(blob, public, expected)
        self._verified[self._side, expected] += 1


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> Verified:
    """(side, type) -> how many signatures that side found right."""
    counted: Verified = Counter()
    monkeypatch.setattr(checks, "signing", Verifier("participant", counted))
    monkeypatch.setattr(acceptance, "signing", Verifier("coordinator", counted))
    return counted


def blobs(value: object) -> Iterator[SignedBlob]:
    """Every signed blob in a message."""
    if isinstance(value, SignedBlob):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from blobs(one)
    elif isinstance(value, (*get_args(CoordinatorMessage), *get_args(ParticipantMessage), AbortCertificate)):
        for one in fields(value):
            yield from blobs(getattr(value, one.name))


def verify(cluster: Cluster, blob: SignedBlob) -> None:
    """With the key that the roster gives its signer."""
    roster = cluster.charter.roster
    key = roster.coordinator_key if blob.signer_id == COORDINATOR else roster.key_of(blob.signer_id)
    signing.verify(blob, key, blob.type)


def census(cluster: Cluster) -> Census:
    """Messages by type, each read from its bytes, each signature verified; uploads stand by the type of their body."""
    counted: Census = Counter()
    for packet in cluster.sent:
        message = parse(packet)
        assert rebuilt(packet, message) == packet, "what was parsed has one encoding"
        for blob in blobs(message):
            verify(cluster, blob)
        counted[type(message).__name__] += 1
    for _, header, _ in cluster.uploads:
        blob = wire.parse_blob(header)
        verify(cluster, blob)
        counted[type(wire.parse_body(blob.type, blob.body)).__name__] += 1
    return counted


def played(count: int, cluster: LedgerCluster | None = None) -> LedgerCluster:
    """A run to its end, its sums checked."""
    cluster = cluster or observed(count)
    assert cluster.end(4_000.0) == "finished"
    cluster.ledger.check()
    return cluster


def expected(count: int, sums: int = SUMS) -> Census:
    """An undisturbed run: every member says each thing once a sum, and is told each thing once."""
    session = ("ParticipantHello", "CoordinatorHello", "RosterNotice", "PlanOffer", "PlanAnswer", "RunEnded")
    inward = ("AdvertMessage", "Shares", "AckMessage", "Header", "VoteMessage", "RevealMessage")
    outward = ("Offer", "KeySet", "ShareDelivery", "ShareSet", "Proposal", "Certificate", "ReceiptNotice")
    once = dict.fromkeys((*session, "SignedBlob", "RunEndedAck"), count)  # the blob: of the final model
    return Counter({**once, **dict.fromkeys((*inward, *outward, "ResultNotice"), count * sums)})


@pytest.mark.parametrize("count", [3, 4, 5])
def test_an_undisturbed_run(count: int, verified: Verified) -> None:
    cluster = played(count)
    assert census(cluster) == expected(count)
    each = count * SUMS
    q = quorum(count, 1)
    assert verified == Counter(
        {
            ("coordinator", BlobType.ADVERT): each,
            ("coordinator", BlobType.SHARE): each * (count - 1),
            ("coordinator", BlobType.SHARE_ACK): each,
            ("coordinator", BlobType.HEADER): 2 * each,  # before the leaves are read, and when all are there
            ("coordinator", BlobType.VOTE): each,
            ("coordinator", BlobType.REVEAL): each,
            ("participant", BlobType.MANIFEST): each + count,  # again with the sum that each walks over
            ("participant", BlobType.ADVERT): each * count,
            ("participant", BlobType.SHARE): each * (count - 1),
            ("participant", BlobType.HEADER): each * count,
            ("participant", BlobType.VOTE): each * q,
            ("participant", BlobType.RESULT): each + count,
            ("participant", BlobType.MODEL): count,
        }
    )
    models = {member.memory.ends[RUN][2] for member in cluster.members.values()}
    assert len(models) == 1
    modelfile.verify_model(modelfile.read_model(models.pop()), cluster.charter.roster.coordinator_key)


def encrypted_run() -> Cluster:
    """An undisturbed run of three under paillier, two of whom open its sums."""
    cluster = encrypted_federation(threshold=2)
    assert run(cluster, encrypted_plan()) == "finished"
    return cluster


def test_an_undisturbed_run_under_paillier(verified: Verified) -> None:
    """No shares, no acknowledgements, no reveals: ciphertexts, and the answers of a quorum of holders."""
    session = ("ParticipantHello", "CoordinatorHello", "RosterNotice", "PlanOffer", "PlanAnswer", "RunEnded")
    inward, outward = ("AdvertMessage", "CipherHeader", "VoteMessage"), ("Offer", "KeySet", "Proposal", "Certificate")
    once = dict.fromkeys((*session, "SignedBlob", "RunEndedAck"), 3)
    each = dict.fromkeys((*inward, *outward, "ResultNotice"), 3 * SUMS)
    quorum_ = dict.fromkeys(("QuorumCall", "Partial"), 2 * SUMS)
    assert census(encrypted_run()) == Counter({**once, **each, **quorum_})
    assert verified["coordinator", BlobType.KEY_ADVERT] == 3 * SUMS
    assert verified["coordinator", BlobType.CIPHER_HEADER] == 2 * 3 * SUMS
    assert verified["coordinator", BlobType.PARTIAL] == 2 * 2 * SUMS
    assert verified["participant", BlobType.KEY_ADVERT] == verified["participant", BlobType.CIPHER_HEADER] == 9 * SUMS


def test_a_complaint(verified: Verified) -> None:
    """One request and one answer more; the recipient, the dealer and the coordinator verify what they say."""
    cluster, once = observed(3), []

    def damage(packet: Packet) -> Iterable[Packet]:
        message = parse(packet)
        if packet.org_id == FIVE[1] and isinstance(message, ShareDelivery) and not once:
            once.append(packet)
            return [rebuilt(packet, ShareDelivery(message.t1, (*unsigned(message.shares[0]), *message.shares[1:])))]
        return [packet]

    cluster.route = damage
    played(3, cluster)
    assert census(cluster) == expected(3) + Counter({"OpeningRequest": 1, "Openings": 1})
    assert verified["participant", BlobType.SHARE_ACK] == 1
    assert verified["coordinator", BlobType.SHARE_OPENING] == 1
    assert verified["participant", BlobType.SHARE_OPENING] == 1
    assert verified["participant", BlobType.SHARE] == SUMS * 3 * 2 - 1


def lost_before_its_input(org: OrgId) -> LedgerCluster:
    """A run whose first attempt is aborted: a member of three is lost once it has acknowledged, and comes back."""
    cluster = observed(3)
    while (org, "ack") not in cluster.ledger.kinds:
        assert cluster._once()
    cluster.kill_member(org)
    while not any(kind == "AbortCertified" for kind, _ in cluster.memory.facts(RUN)):
        assert cluster._once() or cluster.pass_time()
    cluster.start_member(org)
    return cluster


def test_an_abort(verified: Verified) -> None:
    """Two votes end the first attempt; the second is an undisturbed run, and its manifest carries the certificate."""
    cluster = played(3, lost_before_its_input(FIVE[2]))
    counted = census(cluster)
    assert (counted["AbortOrder"], counted["AbortMessage"], counted["AbortNotice"]) == (2, 2, 2)
    assert verified["participant", BlobType.ABORT_REQUEST] == 2
    assert verified["coordinator", BlobType.ABORT] == 2
    assert verified["participant", BlobType.ABORT] == 3 * 2, "two in a notice, the one that was away in the next offer"
    for name, more in {"Offer": 3, "KeySet": 3, "Shares": 3, "ShareDelivery": 3, "ShareSet": 2}.items():
        assert counted[name] == expected(3)[name] + more
    for name in ("Header", "Proposal", "VoteMessage", "Certificate", "RevealMessage", "ResultNotice"):
        assert counted[name] == expected(3)[name]


def test_every_type_was_counted() -> None:
    """Nothing travels that is not in one of these runs: beside the others only a refusal, and signs of life; and the
    status list of a coordinator with a registry (`test_registry`).
    """
    seen: set[str] = set(expected(3)) | {"OpeningRequest", "Openings"}
    seen |= set(census(played(3, lost_before_its_input(FIVE[2]))))
    cluster = observed(3)
    while (FIVE[0], "vote") not in cluster.ledger.kinds:
        assert cluster._once()
    (vote,) = [one.vote for packet in cluster.sent if isinstance(one := parse(packet), VoteMessage)]
    message = Certificate(bytes(32), (vote,))
    for packet in addressed(cluster, Packet(FIVE[0], 0, True, wire.encode_coordinator(message)), FIVE[0]):
        cluster.inject(packet)
    seen |= set(census(played(3, cluster))) | set(census(encrypted_run()))
    types = (*get_args(CoordinatorMessage), *get_args(ParticipantMessage))
    assert seen - {"Header", "CipherHeader", "Partial"} == {kind.__name__ for kind in types} - {"StatusNotice"}
