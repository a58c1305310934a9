"""The wrapped key of a sealed file against a second implementation, which is held to the RFCs' vectors first."""

import hashlib
import json

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from fedveil_common.errors import FedveilError
from fedveil_common.sealing import header, recipients
from fedveil_common.sealing.header import Header, Slot, Subject
from fedveil_common.sealing.recipients import PrivateRecipient
from fedveil_common.secret import Seed

from tests.reference import cases_jose, curves, hpke
from tests.reference.jose import mgf1, oaep

SUBJECT = Subject("model", "hospitals", "run-1")
DATA_KEY = Seed(b"d" * 32)
READER, EPHEMERAL = hashlib.sha256(b"reader").digest(), hashlib.sha256(b"ephemeral").digest()
PUBLIC = curves.x25519_public(READER)
KEY = X25519PrivateKey.from_private_bytes(READER)


def base_mode() -> list[dict[str, str]]:
    with cryptography_vectors.open_vector_file("HPKE/test-vectors.json", "r") as stream:
        every = json.load(stream)
    ours = (0, hpke.KEM_ID, hpke.KDF_ID, hpke.AEAD_ID)
    return [one for one in every if (one["mode"], one["kem_id"], one["kdf_id"], one["aead_id"]) == ours]


def test_the_rfc_s_vectors_for_our_suite() -> None:
    found = base_mode()
    assert found
    for one in found:
        first = one["encryptions"][0]
        assert isinstance(first, dict)
        info, aad, text = (bytes.fromhex(part) for part in (one["info"], first["aad"], first["pt"]))
        sealed = bytes.fromhex(one["enc"] + first["ct"])
        assert hpke.seal(bytes.fromhex(one["pkRm"]), info, aad, text, bytes.fromhex(one["skEm"])) == sealed
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(one["skRm"]))
        suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)  # it takes no associated data, and we give none
        bare = hpke.seal(bytes.fromhex(one["pkRm"]), info, b"", text, bytes.fromhex(one["skEm"]))
        assert suite.decrypt(bare, private, info=info) == text


def wrapped(slot: Slot) -> Header:
    return header.make(DATA_KEY, SUBJECT, b"s" * 16, 0, (slot,))


def slot_for(subject: Subject = SUBJECT, key: bytes = DATA_KEY.expose()) -> Slot:
    info = hpke.bound("hpke-x25519", subject.kind, subject.federation_id, subject.object_id)
    return Slot("hpke-x25519", hpke.fingerprint_x25519(PUBLIC), hpke.seal(PUBLIC, info, b"", key, EPHEMERAL))


def code_of(slot: Slot, key: PrivateRecipient) -> str:
    try:
        recipients.unwrap(wrapped(slot), key)
    except FedveilError as error:
        return error.code
    return ""


def test_a_key_that_the_second_implementation_wrapped_opens() -> None:
    assert recipients.unwrap(wrapped(slot_for()), KEY) == DATA_KEY


@pytest.mark.parametrize(
    "slot",
    [
        slot_for(Subject("data", "hospitals", "run-1")),
        slot_for(Subject("model", "others", "run-1")),
        slot_for(Subject("model", "hospitals", "run-2")),
        slot_for(key=b"d" * 31),
        slot_for(key=b"d" * 33),
        slot_for(key=b"e" * 32),
    ],
)
def test_a_key_for_something_else_does_not(slot: Slot) -> None:
    assert code_of(slot, KEY) == "sealed_header_damaged"


@pytest.mark.parametrize("at", [0, 31, 32, 63, 64, 79])
def test_no_bit_of_a_wrapped_key_may_change(at: int) -> None:
    good = slot_for()
    bad = bytearray(good.wrapped)
    assert len(bad) == 80
    bad[at] ^= 1
    assert code_of(Slot(good.way, good.recipient, bytes(bad)), KEY) == "sealed_header_damaged"
    assert code_of(Slot(good.way, good.recipient, good.wrapped[:at]), KEY) == "sealed_header_damaged"


def test_whoever_sends_a_point_of_low_order_wraps_nothing() -> None:
    """All agree on 32 zeros with such a point: a wrapped key that anybody could have made."""
    tried = 0
    for u in sorted(curves.low_order_u()):
        for enc in curves.encodings_u(u):
            good = slot_for()
            assert code_of(Slot(good.way, good.recipient, enc + good.wrapped[32:]), KEY) == "sealed_header_damaged"
            tried += 1
    assert tried >= 10


def rsa_private() -> rsa.RSAPrivateKey:
    key = cases_jose.RSA
    public = rsa.RSAPublicNumbers(key.e, key.n)
    numbers = key.p, key.q, key.d, key.d % (key.p - 1), key.d % (key.q - 1), pow(key.q, -1, key.p)
    return rsa.RSAPrivateNumbers(*numbers, public).private_key(unsafe_skip_rsa_key_validation=True)


def test_rsa_oaep_with_the_label_of_the_file() -> None:
    private = rsa_private()
    mark = recipients.fingerprint(private.public_key())
    assert mgf1(b"bar", 4).hex() == hashlib.sha256(b"bar" + bytes(4)).hexdigest()[:8]

    def slot(**changes: object) -> Slot:
        label = hpke.bound("rsa-oaep-256", "model", "hospitals", "run-1")
        given: dict[str, object] = {"label": label, **changes}
        block = oaep(DATA_KEY.expose(), cases_jose.RSA.octets, EPHEMERAL, **given)  # type: ignore[arg-type]
        return Slot("rsa-oaep-256", mark, cases_jose.RSA.encrypt(block))

    assert recipients.unwrap(wrapped(slot()), private) == DATA_KEY
    other = hpke.bound("rsa-oaep-256", "data", "hospitals", "run-1")
    for bad in (slot(label=b""), slot(label=other), slot(digest="sha1"), slot(mask="sha1"), slot(first=1)):
        assert code_of(bad, private) == "sealed_header_damaged"
