"""Attack 36: whatever bytes come through a door, the answer is a value or a typed error, soon and in little memory.

The doors are the closed lists of messages and bodies (`wire`), and the signed JSON documents, plans, tokens and model
files. Inputs: random bytes, every kind of damage to good ones, lengths that announce 2 GiB, deep nesting, fields that
nobody knows, lists out of order. The static half (nothing turns bytes into code) is in `test_repository`.
"""

import contextlib
import itertools
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest
from federation import plan_bytes
from fedveil.v1 import rounds_pb2 as pb
from fedveil_common import limits, modelfile, wire
from fedveil_common import messages as m
from fedveil_common import plan as plans
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId
from fedveil_common.masking import packing
from fedveil_common.pki import governance, invites, joining
from fedveil_common.roster import verify_roster
from fedveil_common.wire import MalformedError, tables
from fedveil_simulation.charter import make_charter
from hypothesis import given
from hypothesis import strategies as st
from test_wire import BODIES, INWARD, OUTWARD, blobs

CHARTER = make_charter(("acme", "borealis", "cygnus"), 1)
TRUST = governance.verify_chain(CHARTER.notice.trust_chain, CHARTER.fingerprint)
INVITE = CHARTER.roster.members[1].invite
assert INVITE is not None

Parse = Callable[[bytes], object]
WIRE: dict[str, Parse] = {
    "a message of the coordinator": wire.parse_coordinator,
    "a message of a participant": wire.parse_participant,
    "a blob": wire.parse_blob,
    **{f"a body of type {kind.value}": lambda data, kind=kind: wire.parse_body(kind, data) for kind in tables.BODIES},
}
DOCUMENTS: dict[str, tuple[Parse, bytes]] = {
    "a plan": (plans.parse_canonical, plan_bytes()),
    "a plan as YAML": (lambda data: plans.parse_plan(data, "plan.yaml"), plan_bytes()),
    "a trust chain": (lambda data: governance.verify_chain(data, CHARTER.fingerprint), CHARTER.notice.trust_chain),
    "a roster": (lambda data: verify_roster(data, TRUST.governance, TRUST.earlier), CHARTER.notice.signed_roster),
    "an invite": (invites.parse_invite, INVITE.body),
    "a token": (lambda data: invites.parse_token(data.decode("latin-1")), b"fv1_AAAAAAAAAAAA"),
    "a request to join": (joining.JoinRequest.decode, b'{"a":1}'),
    "an answer to it": (joining.JoinAnswer.decode, b'{"a":1}'),
    "a proof": (joining.decode_proof, b'{"a":1}'),
    "a refusal": (lambda data: joining.decode_refusal(data, "peer"), b'{"code":"x"}'),
    "a model's manifest": (modelfile.parse_manifest, b'{"a":1}'),
    "a model": (modelfile.read_model, b"\x02\0\0\0\0\0\0\0{}"),
    "a packed leaf": (lambda data: packing.unpack(data, 9, 20), bytes(packing.size_bytes(9, 20))),
}
DEEP = 100_000
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "deep list": b"[" * DEEP,
    "deep list, closed": b"[" * DEEP + b"]" * DEEP,
    "deep object": b'{"a":' * DEEP,
    "deep flow mapping": b"{a: " * 5000,
    "aliases": b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]\n",
    "long number": b"9" * 20_000,
    "exponent": b"1e999999999",
    "not UTF-8": b'{"a":"\xff\xfe"}',
    "surrogate": b'{"a":"\\ud800"}',
    "null byte": b'{"a":"\\u0000"}',
    "name twice": b'{"a":1,"a":2}',
    "a tag": b"!!python/object/apply:os.system ['true']",
    "length of a header of 2^63": b"\xff" * 7 + b"\x7f{}",
    "groups in groups": b"\x0b" * DEEP,
    "a group of each": b"".join(bytes([number << 3 | 3]) for number in range(1, 16)),
}


def refused_or_read(parse: Parse, data: bytes) -> None:
    """Nothing but a typed error comes out."""
    with contextlib.suppress(FedveilError):
        parse(data)


# --- JSON, YAML, tokens, files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", [*WIRE, *DOCUMENTS])
def test_attack_36_hostile_bytes_at_every_door(name: str, data: bytes) -> None:
    parse = WIRE[name] if name in WIRE else DOCUMENTS[name][0]
    began = time.process_time()
    refused_or_read(parse, data)
    assert time.process_time() - began < 5


@given(st.sampled_from(sorted(DOCUMENTS)), st.binary(max_size=200))
def test_attack_36_random_bytes_are_no_document(name: str, data: bytes) -> None:
    refused_or_read(DOCUMENTS[name][0], data)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """The bytes cut, with some turned, put in, taken out, or said twice."""
    place = draw(st.integers(0, max(len(good) - 1, 0)))
    how = draw(st.sampled_from(["turn", "cut", "put in", "take out", "twice", "many"]))
    match how:
        case "turn":
            return good[:place] + bytes([good[place] ^ draw(st.integers(1, 255))]) + good[place + 1 :] if good else b"x"
        case "cut":
            return good[:place]
        case "put in":
            return good[:place] + draw(st.binary(min_size=1, max_size=6)) + good[place:]
        case "take out":
            return good[:place] + good[place + 1 + draw(st.integers(0, 8)) :]
        case "twice":
            return good + good[place:]
        case _:
            turned = bytearray(good)
            for index in draw(st.lists(st.integers(0, max(len(good) - 1, 0)), max_size=8)) if good else []:
                turned[index] ^= draw(st.integers(1, 255))
            return bytes(turned)


