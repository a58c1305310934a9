"""Governance sets, the fingerprint, and the chain of trust documents that leads from it to the set in force."""

from dataclasses import replace

import pytest
from fedveil_common.crypto import signing
from fedveil_common.crypto.draws import Draws
from fedveil_common.crypto.labels import h, u32
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.pki import governance
from fedveil_common.pki.governance import GovernanceSet, Signed, TrustDocument
from fedveil_common.secret import PrivateKey, Seed
from hypothesis import given
from hypothesis import strategies as st

FEDERATION = FederationId("hospitals-0011223344556677")
DRAWS = Draws(Seed(bytes(32)))


def key(name: str) -> PrivateKey:
    return DRAWS.private_key(name)


def members(threshold: int, *names: str) -> GovernanceSet:
    return GovernanceSet(threshold, tuple(signing.public_key(key(name)) for name in names))


def chain(*documents: tuple[TrustDocument, str]) -> bytes:
    return governance.encode_chain(
        [governance.sign_trust(document, [key(name) for name in who.split()]) for document, who in documents]
    )


OLD, NEW, THREE = members(1, "old"), members(1, "new"), members(2, "g1", "g2", "g3")
HEAD = signing.public_key(key("coordinator"))
FIRST = TrustDocument(FEDERATION, 1, OLD, (b"a" * 32,), HEAD)
SECOND = TrustDocument(FEDERATION, 2, NEW, (b"a" * 32, b"b" * 32), HEAD, 7, b"r" * 32, FIRST.digest)
PRINT = governance.fingerprint(FEDERATION, OLD)


def test_the_fingerprint_is_the_hash_of_the_specification() -> None:
    expected = h("fingerprint", FEDERATION.encode(), u32(2), *sorted(THREE.keys))
    assert governance.fingerprint(FEDERATION, THREE) == expected
    text = governance.fingerprint_text(expected)
    assert text.replace(" ", "") == expected.hex()
    assert [len(group) for group in text.split()] == [4] * 16


def test_a_chain_leads_to_the_set_and_the_authorities_in_force() -> None:
    trust = governance.verify_chain(chain((FIRST, "old"), (SECOND, "old new")), PRINT)
    assert (trust.federation_id, trust.fingerprint, trust.sequence) == (FEDERATION, PRINT, 2)
    assert (trust.governance, trust.earlier) == (NEW, (OLD,))
    assert trust.authorities == (b"a" * 32, b"b" * 32)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (chain((FIRST, "mallory")), "not_governance"),
        (chain((FIRST, "old"), (SECOND, "new")), "too_few_signatures"),
        (chain((FIRST, "old"), (SECOND, "old")), "too_few_signatures"),
        (chain((FIRST, "old"), (SECOND, "old new mallory")), "not_governance"),
        (chain((FIRST, "old"), (replace(SECOND, previous=b"p" * 32), "old new")), "broken_chain"),
        (chain((FIRST, "old"), (replace(SECOND, previous=b""), "old new")), "broken_chain"),
        (chain((replace(FIRST, roster_version=1, roster_hash=b"r" * 32), "old")), "broken_chain"),
        (chain((replace(FIRST, authorities=()), "old")), "bad_document"),
        (chain((replace(FIRST, holders=(governance.Holder(HEAD, OrgId("acme"), bytes(64)),)), "old")), "bad_document"),
        (chain((FIRST, "old"), (replace(SECOND, sequence=3), "old new")), "broken_chain"),
        (chain((FIRST, "old"), (replace(SECOND, federation_id=FederationId("x")), "old new")), "wrong_federation"),
        (chain((SECOND, "new")), "fingerprint_mismatch"),
        (chain((replace(FIRST, federation_id=FederationId("x")), "old")), "fingerprint_mismatch"),
        (chain((replace(FIRST, governance=NEW), "new")), "fingerprint_mismatch"),
        (chain((FIRST, "old")).replace(b'\\"sequence\\":1', b'\\"sequence\\":2'), "broken_chain"),
        (chain((FIRST, "old")).replace(b"6161", b"6262", 1), "bad_signature"),
        (governance.encode_chain([Signed(FIRST.body, ())]), "too_few_signatures"),
        (b"[]", "bad_document"),
        (b"{}", "bad_document"),
        (b"", "bad_document"),
        (b"[" * 100_000, "bad_document"),
    ],
)
def test_broken_chains(data: bytes, code: str) -> None:
    with pytest.raises(PeerError) as refused:
        governance.verify_chain(data, PRINT)
    assert refused.value.code == code


def test_a_set_of_three_signs_with_two() -> None:
    first = TrustDocument(FEDERATION, 1, THREE, (b"a" * 32,), HEAD)
    own = governance.fingerprint(FEDERATION, THREE)
    whole = governance.encode_chain([governance.sign_trust(first, [key("g3"), key("g1")])])
    assert governance.verify_chain(whole, own).governance == THREE
    for names in (["g1"], ["g1", "g1"]):
        with pytest.raises(PeerError) as refused:
            governance.verify_chain(
                governance.encode_chain([governance.sign_trust(first, [key(name) for name in names])]), own
            )
        assert refused.value.code == "too_few_signatures"


def test_sets_that_make_no_sense() -> None:
    for threshold, keys in ((0, THREE.keys), (4, THREE.keys), (1, ()), (1, (b"short",)), (1, OLD.keys * 2)):
        with pytest.raises(ValueError, match="governance keys"):
            GovernanceSet(threshold, keys)


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_verify_or_be_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        governance.verify_chain(data, PRINT)
