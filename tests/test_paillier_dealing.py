"""The dealer's ceremony, the factors as secrets, and the record that everybody reads."""

import copy
import json
import pickle

import gmpy2
import pytest
from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, PeerError
from fedveil_common.paillier import dealing, modulus_record, rsa_2048
from fedveil_common.paillier.factors import Factor, FactorPair
from fedveil_common.paillier.modulus import CheckedModulus, Origin
from fedveil_common.paillier.modulus_record import ModulusRecord, adopt_rsa_2048, sign_record
from fedveil_common.secret import PrivateKey
from paillier_numbers import DIVIDED, DIVIDING, DOUBLE, OTHER_P, PRIME, P, Q, pair

KEY = PrivateKey(bytes(range(32)))
MODULUS = dealing.deal(Factor.of(P), Factor.of(Q), 2048)
RECORD = sign_record(MODULUS, 1, "notary", 1_700_000_000, KEY)
NOT_SAFE = int(gmpy2.next_prime(P))
"""A prime whose half is none."""


# --- factors ----------


def test_a_factor_shows_itself_nowhere() -> None:
    factor, both = Factor.of(P), pair()
    assert factor.expose_number() == P
    for shown in (repr(factor), str(factor), f"{factor}", repr(both)):
        assert "<redacted>" in shown
        assert str(P)[:20] not in shown
        assert f"{P:x}"[:20] not in shown
    for secret in (factor, both):
        with pytest.raises(TypeError):
            pickle.dumps(secret)
    assert copy.copy(factor) == factor != Factor.of(Q)
    assert pair() == both


