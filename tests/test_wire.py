"""The door: every message survives the wire, every table matches its dataclass and protobuf, no bytes get past it."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from fedveil.v1 import rounds_pb2 as pb
from fedveil_common import limits, wire
from fedveil_common import messages as m
from fedveil_common.errors import PeerError
from fedveil_common.ids import AttemptKey, FederationId, OrgId, RunId
from fedveil_common.wire import MalformedError, tables
from hypothesis import given
from hypothesis import strategies as st

hashes = st.binary(min_size=32, max_size=32)
hash_or_none = st.one_of(st.just(b""), hashes)
names = st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True).map(OrgId)
codes = st.from_regex(r"[a-z0-9_]{1,64}", fullmatch=True)
name_lists = st.lists(names, max_size=5, unique=True).map(sorted).map(tuple)
some_names = st.lists(names, min_size=1, max_size=5, unique=True).map(sorted).map(tuple)
positive = st.floats(min_value=1e-6, max_value=1e12)
words = st.text("abc./-0123", min_size=1, max_size=64)
protocols = st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(sorted).map(tuple)
keys = st.builds(AttemptKey, names.map(RunId), st.integers(1, limits.MAX_ROUND), st.integers(1, limits.MAX_ATTEMPTS))
blobs = st.builds(
    m.SignedBlob,
    names,
    st.sampled_from(m.BlobType),
    st.binary(min_size=1, max_size=80),
    st.binary(min_size=64, max_size=64),
)
sorted_blobs = st.lists(blobs, max_size=4, unique_by=lambda blob: blob.signer_id).map(
    lambda found: tuple(sorted(found, key=lambda blob: blob.signer_id))
)
some_blobs = sorted_blobs.filter(bool)
blob_lists = st.lists(blobs, min_size=1, max_size=4).map(tuple)
refs = st.builds(m.SumRef, names.map(RunId), st.integers(1, limits.MAX_ROUND), hashes)
at_most_one = st.lists(refs, max_size=1).map(tuple)
certificates = st.builds(m.AbortCertificate, hashes, blob_lists)
share = st.binary(min_size=33, max_size=33)
revealed = st.lists(st.tuples(names, share), max_size=4, unique_by=lambda pair: pair[0]).map(sorted).map(tuple)
members = st.integers(0, limits.MAX_MEMBERS)
lengths = st.integers(1, limits.MAX_LENGTH)

widths = st.integers(1, limits.MAX_WIDTH)
block_counts = st.integers(1, limits.MAX_LEAVES)
numbers = st.binary(min_size=1, max_size=60)
quorums = st.lists(st.integers(0, 11), min_size=2, max_size=12, unique=True).map(sorted).map(tuple)
encryptions = st.builds(m.Encryption, names, st.integers(0, 2**32 - 1), hashes, hash_or_none, st.integers(0, 2**48))

BODIES: dict[m.BlobType, st.SearchStrategy[Any]] = {
    m.BlobType.MANIFEST: st.builds(
        m.Manifest,
        federation_id=names.map(FederationId),
        key=keys,
        purpose=st.sampled_from(m.Purpose),
        protection=st.sampled_from(["masked", "paillier"]),
        plan_hash=hashes,
        previous_manifest_hash=hash_or_none,
        roster_version=st.integers(1, 2**32 - 1),
        roster_hash=hashes,
        cohort=some_names,
        corrupt=members,
        quorum=members,
        threshold=members,
        min_survivors=members,
        graph=st.sampled_from(["complete", "none"]),
        length=lengths,
        ring_bits=st.integers(8, 64),
        value_bits=st.integers(2, 32),
        update_norm=positive,
        leaf_coordinates=st.just(16_384),
        prg=st.sampled_from(["AES256CTR", "none"]),
        noise=st.just("none"),
        layout_hash=hashes,
        dataset=names,
        model_hash=hash_or_none,
        query_digest=hash_or_none,
        step=st.integers(0, 2**31),
        standardise=at_most_one,
        previous=at_most_one,
        progress_s=positive,
        hard_limit_s=positive,
        nonce=hashes,
        abort_certificates=st.lists(certificates, max_size=2).map(tuple),
        encryption=st.lists(encryptions, max_size=1).map(tuple),
    ),
    m.BlobType.ADVERT: st.builds(m.Advert, hashes, names, hashes, hashes, hashes, hashes, hashes),
    m.BlobType.SHARE: st.builds(
        m.ShareMsg,
        hashes,
        names,
        names,
        hashes,
        hashes,
        st.binary(min_size=12, max_size=12),
        st.binary(min_size=limits.SHARE_CIPHERTEXT, max_size=limits.SHARE_CIPHERTEXT),
    ),
    m.BlobType.SHARE_ACK: st.builds(m.ShareAck, hashes, names, name_lists),
    m.BlobType.SHARE_OPENING: st.builds(m.ShareOpening, hashes, names, names, share, share),
    m.BlobType.HEADER: st.builds(
        m.Header,
        hashes,
        names,
        lengths,
        st.integers(8, 64),
        st.integers(1, limits.MAX_LEAVES),
        hashes,
        st.booleans(),
        st.sampled_from([b"", bytes(8)]),
    ),
    m.BlobType.VOTE: st.builds(m.Vote, hashes),
    m.BlobType.ABORT: st.builds(m.AbortVote, hashes, st.integers(1, limits.MAX_ATTEMPTS)),
    m.BlobType.ABORT_REQUEST: st.builds(m.AbortRequest, hashes, st.integers(1, limits.MAX_ATTEMPTS), codes),
    m.BlobType.REVEAL: st.builds(m.Reveal, hashes, hash_or_none, revealed, revealed),
    m.BlobType.RESULT: st.builds(
        m.Result,
        hashes,
        st.integers(1, limits.MAX_MEMBERS),
        lengths,
        hashes,
        st.sampled_from([b"", bytes(8)]),
        st.floats(min_value=0.0, max_value=1e9).map(abs),
        hash_or_none,
    ),
    m.BlobType.RECEIPT: st.builds(m.Receipt, hashes, st.sampled_from(m.ReceiptKind), hashes),
    m.BlobType.KEY_ADVERT: st.builds(m.KeyAdvert, hashes, names, hashes),
    m.BlobType.CIPHER_HEADER: st.builds(
        m.CipherHeader,
        *(hashes, names, hashes, lengths, block_counts, widths),
        *(hashes, hashes, numbers, numbers, numbers, hashes),
    ),
    m.BlobType.PARTIAL: st.builds(m.Partial, hashes, names, quorums, numbers, numbers, numbers, hashes),
    m.BlobType.NOISE: st.builds(
        m.Noise, hashes, hashes, block_counts, widths, hashes, hashes, numbers, numbers, numbers, hashes
    ),
}

OUTWARD: dict[type[Any], st.SearchStrategy[Any]] = {
    m.CoordinatorHello: st.builds(m.CoordinatorHello, words, protocols, names.map(FederationId)),
    m.RosterNotice: st.builds(m.RosterNotice, st.binary(min_size=1, max_size=50), st.binary(min_size=1, max_size=50)),
    m.PlanOffer: st.builds(m.PlanOffer, names.map(RunId), st.binary(min_size=1, max_size=50)),
    m.Offer: st.builds(m.Offer, blobs),
    m.KeySet: st.builds(m.KeySet, hashes, some_blobs),
    m.ShareDelivery: st.builds(m.ShareDelivery, hashes, sorted_blobs),
    m.OpeningRequest: st.builds(m.OpeningRequest, hashes, some_blobs),
    m.ShareSet: st.builds(m.ShareSet, hashes, some_names, sorted_blobs),
    m.Proposal: st.builds(m.Proposal, hashes, some_blobs),
    m.Certificate: st.builds(m.Certificate, hashes, blob_lists),
    m.QuorumCall: st.builds(m.QuorumCall, hashes, quorums, st.lists(blobs, max_size=1).map(tuple)),
    m.AbortOrder: st.builds(m.AbortOrder, blobs),
    m.AbortNotice: st.builds(m.AbortNotice, certificates),
    m.ResultNotice: st.builds(m.ResultNotice, keys, blobs),
    m.ReceiptNotice: st.builds(m.ReceiptNotice, blobs),
    m.RunEnded: st.builds(
        m.RunEnded, names.map(RunId), hashes, codes, at_most_one, st.lists(blobs, max_size=1).map(tuple)
    ),
    m.StatusNotice: st.builds(m.StatusNotice, st.binary(min_size=1, max_size=50)),
}

INWARD: dict[type[Any], st.SearchStrategy[Any]] = {
    m.ParticipantHello: st.builds(m.ParticipantHello, words, protocols),
    m.PlanAnswer: st.builds(m.PlanAnswer, hashes, st.booleans(), st.one_of(st.just(""), codes)),
    m.Progress: st.builds(m.Progress, keys, st.sampled_from(m.Phase)),
    m.AdvertMessage: st.builds(m.AdvertMessage, blobs),
    m.Shares: st.builds(m.Shares, hashes, blob_lists),
    m.AckMessage: st.builds(m.AckMessage, blobs),
    m.Openings: st.builds(m.Openings, hashes, blob_lists),
    m.VoteMessage: st.builds(m.VoteMessage, blobs),
    m.AbortMessage: st.builds(m.AbortMessage, blobs),
    m.RevealMessage: st.builds(m.RevealMessage, blobs),
    m.Refusal: st.builds(m.Refusal, keys, codes),
    m.RunEndedAck: st.builds(m.RunEndedAck, names.map(RunId)),
    m.SignedBlob: blobs,
}


@given(st.sampled_from(sorted(BODIES)).flatmap(lambda kind: st.tuples(st.just(kind), BODIES[kind])))
def test_every_body_survives_the_wire(pair: tuple[m.BlobType, Any]) -> None:
    kind, body = pair
    assert wire.parse_body(kind, wire.encode_body(body)) == body


@given(blobs)
def test_every_blob_survives_the_wire(blob: m.SignedBlob) -> None:
    assert wire.parse_blob(wire.encode_blob(blob)) == blob


@given(st.one_of(*OUTWARD.values()))
def test_every_message_of_the_coordinator_survives_the_wire(message: Any) -> None:
    assert wire.parse_coordinator(wire.encode_coordinator(message)) == message


@given(st.one_of(*INWARD.values()))
def test_every_message_of_a_participant_survives_the_wire(message: Any) -> None:
    assert wire.parse_participant(wire.encode_participant(message)) == message


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_malformed_error(data: bytes) -> None:
    for parse in (wire.parse_blob, wire.parse_coordinator, wire.parse_participant):
        with contextlib.suppress(MalformedError):
            parse(data)
    for kind in m.BlobType:
        with contextlib.suppress(MalformedError):
            wire.parse_body(kind, data)


def test_a_malformed_error_is_a_peer_error_of_that_code() -> None:
    with pytest.raises(PeerError) as caught:
        wire.parse_participant(b"\xff")
    assert caught.value.code == "malformed"


@given(st.one_of(*OUTWARD.values()), st.data())
def test_a_mutated_message_is_refused_or_means_exactly_what_its_bytes_say(message: Any, data: st.DataObject) -> None:
    good = bytearray(wire.encode_coordinator(message))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    try:
        parsed = wire.parse_coordinator(bytes(good))
    except MalformedError:
        return
    assert wire.encode_coordinator(parsed) == bytes(good)


def unknown_field() -> bytes:
    """Field number 4000, varint 1."""
    return bytes([0x80, 0xFA, 0x01, 0x01])


def vote() -> m.Vote:
    return m.Vote(bytes(range(32)))


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (wire.encode_body(vote()) + unknown_field(), "vote"),
        (wire.encode_body(vote()) * 2, "vote"),
        (b"", "vote.t3"),
        (pb.Vote(t3=b"short").SerializeToString(), "vote.t3"),
        (b"\x0a", "vote"),
    ],
    ids=["unknown field", "twice", "missing", "short", "cut"],
)
def test_a_malformed_body_names_the_field(data: bytes, path: str) -> None:
    with pytest.raises(MalformedError) as caught:
        wire.parse_body(m.BlobType.VOTE, data)
    assert caught.value.path == path


def manifest(**changes: Any) -> bytes:
    """A valid manifest in protobuf with some fields changed on the wire."""
    plain = m.Manifest(
        FederationId("f"),
        AttemptKey(RunId("r"), 1, 1),
        m.Purpose.TRAIN,
        "masked",
        bytes(32),
        b"",
        1,
        bytes(32),
        (OrgId("a"), OrgId("b"), OrgId("c")),
        1,
        3,
        3,
        3,
        "complete",
        10,
        32,
        16,
        5.0,
        16_384,
        "AES256CTR",
        "none",
        bytes(32),
        "d",
        bytes(32),
        b"",
        0,
        (),
        (),
        3.0,
        60.0,
        bytes(32),
        (),
    )
    message = pb.Manifest.FromString(wire.encode_body(plain))
    for name, value in changes.items():
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"cohort": ["b", "a"]}, "manifest.cohort"),
        ({"cohort": ["a", "a"]}, "manifest.cohort"),
        ({"cohort": []}, "manifest.cohort"),
        ({"cohort": ["A"]}, "manifest.cohort[0]"),
        ({"cohort": [f"m{i:03}" for i in range(257)]}, "manifest.cohort"),
        ({"update_norm": float("nan")}, "manifest.update_norm"),
        ({"update_norm": -1.0}, "manifest.update_norm"),
        ({"progress_s": float("inf")}, "manifest.progress_s"),
        ({"length": 2**28 + 1}, "manifest.length"),
        ({"graph": "sparse"}, "manifest.graph"),
        ({"purpose": 0}, "manifest.purpose"),
        ({"purpose": 99}, "manifest.purpose"),
        ({"nonce": bytes(31)}, "manifest.nonce"),
    ],
)
def test_a_manifest_out_of_its_limits_names_the_field(changes: dict[str, Any], path: str) -> None:
    assert wire.parse_body(m.BlobType.MANIFEST, manifest())
    with pytest.raises(MalformedError) as caught:
        wire.parse_body(m.BlobType.MANIFEST, manifest(**changes))
    assert caught.value.path == path


def blob() -> m.SignedBlob:
    return m.SignedBlob(OrgId("a"), m.BlobType.VOTE, b"body", bytes(64))


def padded(data: bytes) -> bytes:
    """The same message for a lenient parser: its first length is a varint of one byte more than it needs."""
    assert data[1] < 0x80
    return data[:1] + bytes([data[1] | 0x80, 0x00]) + data[2:]


def swapped(first: bytes, second: bytes) -> bytes:
    """Two fields in the other order: protobuf takes any."""
    return second + first


REFUSED: dict[str, tuple[Callable[[bytes], object], bytes, str]] = {
    "blob, padded": (wire.parse_blob, padded(wire.encode_blob(blob())), "blob"),
    "blob, unknown field": (wire.parse_blob, wire.encode_blob(blob()) + unknown_field(), "blob"),
    "blob, twice": (wire.parse_blob, wire.encode_blob(blob()) * 2, "blob"),
    "body, padded": (lambda data: wire.parse_body(m.BlobType.VOTE, data), padded(wire.encode_body(vote())), "vote"),
    "body, other order": (
        lambda data: wire.parse_body(m.BlobType.ABORT, data),
        swapped(pb.AbortVote(t0=bytes(32)).SerializeToString(), pb.AbortVote(attempt=1).SerializeToString()),
        "abort",
    ),
    "coordinator, padded": (
        wire.parse_coordinator,
        padded(wire.encode_coordinator(m.PlanOffer(RunId("r"), b"p"))),
        "message",
    ),
    "coordinator, unknown field": (
        wire.parse_coordinator,
        wire.encode_coordinator(m.PlanOffer(RunId("r"), b"p")) + unknown_field(),
        "message",
    ),
    "participant, padded": (
        wire.parse_participant,
        padded(wire.encode_participant(m.RunEndedAck(RunId("r")))),
        "message",
    ),
    "participant, two messages": (
        wire.parse_participant,
        wire.encode_participant(m.PlanAnswer(bytes(32), True, "")) + wire.encode_participant(m.RunEndedAck(RunId("r"))),
        "message",
    ),
    "nothing": (wire.parse_participant, b"", "message"),
}


@pytest.mark.parametrize(("parse", "data", "path"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_the_one_encoding_is_refused(parse: Callable[[bytes], object], data: bytes, path: str) -> None:
    """Protobuf parses all of these into a value; here there is one encoding of a value, for it is what is signed."""
    with pytest.raises(MalformedError) as caught:
        parse(data)
    assert caught.value.path == path


@pytest.mark.parametrize("kind", [m.BlobType.MODEL, m.BlobType.INVITE])
def test_a_body_that_is_json_is_not_read_as_protobuf(kind: m.BlobType) -> None:
    with pytest.raises(MalformedError) as caught:
        wire.parse_body(kind, b"{}")
    assert caught.value.path == "type"


def test_what_is_no_body_has_no_encoding() -> None:
    with pytest.raises(TypeError):
        wire.encode_body(m.RunEndedAck(RunId("r")))  # type: ignore[arg-type]


def test_an_offer_without_a_manifest_names_the_field() -> None:
    empty = pb.SessionResponse()
    empty.offer.SetInParent()
    with pytest.raises(MalformedError) as caught:
        wire.parse_coordinator(empty.SerializeToString())
    assert caught.value.path == "offer.manifest"


@pytest.mark.parametrize("count", [0, limits.MAX_MEMBERS, limits.MAX_MEMBERS + 1])
def test_a_key_set_has_one_advert_and_at_most_one_of_each_member(count: int) -> None:
    adverts = tuple(m.SignedBlob(OrgId(f"m{i:03}"), m.BlobType.ADVERT, b"x", bytes(64)) for i in range(count))
    data = wire.encode_coordinator(m.KeySet(bytes(32), adverts))
    if count == limits.MAX_MEMBERS:
        assert wire.parse_coordinator(data) == m.KeySet(bytes(32), adverts)
        return
    with pytest.raises(MalformedError) as caught:
        wire.parse_coordinator(data)
    assert caught.value.path == "key_set.adverts"


@pytest.mark.parametrize(
    ("size", "fits"), [(0, False), (1, True), (limits.MAX_PLAN, True), (limits.MAX_PLAN + 1, False)]
)
def test_a_plan_has_some_bytes_and_not_too_many(size: int, fits: bool) -> None:
    data = wire.encode_coordinator(m.PlanOffer(RunId("r"), bytes(size)))
    if fits:
        assert wire.parse_coordinator(data) == m.PlanOffer(RunId("r"), bytes(size))
        return
    with pytest.raises(MalformedError) as caught:
        wire.parse_coordinator(data)
    assert caught.value.path == "plan_offer.canonical_plan"


@pytest.mark.parametrize("numbers", [(), (1, 1), (2, 1), (0,), tuple(range(1, 18))])
def test_protocol_numbers_are_some_sorted_and_above_zero(numbers: tuple[int, ...]) -> None:
    assert wire.parse_participant(wire.encode_participant(m.ParticipantHello("x", (1, 2))))
    with pytest.raises(MalformedError):
        wire.parse_participant(wire.encode_participant(m.ParticipantHello("x", numbers)))


SHARE = bytes(33)


@pytest.mark.parametrize(
    ("pairs", "path"),
    [
        ([("b", SHARE), ("a", SHARE)], "reveal.self_shares"),
        ([("a", SHARE), ("a", SHARE)], "reveal.self_shares"),
        ([("a", SHARE), ("A", SHARE)], "reveal.self_shares[1].dealer"),
        ([("a", SHARE[1:])], "reveal.self_shares[0].share"),
        ([(f"m{i:03}", SHARE) for i in range(limits.MAX_MEMBERS + 1)], "reveal.self_shares"),
    ],
    ids=["unsorted", "twice", "no name", "short", "too many"],
)
def test_revealed_shares_out_of_their_limits_name_the_field(pairs: list[tuple[str, bytes]], path: str) -> None:
    most = tuple((OrgId(f"m{i:03}"), SHARE) for i in range(limits.MAX_MEMBERS))
    body = m.Reveal(bytes(32), b"", most, ())
    assert wire.parse_body(m.BlobType.REVEAL, wire.encode_body(body)) == body
    message = pb.Reveal(t3=bytes(32))
    for dealer, share_ in pairs:
        message.self_shares.add(dealer=dealer, share=share_)
    with pytest.raises(MalformedError) as caught:
        wire.parse_body(m.BlobType.REVEAL, message.SerializeToString(deterministic=True))
    assert caught.value.path == path


def test_an_oversized_message_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(MalformedError):
        wire.parse_participant(bytes(limits.MAX_MESSAGE + 1))


def test_every_table_has_the_fields_of_its_dataclass_and_of_its_protobuf_message() -> None:
    cases = [(message.DESCRIPTOR, kind, table) for message, kind, table in tables.BODIES.values()]
    for envelope, known in ((pb.SessionResponse, tables.OUTWARD), (pb.SessionRequest, tables.INWARD)):
        fields = envelope.DESCRIPTOR.fields_by_name
        cases.extend((fields[name].message_type, kind, table) for name, (kind, table) in known.items())
        assert set(known) == set(fields)
    for descriptor, kind, table in cases:
        ours = [field.name for field in dataclasses.fields(kind)]
        assert list(table) == ours, kind.__name__
        assert [field.name for field in descriptor.fields] == ours, kind.__name__


def test_every_message_type_is_generated_here() -> None:
    assert {kind for kind, _ in tables.OUTWARD.values()} == set(OUTWARD)
    assert {kind for kind, _ in tables.INWARD.values()} == set(INWARD)
    assert set(BODIES) == set(tables.BODIES) == set(m.BODY_TYPES)
    assert {kind: entry[1] for kind, entry in tables.BODIES.items()} == m.BODY_TYPES
