"""Public keys and signatures that an attacker chose, by the classes of Wycheproof, made from their mathematics.

The classes are those of `x25519_test.json` (LowOrderPublic, NonCanonicalPublic, ZeroSharedSecret, Twist) and
`ed25519_test.json` (SignatureMalleability, InvalidEncoding, InvalidSignature, TruncatedSignature,
SignatureWithGarbage); the values are computed by `tests/reference/curves.py` from RFC 7748 and RFC 8032, not copied.
Against the modules that the protocol uses, and against members and coordinator of a round.
"""

import contextlib
from dataclasses import replace

import pytest
from federation import FIVE, Said, Tap, federation, resigned, run, state
from fedveil_common.crypto import agreement, signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.messages import AdvertMessage, BlobType, SignedBlob
from fedveil_common.secret import PrivateKey
from fedveil_simulation.cluster import Packet
from reference import curves
from small_attempts import begin

PRIVATE = PrivateKey(bytes(range(1, 33)))
LOW_ORDER = [data for u in sorted(curves.low_order_u()) for data in curves.encodings_u(u)]
ORDINARY_U = (2, 5, 9, 18, curves.P - 2, 2**254 + 7)
NOT_CANONICAL = [data for u in ORDINARY_U for data in curves.encodings_u(u)[1:]]
TWIST = [*[u for u in range(2, 400) if curves.on_twist(u)][:20], curves.P - 2]


def code_of(caught: pytest.ExceptionInfo[PeerError]) -> str:
    return caught.value.code


# --- X25519 -----------------------------------------------------------------------------------------------------------


def test_the_classes_are_what_they_say() -> None:
    assert len(curves.low_order_u()) == 5, "as RFC 7748 section 6.1 and every published list have it"
    for key in LOW_ORDER:
        assert curves.x25519(PRIVATE.expose(), key) == bytes(32)
    for u in ORDINARY_U:
        same = {curves.x25519(PRIVATE.expose(), key) for key in curves.encodings_u(u)}
        assert same == {curves.x25519(PRIVATE.expose(), u.to_bytes(32, "little"))} != {bytes(32)}
    assert len(LOW_ORDER) == 14
    assert len(NOT_CANONICAL) > len(ORDINARY_U)
    assert {curves.on_twist(u) for u in range(2, 400)} == {True, False}


@pytest.mark.parametrize("key", LOW_ORDER, ids=bytes.hex)
def test_a_key_of_low_order_is_refused_twice(key: bytes) -> None:
    """LowOrderPublic, ZeroSharedSecret: by the check of the key, and again by the exchange."""
    with pytest.raises(PeerError) as caught:
        agreement.check_public_key(key)
    assert code_of(caught) == "bad_public_key"
    with pytest.raises(PeerError) as caught:
        agreement.exchange(PRIVATE, key)
    assert code_of(caught) == "low_order_key"


@pytest.mark.parametrize("key", NOT_CANONICAL, ids=bytes.hex)
def test_a_second_encoding_of_a_point_is_refused(key: bytes) -> None:
    """NonCanonicalPublic: the same point under other bytes would pass for a fresh key."""
    u = int.from_bytes(key, "little") % 2**255 % curves.P
    agreement.check_public_key(u.to_bytes(32, "little"))
    with pytest.raises(PeerError) as caught:
        agreement.check_public_key(key)
    assert code_of(caught) == "bad_public_key"


@pytest.mark.parametrize("u", [*TWIST, *(u for u in ORDINARY_U if not curves.on_twist(u))])
def test_twist_and_edge_points_agree_with_the_reference(u: int) -> None:
    """Twist: X25519 is defined there and its order has no small factor but the cofactor, so the points are taken."""
    key = u.to_bytes(32, "little")
    agreement.check_public_key(key)
    for private in (PRIVATE, PrivateKey(bytes([255]) * 32), PrivateKey(bytes(31) + b"\x80")):
        assert agreement.exchange(private, key) == curves.x25519(private.expose(), key) != bytes(32)


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    for action in (
        lambda: agreement.check_public_key(bytes(length)),
        lambda: agreement.exchange(PRIVATE, bytes(length)),
    ):
        with pytest.raises(PeerError) as caught:
            action()
        assert code_of(caught) == "bad_public_key"


@pytest.mark.parametrize("name", ["mask_key", "channel_key"])
def test_no_member_goes_on_under_a_hostile_key(name: str) -> None:
    """Each of these keys in the advert of a corrupt member, at the real machine; the honest key set passes."""
    attempt = begin(4, 1)
    attempt.advertise()
    me, liar = attempt.orgs[0], attempt.orgs[3]
    honest, before = attempt.adverts[liar], attempt.states[me]
    for key in (*LOW_ORDER, *NOT_CANONICAL):
        attempt.adverts[liar] = resigned(attempt.charter, honest, **{name: key})
        with pytest.raises(PeerError) as caught:
            attempt.tell(me, attempt.keyset())
        assert code_of(caught) == "bad_public_key"
        assert attempt.states[me] is before
    attempt.adverts[liar] = honest
    attempt.deal()