@pytest.mark.parametrize(
    ("p", "q", "code"),
    [
        (P, P, "bad_factors"),
        (P, Q - 2, "bad_factors"),
        (P - 2, Q, "bad_factors"),
        (1, P * Q, "bad_factors"),
        (2, PRIME, "bad_factors"),
        (0, Q, "modulus_too_short"),
        (1, Q, "modulus_too_short"),
        (3, PRIME, "bad_factors"),
        (PRIME, PRIME**4, "modulus_too_long"),
        (DIVIDING, DIVIDED, "bad_factors"),
        (DOUBLE, DOUBLE // 2, "bad_factors"),
        (7, 11, "modulus_too_short"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_that_are_no_factors(p: int, q: int, code: str) -> None:
    with pytest.raises(ConfigError) as refused:
        FactorPair(Factor.of(p), Factor.of(q))
    assert refused.value.code == code
    assert str(Q)[:30] not in str(refused.value)


# --- safe primes ----------


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (P, 1023),
        (P, 1025),
        (P >> 1, 1024),
        (P >> 1, 1023),
        (NOT_SAFE, 1024),
        (P + 2, 1024),
        (0, 1024),
        (int(gmpy2.next_prime(1 << 1023)), 1024),
    ],
    ids=lambda value: "" if value > 1 << 64 else str(value),
)
def test_what_is_no_safe_prime_is_refused(value: int, bits: int) -> None:
    """Among them a prime whose half is composite, and half of a safe prime, which is a prime of another length."""
    with pytest.raises(IntegrityError) as refused:
        dealing.check_safe_prime(Factor.of(value), bits)
    assert refused.value.code == "bad_safe_prime"
    assert str(value)[:30] not in str(refused.value) or value == 0


def test_safe_primes_pass() -> None:
    for value in (P, Q, OTHER_P):
        dealing.check_safe_prime(Factor.of(value), 1024)


def test_neighbours_are_refused() -> None:
    """The bound is exact: a difference of 2^924 is too small, one more is enough."""
    for apart, close in ((0, True), (1 << 924, True), ((1 << 924) + 1, False), (-(1 << 924), True)):
        first, second = Factor.of(P), Factor.of(P + apart)
        if close:
            with pytest.raises(IntegrityError) as refused:
                dealing.check_apart(first, second, 1024)
            assert refused.value.code == "factors_too_close"
        else:
            dealing.check_apart(first, second, 1024)


def test_dealing_refuses_before_it_makes_a_modulus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IntegrityError) as refused:
        dealing.deal(Factor.of(P), Factor.of(NOT_SAFE), 2048)
    assert refused.value.code == "bad_safe_prime"
    with pytest.raises(IntegrityError) as refused:
        dealing.deal(Factor.of(P), Factor.of(P), 2048)
    assert refused.value.code == "factors_too_close"
    with pytest.raises(ConfigError) as wrong:  # 2049 bits cannot come of two primes of 1024
        dealing.deal(Factor.of(P), Factor.of(Q), 2049)
    assert wrong.value.code == "modulus_wrong_length"
    monkeypatch.setattr(dealing, "check_safe_prime", lambda *_: None)
    monkeypatch.setattr(dealing, "check_apart", lambda *_: None)
    assert dealing.deal(Factor.of(P), Factor.of(NOT_SAFE), 2048).origin is Origin.DEALT


# --- the record ----------


def test_a_record_reads_back() -> None:
    again = ModulusRecord.decode(RECORD.encode())
    assert again == RECORD
    assert again.fingerprint == RECORD.fingerprint
    assert ModulusRecord.decode(RECORD.encode() + b"\n") == RECORD
    assert again.dealer is not None
    assert again.dealer.key == signing.public_key(KEY)
    assert str(P).encode() not in RECORD.encode()
    assert f"{P:x}".encode() not in RECORD.encode()


def test_everybody_adopts_the_same_record() -> None:
    record = adopt_rsa_2048(1)
    assert record.encode() == adopt_rsa_2048(1).encode()
    assert ModulusRecord.decode(record.encode()) == record
    assert record.dealer is None
    assert len({record.fingerprint, adopt_rsa_2048(2).fingerprint, RECORD.fingerprint}) == 3


def changed(**members: jcs.Json) -> bytes:
    """The record with other members, and a signature over what it then says."""
    value = {**json.loads(RECORD.encode()), **members}
    value = {name: member for name, member in value.items() if member is not None}
    if "sig" in members or "key" in members:
        return jcs.dumps(value)
    body = jcs.dumps({name: member for name, member in value.items() if name != "sig"})
    return jcs.dumps({**value, "sig": signing.sign_bytes(KEY, modulus_record.LABEL, body).hex()})


def code_of(data: bytes) -> str:
    with pytest.raises(FedveilError) as refused:
        ModulusRecord.decode(data)
    return refused.value.code


def test_a_record_that_is_signed_anew_passes() -> None:
    assert ModulusRecord.decode(changed(dealer="bank")).fingerprint != RECORD.fingerprint


ROOTS = [int(root).to_bytes(256, "big").hex() for root in MODULUS.roots]
CHALLENGE = int(rsa_2048.N).to_bytes(256, "big").hex()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_document"),
        (b"{}", "bad_document"),
        (b"[]", "bad_document"),
        (b"\xff", "bad_document"),
        (RECORD.encode().replace(b'":', b'": ', 1), "bad_document"),
        (b" " * 10 + RECORD.encode() + b"x" * 70_000, "bad_document"),
        (changed(format="fedveil/paillier-modulus/v2"), "bad_document"),
        (changed(origin="rsa-2048"), "bad_document"),
        (changed(origin="found"), "bad_document"),
        (changed(roots=None), "bad_document"),
        (changed(roots=[]), "bad_document"),
        (changed(roots=[*ROOTS, ROOTS[0]]), "bad_document"),
        (changed(roots=[ROOTS[0][2:], *ROOTS[1:]]), "bad_document"),
        (changed(roots=[ROOTS[0].upper(), *ROOTS[1:]]), "bad_document"),
        (changed(bits=100_000), "bad_document"),
        (changed(bits=0), "bad_document"),
        (changed(bits=2047), "modulus_too_short"),
        (changed(at=0), "bad_document"),
        (changed(at=2**52), "bad_document"),
        (changed(dealer="The Notary"), "bad_document"),
        (changed(extra=1), "bad_document"),
        (changed(s="1"), "bad_document"),
        (changed(s=4), "bad_exponent"),
        (changed(s=2**40), "bad_exponent"),
        (changed(roots=ROOTS[:7]), "modulus_wrong_roots"),
        (changed(roots=[ROOTS[1], ROOTS[0], *ROOTS[2:]]), "modulus_wrong_roots"),
        (changed(n=CHALLENGE), "modulus_wrong_roots"),
        (changed(n=(P * Q + 1).to_bytes(256, "big").hex()), "modulus_even"),
        (changed(sig="0" * 128), "bad_signature"),
        (changed(key=signing.public_key(PrivateKey(bytes(32))).hex()), "bad_signature"),
        (changed(key="0" * 64), "bad_signature"),
        (adopt_rsa_2048(1).encode().replace(b'"s":1', b'"s":9'), "bad_exponent"),
        (
            adopt_rsa_2048(1).encode().replace(CHALLENGE.encode(), (P * Q).to_bytes(256, "big").hex().encode()),
            "modulus_without_roots",
        ),
        (adopt_rsa_2048(1).encode().replace(b'"bits":2048', b'"bits":2056'), "bad_document"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_records_that_are_refused(data: bytes, code: str) -> None:
    assert code_of(data) == code


def test_each_member_is_signed() -> None:
    """The signature of the record as it was does not cover another dealer, time or s."""
    value = json.loads(RECORD.encode())
    for member, other in (("dealer", "bank"), ("at", 1), ("s", 2)):
        assert code_of(jcs.dumps({**value, member: other})) == "bad_signature", member


def test_a_dealt_modulus_has_a_dealer_and_the_challenge_number_none() -> None:
    with pytest.raises(ValueError, match="dealer"):
        ModulusRecord(MODULUS, 1, None)
    with pytest.raises(ValueError, match="dealer"):
        ModulusRecord(CheckedModulus(rsa_2048.N, 2048), 1, RECORD.dealer)


def test_a_dealer_has_a_name_and_s_its_range() -> None:
    with pytest.raises(ConfigError) as refused:
        sign_record(MODULUS, 1, "The Notary", 1, KEY)
    assert refused.value.code == "bad_name"
    for s in (0, 4, -1):
        with pytest.raises(ConfigError) as refused:
            sign_record(MODULUS, s, "notary", 1, KEY)
        assert refused.value.code == "bad_exponent"


def test_a_signature_proves_nothing_about_the_name() -> None:
    """Whoever changes the record may sign it anew: the fingerprint is what tells."""
    forged = sign_record(MODULUS, 1, "notary", 1_700_000_000, PrivateKey(bytes(32)))
    assert ModulusRecord.decode(forged.encode()).fingerprint != RECORD.fingerprint


def test_what_s_is_by_itself() -> None:
    assert [modulus_record.default_exponent(bits) for bits in (2048, 3070, 3072, 8192)] == [1, 1, 2, 2]


def test_errors_of_a_record_say_whose_move_it_is() -> None:
    with pytest.raises(PeerError):
        ModulusRecord.decode(b"{}")
