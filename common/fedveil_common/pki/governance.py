"""Who may say who belongs to the federation: governance sets, their fingerprint, and the chain of trust documents.

Promise: whoever knows the fingerprint (it travels in every invite) can follow the chain from the first governance set
to the current one and to the certificate authorities in force, without trusting the machine that serves the chain.
Invariant: a trust document counts only with k signatures of the set before it and k of its own.
Source: FLSA/1 A7, A18 (docs/protocol.md); bodies are RFC 8785 JSON, verified as received.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import h, u32
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.limits import MAX_DOCUMENT
from fedveil_common.pki import documents
from fedveil_common.secret import PrivateKey

TRUST_LABEL = "trust"
MAX_GOVERNANCE_KEYS = 64
MAX_CHAIN = 256
"""Documents in a trust chain."""

MAX_AUTHORITIES = 8
"""Certificate authorities in force at once."""


@dataclass(frozen=True, slots=True)
class GovernanceSet:
    """`threshold` (k) of these Ed25519 public keys decide together. Keys are 32 bytes, byte-sorted, unique."""

    threshold: int
    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for a set that nobody or anybody could sign for."""
        object.__setattr__(self, "keys", tuple(sorted(self.keys)))
        if len(set(self.keys)) != len(self.keys) or any(len(key) != signing.PUBLIC_KEY_BYTES for key in self.keys):
            raise ValueError("governance keys are distinct and of 32 bytes")
        if not 1 <= self.threshold <= len(self.keys) <= MAX_GOVERNANCE_KEYS:
            raise ValueError(f"{self.threshold} of {len(self.keys)} governance keys is not a threshold")