@pytest.mark.parametrize("key", [LOW_ORDER[0], LOW_ORDER[-1], NOT_CANONICAL[0]], ids=bytes.hex)
def test_the_coordinator_goes_on_without_a_hostile_key(key: bytes) -> None:
    """A whole run: the liar is left out, the others' sums are exact (`run` checks them)."""
    cluster, liar = federation(), FIVE[3]

    def lie(packet: Packet, message: Said) -> list[Said]:
        if packet.org_id == liar and isinstance(message, AdvertMessage):
            return [AdvertMessage(resigned(cluster.charter, message.advert, mask_key=key))]
        return [message]

    cluster.route = Tap(lie)
    assert run(cluster) == "finished"
    assert [record.dropped for record in state(cluster).records] == [(liar,)] * 2


# --- Ed25519 ----------------------------------------------------------------------------------------------------------

SIGNER = bytes(range(32, 64))
PUBLIC = curves.ed25519_public(SIGNER)
ORG = OrgId("acme")


def blob(sig: bytes) -> SignedBlob:
    return SignedBlob(ORG, BlobType.VOTE, b"the body", sig)


def message() -> bytes:
    """The bytes under a signed blob, from the text of FLSA/1 section 2.1."""
    fields = (b"FLSA/1/sig/vote", ORG.encode(), b"the body")
    return b"".join(len(one).to_bytes(4, "big") + one for one in fields)


GOOD = curves.ed25519_sign(SIGNER, message())
R, S = GOOD[:32], int.from_bytes(GOOD[32:], "little")
NEUTRAL = (1).to_bytes(32, "little")


def with_s(s: int) -> bytes:
    return R + s.to_bytes(32, "little")


BAD_SIGNATURES: dict[str, bytes] = {
    **{f"S + {k} L": with_s(S + k * curves.L) for k in range(1, (2**256 - 1 - S) // curves.L + 1)},
    "S is L": with_s(curves.L),
    "all bits of S": with_s(2**256 - 1),
    "bit 255 of S": with_s(S | 1 << 255),
    "S is zero": with_s(0),
    "minus S": with_s(curves.L - S),
    "bit 255 of R": (int.from_bytes(R, "little") ^ 1 << 255).to_bytes(32, "little") + GOOD[32:],
    "R is no point": (2).to_bytes(32, "little") + GOOD[32:],
    "R not canonical": curves.ed25519_sign_with(SIGNER, message(), 0, (curves.P + 1).to_bytes(32, "little")),
    "R neutral, other sign": curves.ed25519_sign_with(SIGNER, message(), 0, (1 | 1 << 255).to_bytes(32, "little")),
    "zero": bytes(64),
    "R and S exchanged": GOOD[32:] + GOOD[:32],
    **{f"{count} bytes": GOOD[:count] for count in (0, 1, 32, 63)},
    "garbage after it": GOOD + b"\0",
    "twice": GOOD * 2,
}


@pytest.mark.parametrize("sig", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
def test_a_signature_that_is_not_the_one_is_refused(sig: bytes) -> None:
    """SignatureMalleability, InvalidEncoding, InvalidSignature, TruncatedSignature, SignatureWithGarbage."""
    signing.verify(blob(GOOD), PUBLIC, BlobType.VOTE)
    with pytest.raises(PeerError) as caught:
        signing.verify(blob(sig), PUBLIC, BlobType.VOTE)
    assert code_of(caught) == "bad_signature"


def test_a_nonce_of_the_signers_choice_is_its_own_affair() -> None:
    """The control of the non-canonical R: the same signature with R in canonical form is valid, by its only holder."""
    signing.verify(blob(curves.ed25519_sign_with(SIGNER, message(), 0, NEUTRAL)), PUBLIC, BlobType.VOTE)


LOW_ORDER_KEYS = [data for point in curves.low_order_points() for data in curves.encodings(point)]


@pytest.mark.parametrize("key", LOW_ORDER_KEYS, ids=bytes.hex)
def test_a_key_under_which_anybody_can_sign_is_nobodys(key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member could have such a key listed; then what "it" signed proves nothing. Stopped by `signing._verify`.

    Without that check OpenSSL verifies R = S B under these keys, for one message in eight at least.
    """
    made = [replace(blob(curves.ed25519_sign_for_nobody(5)), body=bytes([number])) for number in range(64)]

    def verified() -> int:
        count = 0
        for one in made:
            with contextlib.suppress(PeerError):
                signing.verify(one, key, BlobType.VOTE)
                count += 1
        return count

    assert verified() == 0
    monkeypatch.setattr(signing, "_LOW_ORDER", frozenset())
    monkeypatch.setattr(signing, "_FIELD", 2**255)
    assert verified() > 0


@pytest.mark.parametrize("key", [PUBLIC[:31], PUBLIC + b"\0", b"", (2).to_bytes(32, "little"), b"\xff" * 32])
def test_what_is_no_key_verifies_nothing(key: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        signing.verify(blob(GOOD), key, BlobType.VOTE)
    assert code_of(caught) == "bad_signature"


def test_no_member_believes_a_malleable_signature() -> None:
    """An advert whose signature got L added to its S on the way: another blob, the same meaning for a lax verifier."""
    attempt = begin(3, 1)
    attempt.advertise()
    me, other = attempt.orgs[:2]
    honest = attempt.adverts[other]
    s = int.from_bytes(honest.sig[32:], "little") + curves.L
    attempt.adverts[other] = replace(honest, sig=honest.sig[:32] + s.to_bytes(32, "little"))
    with pytest.raises(PeerError) as caught:
        attempt.tell(me, attempt.keyset())
    assert (code_of(caught), caught.value.peer) == ("bad_signature", other)
    attempt.adverts[other] = honest
    attempt.deal()
