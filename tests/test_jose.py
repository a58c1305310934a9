"""Signed and encrypted tokens against a second implementation, against what RFCs print, and against those who forge."""

import base64
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
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

    agreed = bob.exchange(X25519PublicKey.from_public_bytes(raw("hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo")))
    assert agreed.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"  # its shared secret


def test_rfc_7515_appendix_c_and_rfc_7638_section_3_1() -> None:
    assert jose.encode(bytes((3, 236, 255, 224, 193))) == "A-z_4ME"
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    public = rsa.RSAPublicNumbers(65_537, int.from_bytes(raw(modulus), "big")).public_key()
    assert jose.public_jwk(public) == {"kty": "RSA", "n": modulus, "e": "AQAB"}
    assert jose.thumbprint(jose.public_jwk(public)) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


A1 = (  # RFC 7516 appendix A.1
    "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.OKOawDo13gRp2ojaHV7LFpZcgV7T6DVZKTyKOMTYUmKoTCVJRgckCL9kiMT03JGeipsEdY"
    "3mx_etLbbWSrFr05kLzcSr4qKAq7YN7e9jwQRb23nfa6c9d-StnImGyFDbSv04uVuxIp5Zms1gNxKKK2Da14B8S4rzVRltdYwam_lDp5XnZAYpQdb76F"
    "dIKLaVmqgfwX7XWRxv2322i-vDxRfqNzo_tETKzpVLzfiwQyeyPGLBIO56YJ7eObdv0je81860ppamavo35UgoRdbYaBcoh9QcfylQr66oc6vFWXRcZ_"
    "ZT2LawVCWTIy3brGPi6UklfCpIMfIjf7iGdXKHzg.48V1_ALb6US04U3b.5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8i"
    "B7j6jiSdiwkIr3ajwQzaBtQD_A.XFBoMYUZodetZdvTiFvSkQ"
)


def test_rfc_7516_appendix_a_1() -> None:
    """The content encryption, by the second implementation, which wrote the tokens above."""
    key = (177, 161, 244, 128, 84, 143, 225, 115, 63, 180, 3, 255, 107, 154, 212, 246)
    key += (138, 7, 110, 91, 112, 46, 34, 105, 47, 130, 203, 46, 122, 234, 64, 252)
    nonce = (227, 197, 117, 252, 2, 219, 233, 68, 180, 225, 77, 219)
    text = b"The true sign of intelligence is not knowledge but imagination."
    wrapped = raw(A1.split(".")[1])
    made = reference.jwe(b'{"alg":"RSA-OAEP","enc":"A256GCM"}', wrapped, bytes(nonce), bytes(key), text)
    assert made == A1


JOE = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
A2 = (  # RFC 7516 appendix A.2
    "eyJhbGciOiJSU0ExXzUiLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0.UGhIOguC7IuEvf_NPVaXsGMoLOmwvc1GyqlIKOK1nN94nHPoltGRhWhw7Zx0-kFm1"
    "NJn8LE9XShH59_i8J0PH5ZZyNfGy2xGdULU7sHNF6Gp2vPLgNZ__deLKxGHZ7PcHALUzoOegEI-8E66jX2E4zyJKx-YxzZIItRzC5hlRirb6Y5Cl_p-k"
    "o3YvkkysZIFNPccxRU7qve1WYPxqbb2Yw8kZqa2rMWI5ng8OtvzlV7elprCbuPhcCdZ6XDP0_F8rkXds2vE4X-ncOIM8hAYHHi29NX0mcKiRaD0-D-ljQ"
    "TP-cFPgwCp6X-nZZd9OHBv-B3oWh2TbqmScqXMR4gp_A.AxY8DCtDaGlsbGljb3RoZQ.KDlTtXchhZTGufMYmOYGS4HffxPSUrfmqCHXaI9wOGY.9hH0v"
    "gRfYgPnAHOd8stkvw"
)
A3 = (  # RFC 7516 appendix A.3
    "eyJhbGciOiJBMTI4S1ciLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0.6KB707dM9YTIgHtLvtgWQ8mKwboJW3of9locizkDTHzBC2IlrT1oOQ."
    "AxY8DCtDaGlsbGljb3RoZQ.KDlTtXchhZTGufMYmOYGS4HffxPSUrfmqCHXaI9wOGY.U0m_YmjN04DJvceFICbCVQ"
)


@pytest.mark.parametrize(
    ("token", "key"),
    [
        (f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", None),
        (f"eyJhbGciOiJFUzI1NiJ9.{JOE}.{'A' * 86}", None),  # RFC 7515 A.3 but for its signature
        (f"eyJhbGciOiJub25lIn0.{JOE}.", None),  # A.5
        ("eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19..A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY", None),
        (A1, "rsa"),
        (A2, "rsa"),
        (A3, "x25519"),
    ],
    ids=["7515 A.1 HS256", "7515 A.3 ES256", "7515 A.5 none", "7797 b64", "7516 A.1", "7516 A.2", "7516 A.3"],
)
def test_what_rfcs_print_under_other_algorithms_is_refused_unread(token: str, key: str | None) -> None:
    assert code_of(token.encode(), None if key is None else READERS[key]) == "jose_refused"


def test_a_modulus_of_a_length_that_no_octets_fill() -> None:
    """3076 bits are 384 octets and a half: the wrapped key has 385."""
    private = rsa.generate_private_key(65_537, 3076)
    sealed = SealedKey(Seed(b"d" * 32), b"x" * 32, Subject("model", "hospitals", "run-1"))
    assert jwe.open_token(jwe.wrap(sealed, private.public_key()), private) == sealed


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