@given(st.sampled_from(sorted(DOCUMENTS)).flatmap(lambda name: st.tuples(st.just(name), damaged(DOCUMENTS[name][1]))))
def test_attack_36_damaged_documents_are_refused_or_read(pair: tuple[str, bytes]) -> None:
    refused_or_read(DOCUMENTS[pair[0]][0], pair[1])


def test_attack_36_the_good_documents_are_read() -> None:
    """The control: what is damaged above is whole."""
    for name in ("a plan", "a trust chain", "a roster", "an invite", "a packed leaf"):
        parse, good = DOCUMENTS[name]
        assert parse(good) is not None


# --- the wire ---------------------------------------------------------------------------------------------------------

GOOD: dict[str, st.SearchStrategy[Any]] = {
    "a message of the coordinator": st.one_of(*OUTWARD.values()).map(wire.encode_coordinator),
    "a message of a participant": st.one_of(*INWARD.values()).map(wire.encode_participant),
    "a blob": blobs.map(wire.encode_blob),
    **{f"a body of type {kind.value}": bodies.map(wire.encode_body) for kind, bodies in BODIES.items()},
}
AGAIN: dict[str, Callable[[Any], bytes]] = {
    "a message of the coordinator": wire.encode_coordinator,
    "a message of a participant": wire.encode_participant,
    "a blob": wire.encode_blob,
}


@given(st.sampled_from(sorted(GOOD)).flatmap(lambda name: st.tuples(st.just(name), GOOD[name].flatmap(damaged))))
def test_attack_36_damaged_messages_are_refused_or_mean_what_they_say(pair: tuple[str, bytes]) -> None:
    """Every type of the closed lists: what parses is encoded to exactly these bytes."""
    name, data = pair
    try:
        parsed = WIRE[name](data)
    except MalformedError:
        return
    assert AGAIN.get(name, wire.encode_body)(parsed) == data


def varint(value: int) -> bytes:
    made = b""
    while value > 0x7F:
        made, value = made + bytes([value & 0x7F | 0x80]), value >> 7
    return made + bytes([value])


LENGTHS = (2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def announcements() -> list[bytes]:
    """A length of 2 GiB and more in every field of the first forty, by itself and inside another one."""
    found = []
    for number, length in itertools.product(range(1, 41), LENGTHS):
        inner = varint(number << 3 | 2) + varint(length) + b"abc"
        found.append(inner)
        found.extend(varint(outer << 3 | 2) + varint(len(inner)) + inner for outer in (1, 3, 7, number))
    return found


def test_attack_36_a_length_of_two_gibibytes_reserves_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in announcements():
        for parse in WIRE.values():
            with pytest.raises(MalformedError):
                parse(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "KiB"


def test_attack_36_what_is_too_long_is_refused_by_its_length_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by the limits in `wire._decode`, before protobuf sees a byte. Without them it is parsed and kept."""
    body = pb.AbortVote(t0=bytes(limits.MAX_BODY + 1), attempt=1).SerializeToString()
    with pytest.raises(MalformedError) as caught:
        wire.parse_body(m.BlobType.ABORT, body)
    assert caught.value.path == "abort"
    monkeypatch.setattr(limits, "MAX_BODY", 2 * limits.MAX_BODY)
    with pytest.raises(MalformedError) as caught:
        wire.parse_body(m.BlobType.ABORT, body)
    assert caught.value.path == "abort.t0", "parsed, and refused by the size of the field"


@given(st.sampled_from(sorted(GOOD)).flatmap(lambda name: st.tuples(st.just(name), GOOD[name])), st.integers(41, 5000))
def test_attack_36_a_field_that_nobody_knows_is_refused(pair: tuple[str, bytes], number: int) -> None:
    name, good = pair
    assert WIRE[name](good) is not None
    for extra in (varint(number << 3) + b"\1", varint(number << 3 | 2) + b"\1x", varint(number << 3 | 5) + bytes(4)):
        with pytest.raises(MalformedError):
            WIRE[name](good + extra)


SIGNED = [m.SignedBlob(OrgId(name), m.BlobType.VOTE, b"x", bytes(64)) for name in ("acme", "borealis", "cygnus")]
NAMES = tuple(OrgId(name) for name in ("acme", "borealis", "cygnus"))
ORDERED: dict[str, Callable[[Any], object]] = {
    "key set": lambda of: m.KeySet(bytes(32), of(SIGNED)),
    "share delivery": lambda of: m.ShareDelivery(bytes(32), of(SIGNED)),
    "opening request": lambda of: m.OpeningRequest(bytes(32), of(SIGNED)),
    "share set": lambda of: m.ShareSet(bytes(32), of(NAMES), ()),
    "openings in a share set": lambda of: m.ShareSet(bytes(32), NAMES, of(SIGNED)),
    "proposal": lambda of: m.Proposal(bytes(32), of(SIGNED)),
}


@pytest.mark.parametrize("make", ORDERED.values(), ids=ORDERED)
def test_attack_36_a_list_out_of_order_is_refused(make: Callable[[Any], Any]) -> None:
    assert wire.parse_coordinator(wire.encode_coordinator(make(tuple)))
    turned = [lambda items: tuple(reversed(items)), lambda items: (items[0], items[0], *items[1:])]
    for other in turned:
        with pytest.raises(MalformedError):
            wire.parse_coordinator(wire.encode_coordinator(make(other)))
