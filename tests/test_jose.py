"""Signed and encrypted tokens against a second implementation, against what RFCs print, and against those who forge."""

import base64
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from fedveil_cli.world import SystemEntropy
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, FedveilError, PeerError
from fedveil_common.exchange import jose, jwe, jws
from fedveil_common.exchange.jwe import SealedKey
from fedveil_common.sealing import key_files
from fedveil_common.sealing.header import Subject
from fedveil_common.sealing.recipients import PrivateRecipient
from fedveil_common.secret import PrivateKey, Seed
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import jose as reference

VECTORS = json.loads((Path(__file__).parent / "vectors" / "jose.json").read_text())
KEYS = {one["name"]: one for one in VECTORS["keys"]}
SIGNER = bytes.fromhex(KEYS["signer"]["public"])
JWS, JWE = VECTORS["jws"], VECTORS["jwe"]


def rsa_key(name: str) -> rsa.RSAPrivateKey:
    p, q, d, n = (int(KEYS[name][part], 16) for part in "pqdn")
    public = rsa.RSAPublicNumbers(65_537, n)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


READERS: dict[str, PrivateRecipient] = {
    "x25519": X25519PrivateKey.from_private_bytes(bytes.fromhex(KEYS["x25519"]["private"])),
    "rsa": rsa_key("rsa"),
    "short rsa": rsa_key("short rsa"),
}


def code_of(token: bytes, key: PrivateRecipient | None) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            jws.verify(token, SIGNER) if key is None else jwe.open_token(token, key)
        except FedveilError as error:
            return error.code
    return ""


@pytest.mark.parametrize("case", JWS, ids=lambda case: case["name"])
def test_signed_tokens(case: dict[str, Any]) -> None:
    token = case["token"].encode()
    if "out" in case:
        assert jws.verify(token, SIGNER) == case["out"].encode()
    else:
        assert code_of(token, None) == case["code"]


@pytest.mark.parametrize("case", JWE, ids=lambda case: f"{case['key']}-{case['name']}")
def test_encrypted_tokens(case: dict[str, Any]) -> None:
    token, key = case["token"].encode(), READERS[case["key"]]
    if "out" in case:
        found = jwe.open_token(token, key)
        assert found.key.expose().hex() == case["out"]["key"]
        assert found.digest.hex() == case["out"]["digest"]
        assert found.subject == Subject("model", "hospitals", case["out"]["object"])
    else:
        assert code_of(token, key) == case["code"]


def test_there_are_enough_of_each_and_no_two_are_called_alike() -> None:
    codes = [case.get("code", "") for case in (*JWS, *JWE)]
    assert len(codes) > 180
    for code in ("jose_refused", "jose_malformed", "jose_damaged", "bad_signature", "not_a_recipient"):
        assert codes.count(code) >= 3, code
    for cases in (JWS, JWE):
        names = [(case.get("key"), case["name"]) for case in cases]
        assert len(set(names)) == len(names)
        tokens = [(case.get("key"), case["token"]) for case in cases]
        assert len(set(tokens)) == len(tokens), "a flaw that changed nothing"


def test_a_token_signed_here_is_the_second_implementation_s() -> None:
    private = hashlib.sha256(b"jose/signer").digest()
    manifest = JWS[0]["out"].encode()
    assert jws.sign(manifest, PrivateKey(private)).decode() == JWS[0]["token"]
    assert signing.public_key(PrivateKey(private)) == SIGNER
    assert jose.thumbprint(jws.key_of(SIGNER)) == KEYS["signer"]["thumbprint"]
    for name, reader in READERS.items():
        assert jose.thumbprint(jose.public_jwk(reader.public_key())) == KEYS[name]["thumbprint"]
    with pytest.raises(PeerError) as caught:
        jws.sign(b'{"a": 1}', PrivateKey(private))
    assert caught.value.code == "jose_malformed"


@pytest.mark.parametrize("name", ["x25519", "rsa"])
def test_a_token_wrapped_here_opens_here_and_is_another_each_time(name: str) -> None:
    sealed = SealedKey(Seed(b"d" * 32), b"x" * 32, Subject("model", "hospitals", "run-1"))
    first, second = (jwe.wrap(sealed, READERS[name].public_key()) for _ in range(2))
    assert first != second
    assert jwe.open_token(first, READERS[name]) == jwe.open_token(second, READERS[name]) == sealed
    header = json.loads(jose.decode(first.split(b".")[0], "header"))
    assert (header["alg"], header["enc"]) == ({"x25519": jwe.ECDH, "rsa": jwe.RSA}[name], "A256GCM")
    stranger = key_files.new_x25519(SystemEntropy())
    assert code_of(first, stranger) == "not_a_recipient"


def test_a_weak_recipient_gets_no_token() -> None:
    sealed = SealedKey(Seed(b"d" * 32), b"x" * 32, Subject("model", "hospitals", "run-1"))
    with pytest.raises(ConfigError) as caught:
        jwe.wrap(sealed, READERS["short rsa"].public_key())
    assert caught.value.code == "recipient_key_weak"


# --- what RFCs print --------------------------------------------------------------------------------------------------


def raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_rfc_8037_appendix_a() -> None:
    private = raw("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")  # A.1
    public = raw("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")  # A.2
    assert signing.public_key(PrivateKey(private)) == public
    assert jose.thumbprint(jws.key_of(public)) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # A.3
    a4 = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    assert reference.jws(private, b'{"alg":"EdDSA"}', b"Example of Ed25519 signing") == a4
    with pytest.raises(PeerError) as caught:  # the name that stands for two curves
        jws.verify(a4.encode(), public)
    assert caught.value.code == "jose_refused"
    bob = X25519PrivateKey.from_private_bytes(  # A.6, RFC 7748 section 6.1
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    )
    assert jose.public_jwk(bob.public_key())["x"] == "3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08"


def test_rfc_7518_appendix_c() -> None:
    numbers = (158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156)
    numbers += (251, 49, 110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196)
    derived = reference.concat_kdf(bytes(numbers), b"A128GCM", b"Alice", b"Bob", 128)
    assert reference.b64(derived) == "VqqN6vgjbSBcIijNcacQGg"


def test_rfc_3394_section_4_6() -> None:
    key = bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
    wrapped = "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    assert reference.key_wrap(bytes(range(32)), key).hex() == wrapped


# --- any bytes --------------------------------------------------------------------------------------------------------

ANY = st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))


@settings(max_examples=40)
@given(ANY)
def test_no_bytes_end_in_anything_but_a_refusal(token: bytes) -> None:
    assert code_of(token, None)
    for name in ("x25519", "rsa"):
        assert code_of(token, READERS[name])


@settings(max_examples=60)
@given(st.data())
def test_no_change_of_a_token_goes_unnoticed(data: st.DataObject) -> None:
    reader = data.draw(st.sampled_from([None, "x25519", "rsa"]))
    good = (JWS[0] if reader is None else next(one for one in JWE if one["key"] == reader))["token"].encode()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=2)) + good[at + data.draw(st.integers(0, 2)) :]
    if bad != good:
        assert code_of(bad, None if reader is None else READERS[reader])
