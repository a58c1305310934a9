"""Known answers for `fedveil_common.crypto`: published ones and those of tests/reference."""

import json
import pathlib
from typing import Any

import pytest
from fedveil_common.crypto import agreement, kdf, labels, prg, shamir, signing
from fedveil_common.errors import IntegrityError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.secret import PrivateKey

VECTORS = pathlib.Path(__file__).parent / "vectors"
_hex = bytes.fromhex


def cases(file: str, section: str, *, failing: bool = False) -> pytest.MarkDecorator:
    """The good or the failing cases of one section, by name."""
    rows = json.loads((VECTORS / f"{file}.json").read_text(encoding="ascii"))[section]
    chosen = [row for row in rows if ("fails_at" in row) == failing]
    assert chosen
    return pytest.mark.parametrize("case", chosen, ids=[row["name"] for row in chosen])


@cases("published", "x25519")
def test_x25519_of_rfc_7748(case: dict[str, Any]) -> None:
    given = case["in"]
    out = agreement.exchange(PrivateKey(_hex(given["private"])), _hex(given["peer_public"]))
    assert out.hex() == case["out"]["shared_secret"]


@cases("published", "ed25519")
def test_ed25519_keys_of_rfc_8032(case: dict[str, Any]) -> None:
    assert signing.public_key(PrivateKey(_hex(case["in"]["private"]))).hex() == case["out"]["public"]


@cases("published", "ed25519")
def test_ed25519_signatures_of_rfc_8032(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The RFC signs bare messages: the label encoding is taken out for this test alone."""
    monkeypatch.setattr(signing, "labelled", lambda label, *fields: b"".join(fields))
    message, signature, public = (
        _hex(case["in"]["message"]),
        _hex(case["out"]["signature"]),
        _hex(case["out"]["public"]),
    )
    assert signing.sign_bytes(PrivateKey(_hex(case["in"]["private"])), "bare", message) == signature
    signing.verify_bytes(public, signature, "bare", message)
    with pytest.raises(PeerError):
        signing.verify_bytes(public, signature, "bare", message + b"x")


@cases("published", "hkdf")
def test_hkdf_of_rfc_5869(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The RFC's info is bare and its outputs longer: the label encoding is out, and the first 32 bytes are compared."""
    given = case["in"]
    monkeypatch.setattr(kdf, "labelled", lambda label, *fields: b"".join(fields))
    key = kdf.derive(_hex(given["salt"]), _hex(given["ikm"]), "bare", _hex(given["info"]))
    assert key.hex() == case["out"]["okm"][:64]


@cases("published", "aes_ctr")
def test_aes_256_ctr_of_sp_800_38a(case: dict[str, Any]) -> None:
    given = case["in"]
    plain = _hex(given["plaintext"])
    stream = prg.words(_hex(given["key"]), 4 * int(given["counter"], 16), len(plain) // 4).astype("<u4").tobytes()
    assert stream.hex() == case["mid"]["keystream"]
    assert bytes(a ^ b for a, b in zip(plain, stream, strict=True)).hex() == case["out"]["ciphertext"]


@cases("crypto", "agreement")
def test_agreement(case: dict[str, Any]) -> None:
    private, peer = PrivateKey(_hex(case["in"]["private"])), _hex(case["in"]["peer_public"])
    agreement.check_public_key(peer)
    assert agreement.public_key(private).hex() == case["mid"]["public"]
    assert agreement.exchange(private, peer).hex() == case["out"]["shared_secret"]


@cases("crypto", "agreement", failing=True)
def test_bad_points_are_refused(case: dict[str, Any]) -> None:
    private, key = PrivateKey(_hex(case["in"]["private"])), _hex(case["in"]["peer_public"])
    assert case["fails_at"] == "check_public_key"
    with pytest.raises(PeerError) as refused:
        agreement.check_public_key(key)
    assert refused.value.code == case["code"]
    # The exchange is a second line: it stands even where the check was forgotten.
    if len(key) != 32 or case["mid"]["all_zero_output"]:
        with pytest.raises(PeerError) as refused:
            agreement.exchange(private, key)
        assert refused.value.code == ("low_order_key" if len(key) == 32 else "bad_public_key")


@cases("crypto", "signing")
def test_signed_blobs(case: dict[str, Any]) -> None:
    given = case["in"]
    kind = BlobType(given["type"])
    blob = signing.sign(PrivateKey(_hex(given["private"])), OrgId(given["signer"]), kind, _hex(given["body"]))
    assert labels.labelled("sig/" + kind, blob.signer_id.encode(), blob.body).hex() == case["mid"]["message"]
    assert blob.sig.hex() == case["out"]["sig"]
    signing.verify(blob, _hex(case["out"]["public"]), kind)


@cases("crypto", "signing", failing=True)
def test_spoiled_blobs_are_refused(case: dict[str, Any]) -> None:
    given = case["in"]
    blob = SignedBlob(OrgId(given["signer"]), BlobType(given["type"]), _hex(given["body"]), _hex(given["sig"]))
    with pytest.raises(PeerError) as refused:
        signing.verify(blob, _hex(given["public"]), BlobType(given["expected"]))
    assert refused.value.code == case["code"]
    assert refused.value.peer == given["signer"]


def test_field_signatures_bind_label_and_fields_and_cannot_pose_as_blobs() -> None:
    private = PrivateKey(bytes(range(32)))
    public = signing.public_key(private)
    sig = signing.sign_bytes(private, "renew", b"ab", b"c")
    signing.verify_bytes(public, sig, "renew", b"ab", b"c")
    for label, fields in (("enrol", (b"ab", b"c")), ("renew", (b"a", b"bc")), ("renew", (b"ab", b"c", b""))):
        with pytest.raises(PeerError) as refused:
            signing.verify_bytes(public, sig, label, *fields, peer="org-001")
        assert (refused.value.code, refused.value.peer) == ("bad_signature", "org-001")
    with pytest.raises(ValueError, match="sig/"):
        signing.sign_bytes(private, "sig/vote", b"org-001", b"t3")


@cases("crypto", "prg")
def test_stream_words(case: dict[str, Any]) -> None:
    key, start, count = _hex(case["in"]["key"]), int(case["in"]["start"]), case["in"]["count"]
    assert prg.words(key, start, count).tolist() == case["out"]["words"]


@cases("crypto", "shamir")
def test_shamir(case: dict[str, Any]) -> None:
    given, expected = case["in"], case["out"]
    xs = [int(x) for x in expected["shares"]]
    coefficients = [int(c, 16) for c in given["coefficients"]]
    shares = shamir.deal(_hex(given["secret"]), given["threshold"], xs, coefficients)
    assert {str(x): share.expose().hex() for x, share in shares.items()} == expected["shares"]
    used = {x: shares[x] for x in expected["reconstruct_from"]}
    assert shamir.reconstruct(used, given["threshold"]).hex() == given["secret"]


@cases("crypto", "shamir", failing=True)
def test_bad_shares_never_give_a_value(case: dict[str, Any]) -> None:
    shares = {int(x): _hex(share) for x, share in case["in"]["shares"].items()}
    with pytest.raises(IntegrityError) as refused:
        shamir.reconstruct(shares, case["in"]["threshold"])
    assert refused.value.code == case["code"]
    if case["fails_at"] == "check_share":
        with pytest.raises(IntegrityError):
            _ = [shamir.check_share(share) for share in shares.values()]
    if case["fails_at"] == "check_coordinates":
        with pytest.raises(IntegrityError):
            shamir.lagrange_at_zero(list(shares))