@dataclass(frozen=True, slots=True)
class Signature:
    """One governance signature beside a body: which key (32 bytes) and its 64 bytes."""

    key: bytes
    sig: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A body as received and the governance signatures beside it."""

    body: bytes
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Canonical JSON; the body travels as text, so that its bytes survive unchanged."""
        return jcs.dumps(self.to_json())

    def to_json(self) -> jcs.Json:
        """The JSON value of `encode`."""
        return {
            "body": self.body.decode("utf-8"),
            "signatures": [{"key": item.key.hex(), "sig": item.sig.hex()} for item in self.signatures],
        }

    @classmethod
    def decode(cls, data: bytes, what: str = "signed document") -> "Signed":
        """The document in `data`; PeerError `bad_document` if it is none. Signatures are not yet verified."""
        return cls.from_json(documents.canonical(data, what), what)

    @classmethod
    def from_json(cls, value: jcs.Json, what: str = "signed document") -> "Signed":
        """As `decode`, of a value already read."""
        fields = documents.Fields(value, what, {"body", "signatures"})
        rows = [documents.Fields(row, what, {"key", "sig"}) for row in fields.rows("signatures", MAX_GOVERNANCE_KEYS)]
        return cls(
            fields.text("body", MAX_DOCUMENT).encode("utf-8"),
            tuple(Signature(row.hex("key", 32), row.hex("sig", 64)) for row in rows),
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """That a member holds a governance key: `sig` is of its protocol key (see `holders`). Claims nothing else."""

    key: bytes
    org_id: OrgId
    sig: bytes


@dataclass(frozen=True, slots=True)
class TrustDocument:
    """What is in force from `sequence` (from 1) on: governance set, certificate authorities, coordinator.

    `authorities`: SHA-256 of the DER of each certificate. `coordinator`: its Ed25519 protocol key, 32 bytes.
    `roster_version`, `roster_hash`: the roster in force when the document was made. Rosters up to it belong to the
    documents before, and it alone is its version; the next roster is signed by this document's set. `previous`: digest
    of the document before. The first document has none of the three (0, empty, empty).
    """

    federation_id: FederationId
    sequence: int
    governance: GovernanceSet
    authorities: tuple[bytes, ...]
    coordinator: bytes
    roster_version: int = 0
    roster_hash: bytes = b""
    previous: bytes = b""
    holders: tuple[Holder, ...] = ()

    @property
    def body(self) -> bytes:
        """What is signed."""
        return jcs.dumps(
            {
                "authorities": [digest.hex() for digest in self.authorities],
                "coordinator": self.coordinator.hex(),
                "federation_id": self.federation_id,
                "governance": {"k": self.governance.threshold, "keys": [key.hex() for key in self.governance.keys]},
                "holders": [
                    {"key": item.key.hex(), "org_id": item.org_id, "sig": item.sig.hex()} for item in self.holders
                ],
                "previous": self.previous.hex(),
                "roster": {"hash": self.roster_hash.hex(), "version": self.roster_version},
                "sequence": self.sequence,
            }
        )

    @property
    def digest(self) -> bytes:
        """H("trust", body), 32 bytes: how the next document names this one."""
        return h("trust", self.body)


@dataclass(frozen=True, slots=True)
class Trust:
    """A verified chain, made by `verify_chain`: the first set fixes the fingerprint, the last document is in force."""

    federation_id: FederationId
    fingerprint: bytes
    documents: tuple[TrustDocument, ...]

    @property
    def last(self) -> TrustDocument:
        """The document in force."""
        return self.documents[-1]

    @property
    def sequence(self) -> int:
        """Its number, and so the length of the chain."""
        return self.last.sequence

    @property
    def governance(self) -> GovernanceSet:
        """The set in force."""
        return self.last.governance

    @property
    def earlier(self) -> tuple[GovernanceSet, ...]:
        """The other sets that ever were in force, oldest first."""
        sets = (document.governance for document in self.documents)
        return tuple(dict.fromkeys(item for item in sets if item != self.governance))

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """The certificate authorities in force, the one that issues first."""
        return self.last.authorities

    @property
    def coordinator(self) -> bytes:
        """The protocol key of the coordinator in force."""
        return self.last.coordinator

    def at_roster(self, version: int) -> TrustDocument:
        """The document whose set signs the roster of that version."""
        found = self.documents[0]
        for document in self.documents[1:]:
            if version > document.roster_version:
                found = document
        return found


def fingerprint(federation_id: FederationId, first: GovernanceSet) -> bytes:
    """32 bytes that name a federation for ever: H("fingerprint", federation id, u32be k, sorted keys)."""
    return h("fingerprint", federation_id.encode(), u32(first.threshold), *first.keys)


def fingerprint_text(digest: bytes) -> str:
    """A fingerprint for the eye: sixteen groups of four hex digits."""
    text = digest.hex()
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def authority_digest(der: bytes) -> bytes:
    """How trust documents name a certificate authority: SHA-256 over the DER of its certificate."""
    return hashlib.sha256(der).digest()


def sign_body(body: bytes, label: str, keys: Sequence[PrivateKey]) -> Signed:
    """`body` with a signature of each of `keys` under `label`."""
    made = [Signature(signing.public_key(key), signing.sign_bytes(key, label, body)) for key in keys]
    return Signed(body, tuple(sorted(made, key=lambda item: item.key)))


def verify_body(signed: Signed, label: str, governance: GovernanceSet, what: str) -> None:
    """Returns if at least k distinct keys of `governance` signed the body under `label`.

    Raises PeerError `not_governance` for a signature by any other key, `bad_signature` for one that does not verify,
    `too_few_signatures` below k. One bad signature spoils the document: there is no reason for it to be there.
    """
    verify_by_all(signed, label, (governance,), what)


def verify_by_all(signed: Signed, label: str, sets: Sequence[GovernanceSet], what: str) -> None:
    """As `verify_body`, for a body that k of EACH of `sets` must sign; a key of several sets counts in each."""
    verify_signatures(signed, label, sets, what)
    for chosen in sets:
        count = len(signers(signed) & set(chosen.keys))
        if count < chosen.threshold:
            raise PeerError(
                "too_few_signatures",
                f"the {what} carries {count} governance signatures and needs {chosen.threshold}",
                next_step="the holders of the governance keys must sign it",
            )


def verify_signatures(signed: Signed, label: str, sets: Sequence[GovernanceSet], what: str) -> None:
    """Returns if each signature, of which there may be none yet, is of a key of one of `sets` and verifies."""
    for item in signed.signatures:
        if not any(item.key in chosen.keys for chosen in sets):
            raise PeerError(
                "not_governance",
                f"the {what} is signed by key {item.key.hex()[:16]}, which is not a governance key",
                next_step="compare `fedveil fingerprint` with the operator by telephone",
            )
        signing.verify_bytes(item.key, item.sig, label, signed.body)


def signers(signed: Signed) -> frozenset[bytes]:
    """The distinct keys that signed: however often one signs, it counts once."""
    return frozenset(item.key for item in signed.signatures)


def sign_trust(document: TrustDocument, keys: Sequence[PrivateKey]) -> Signed:
    """A trust document, signed with keys of the set before it and of its own set (the first: of its own)."""
    return sign_body(document.body, TRUST_LABEL, keys)


def encode_chain(chain: Sequence[Signed]) -> bytes:
    """The chain as `/trust` serves it."""
    return jcs.dumps([signed.to_json() for signed in chain])


def decode_chain(data: bytes) -> list[Signed]:
    """The links of a chain, not yet verified; PeerError `bad_document`."""
    rows = documents.rows(documents.canonical(data, "trust chain"), "trust chain", MAX_CHAIN)
    return [Signed.from_json(row, "trust document") for row in rows]


def verify_chain(data: bytes, expected_fingerprint: bytes) -> Trust:
    """The trust that the chain in `data` establishes for whoever pinned `expected_fingerprint`.

    Each later document carries k signatures of the set before it and k of its own: a set comes into force only once
    enough of its holders have shown that they can sign (the rule of The Update Framework for a new root, TUF 5.3).
    Raises PeerError `fingerprint_mismatch` before anything else of it is believed, `bad_document`, `broken_chain`,
    `wrong_federation`, and those of `verify_body`.
    """
    chain = decode_chain(data)
    if not chain:
        raise PeerError("bad_document", "the trust chain is empty")
    parsed = [parse_trust(signed.body) for signed in chain]
    first = parsed[0]
    own = fingerprint(first.federation_id, first.governance)
    if own != expected_fingerprint:
        raise PeerError(
            "fingerprint_mismatch",
            f"the coordinator's fingerprint is {fingerprint_text(own)}, expected is "
            f"{fingerprint_text(expected_fingerprint)}",
            not_done="nothing was sent to it and nothing was stored",
            next_step="compare with the operator's `fedveil fingerprint` by telephone, not by e-mail",
        )
    before: TrustDocument | None = None
    for signed, document in zip(chain, parsed, strict=True):
        check_link(document, before, first.federation_id)
        verify_by_all(signed, TRUST_LABEL, link_signers(document, before), "trust document")
        before = document
    return Trust(first.federation_id, own, tuple(parsed))


def link_signers(document: TrustDocument, before: TrustDocument | None) -> tuple[GovernanceSet, ...]:
    """The sets of which k each must sign `document`."""
    if before is None or before.governance == document.governance:
        return (document.governance,)
    return before.governance, document.governance


def check_link(document: TrustDocument, before: TrustDocument | None, federation_id: FederationId) -> None:
    """Returns if `document` may stand after `before`, signatures apart; else `wrong_federation`, `broken_chain`."""
    if document.federation_id != federation_id:
        raise PeerError("wrong_federation", "a trust document of another federation stands in the chain")
    number = 1 if before is None else before.sequence + 1
    if document.sequence != number:
        raise PeerError("broken_chain", f"trust document {number} calls itself {document.sequence}")
    if document.previous != (b"" if before is None else before.digest):
        raise PeerError("broken_chain", f"trust document {number} does not follow the one before it")
    floor = 0 if before is None else before.roster_version
    if document.roster_version < floor or (before is None and document.roster_version):
        raise PeerError("broken_chain", f"trust document {number} goes back to an older roster")


def parse_trust(body: bytes) -> TrustDocument:
    """The document in a body; PeerError `bad_document`. Signatures are verified elsewhere."""
    what = "trust document"
    names = {
        "authorities",
        "coordinator",
        "federation_id",
        "governance",
        "holders",
        "previous",
        "roster",
        "sequence",
    }
    fields = documents.Fields(documents.canonical(body, what), what, names)
    governance = documents.Fields(fields.value("governance"), what, {"k", "keys"})
    roster = documents.Fields(fields.value("roster"), what, {"hash", "version"})
    try:
        chosen = GovernanceSet(governance.integer("k"), tuple(governance.hexes("keys", 32, MAX_GOVERNANCE_KEYS)))
    except ValueError as error:
        raise documents.bad(what, str(error)) from error
    begun = bool(roster.value("hash"))
    rows = [
        documents.Fields(row, what, {"key", "org_id", "sig"}) for row in fields.rows("holders", MAX_GOVERNANCE_KEYS)
    ]
    document = TrustDocument(
        FederationId(fields.name("federation_id")),
        fields.integer("sequence"),
        chosen,
        tuple(fields.hexes("authorities", 32, MAX_AUTHORITIES)),
        fields.hex("coordinator", 32),
        roster.integer("version") if begun else 0,
        roster.hex("hash", 32) if begun else b"",
        fields.hex("previous", 32) if fields.value("previous") else b"",
        tuple(Holder(row.hex("key", 32), OrgId(row.name("org_id")), row.hex("sig", 64)) for row in rows),
    )
    if not document.authorities:
        raise documents.bad(what, "it names no certificate authority")
    if any(item.key not in chosen.keys for item in document.holders):
        raise documents.bad(what, "it names a holder of a key that is not in the set")
    documents.must_equal(document.body, body, what)
    return document
