"""Who may say who belongs to the federation: governance sets, their fingerprint, and the chain of trust documents.

Promise: whoever knows the fingerprint (it travels in every invite) can follow the chain from the first governance set
to the current one and to the certificate authorities in force, without trusting the machine that serves the chain.
Invariant: a trust document counts only with k signatures of the set before it (the first: of its own set).
Source: FLSA/1 A7, A18 (docs/protocol.md); bodies are RFC 8785 JSON, verified as received.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import h, u32
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId
from fedveil_common.limits import MAX_DOCUMENT
from fedveil_common.pki import documents
from fedveil_common.secret import PrivateKey

TRUST_LABEL = "trust"
MAX_GOVERNANCE_KEYS = 64
MAX_CHAIN = 256
"""Documents in a trust chain."""


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
class TrustDocument:
    """Which governance set and certificate authorities (SHA-256 of DER) are in force from `sequence` (from 1) on."""

    federation_id: FederationId
    sequence: int
    governance: GovernanceSet
    authorities: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        """What is signed."""
        return jcs.dumps(
            {
                "authorities": [digest.hex() for digest in self.authorities],
                "federation_id": self.federation_id,
                "governance": {"k": self.governance.threshold, "keys": [key.hex() for key in self.governance.keys]},
                "sequence": self.sequence,
            }
        )


@dataclass(frozen=True, slots=True)
class Trust:
    """A verified chain: the first set fixes the fingerprint, the last document is in force."""

    federation_id: FederationId
    fingerprint: bytes
    sequence: int
    governance: GovernanceSet
    earlier: tuple[GovernanceSet, ...]
    authorities: tuple[bytes, ...]


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
    for item in signed.signatures:
        if item.key not in governance.keys:
            raise PeerError(
                "not_governance",
                f"the {what} is signed by key {item.key.hex()[:16]}, which is not a governance key",
                next_step="compare `fedveil fingerprint` with the operator by telephone",
            )
        signing.verify_bytes(item.key, item.sig, label, signed.body)
    count = len({item.key for item in signed.signatures})
    if count < governance.threshold:
        raise PeerError(
            "too_few_signatures",
            f"the {what} carries {count} governance signatures and needs {governance.threshold}",
            next_step="the holders of the governance keys must sign it",
        )


def sign_trust(document: TrustDocument, keys: Sequence[PrivateKey]) -> Signed:
    """A trust document, signed with keys of the set before it (the first document: of its own set)."""
    return sign_body(document.body, TRUST_LABEL, keys)


def encode_chain(chain: Sequence[Signed]) -> bytes:
    """The chain as `/trust` serves it."""
    return jcs.dumps([signed.to_json() for signed in chain])


def verify_chain(data: bytes, expected_fingerprint: bytes) -> Trust:
    """The trust that the chain in `data` establishes for whoever pinned `expected_fingerprint`.

    Raises PeerError `fingerprint_mismatch` before anything else of it is believed, `bad_document`, `broken_chain`,
    `wrong_federation`, and those of `verify_body`.
    """
    rows = documents.rows(documents.canonical(data, "trust chain"), "trust chain", MAX_CHAIN)
    chain = [Signed.from_json(row, "trust document") for row in rows]
    if not chain:
        raise PeerError("bad_document", "the trust chain is empty")
    parsed = [_parse_trust(signed.body) for signed in chain]
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
    signers = [first.governance, *(document.governance for document in parsed[:-1])]
    for index, (signed, document, signer) in enumerate(zip(chain, parsed, signers, strict=True)):
        if document.federation_id != first.federation_id:
            raise PeerError("wrong_federation", "a trust document of another federation stands in the chain")
        if document.sequence != index + 1:
            raise PeerError("broken_chain", f"trust document {index + 1} calls itself {document.sequence}")
        verify_body(signed, TRUST_LABEL, signer, "trust document")
    last = parsed[-1]
    sets = [document.governance for document in parsed]
    earlier = tuple(dict.fromkeys(item for item in sets if item != last.governance))
    return Trust(first.federation_id, own, last.sequence, last.governance, earlier, last.authorities)


def _parse_trust(body: bytes) -> TrustDocument:
    what = "trust document"
    fields = documents.Fields(
        documents.canonical(body, what), what, {"authorities", "federation_id", "governance", "sequence"}
    )
    governance = documents.Fields(fields.value("governance"), what, {"k", "keys"})
    try:
        chosen = GovernanceSet(governance.integer("k"), tuple(governance.hexes("keys", 32, MAX_GOVERNANCE_KEYS)))
    except ValueError as error:
        raise documents.bad(what, str(error)) from error
    document = TrustDocument(
        FederationId(fields.name("federation_id")),
        fields.integer("sequence"),
        chosen,
        tuple(fields.hexes("authorities", 32, 64)),
    )
    documents.must_equal(document.body, body, what)
    return document
