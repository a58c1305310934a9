"""Invites: how a name becomes a member. A token for the joiner, a governance-signed record for everyone else.

Promise: the chain governance -> invite key -> protocol key can be checked by anyone who pins the governance set; the
coordinator, which sees neither a governance nor an invite private key, cannot make a member of it.
Source: FLSA/1 A18 (docs/protocol.md). A token is `fv1_` + base64url(fields || first 4 bytes of their SHA-256).
"""

import base64
import binascii
import enum
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.pki import documents
from fedveil_common.pki.governance import GovernanceSet, Signed, sign_body, verify_body
from fedveil_common.secret import PrivateKey

GOVERNANCE = OrgId("governance")
"""A name of the federation itself; no organisation may be invited under it."""

OPERATOR = OrgId("operator")
"""The name in the certificate that `init` makes for the operator; no organisation may be invited under it."""

RESERVED = frozenset({COORDINATOR, GOVERNANCE, OPERATOR})
"""Names that no invite may carry."""

TOKEN_PREFIX = "fv1_"  # noqa: S105  (a prefix, not a secret)
TOKEN_ID_BYTES = 16
JOIN_LABEL = "join"
INVITE_LABEL = "invite"
MAX_TOKEN = 1024
"""Characters of a token."""
_SUM_BYTES = 4
_NOTHING = "nothing was sent and nothing was stored"
_PASTE = "paste the whole line of `fedveil invite`"


class Role(enum.StrEnum):
    """What a certificate or a roster entry entitles to."""

    PARTICIPANT = "participant"
    COORDINATOR = "coordinator"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Invite:
    """The body of a signed invite. `expires` in seconds since 1970 UTC; `replaces`: SHA-256 of the old protocol key, or
    empty for a new member.
    """

    federation_id: FederationId
    token_id: bytes
    org_id: OrgId
    role: Role
    invite_key: bytes
    expires: int
    replaces: bytes

    @property
    def body(self) -> bytes:
        """What governance signs."""
        return jcs.dumps(
            {
                "expires": self.expires,
                "federation_id": self.federation_id,
                "invite_key": self.invite_key.hex(),
                "org_id": self.org_id,
                "replaces": self.replaces.hex(),
                "role": self.role.value,
                "token_id": self.token_id.hex(),
            }
        )


@dataclass(frozen=True, slots=True)
class Token:
    """What the joiner pastes: where to go, whom to trust, and the invite's private key."""

    address: str
    fingerprint: bytes
    token_id: bytes
    invite_key: PrivateKey


@dataclass(frozen=True, slots=True)
class JoinProof:
    """That the invite's holder chose this protocol key, and that whoever joins holds it.

    Both signatures (64 bytes) cover LP("FLSA/1/join") || LP(federation id) || LP(token id) || LP(CSR digest) ||
    LP(protocol key); `csr_digest` = SHA-256 of the request's DER.
    """

    csr_digest: bytes
    invite_sig: bytes
    key_sig: bytes


def sign_invite(invite: Invite, keys: Sequence[PrivateKey]) -> Signed:
    """The invite under these governance keys."""
    return sign_body(invite.body, INVITE_LABEL, keys)


def verify_invite(signed: Signed, sets: Iterable[GovernanceSet]) -> Invite:
    """The invite in `signed` if k keys of one of `sets`, and nobody else, signed it.

    Raises PeerError `invite_not_governance`, `bad_document`.
    """
    for chosen in sets:
        try:
            verify_body(signed, INVITE_LABEL, chosen, "invite")
        except PeerError:
            continue
        return parse_invite(signed.body)
    raise PeerError(
        "invite_not_governance",
        "the invite is not signed by enough governance keys of this federation",
        next_step="the holders of the governance keys must sign it; one from before a change of keys is void",
    )


def parse_invite(body: bytes) -> Invite:
    """The invite in a body; PeerError `bad_document` if it is none. Call it only on verified bytes."""
    what = "invite"
    names = {"expires", "federation_id", "invite_key", "org_id", "replaces", "role", "token_id"}
    fields = documents.Fields(documents.canonical(body, what), what, names)
    try:
        role = Role(fields.text("role", 64))
    except ValueError as error:
        raise documents.bad(what, "no such role") from error
    org_id = OrgId(fields.name("org_id"))
    if org_id in RESERVED or role is Role.COORDINATOR:
        raise documents.bad(what, f"{org_id} as {role.value} cannot be invited")
    invite = Invite(
        FederationId(fields.name("federation_id")),
        fields.hex("token_id", TOKEN_ID_BYTES),
        org_id,
        role,
        fields.hex("invite_key", 32),
        fields.integer("expires"),
        fields.hex("replaces", 32) if fields.value("replaces") else b"",
    )
    documents.must_equal(invite.body, body, what)
    return invite


def key_digest(protocol_key: bytes) -> bytes:
    """How an invite names the key it replaces: SHA-256."""
    return hashlib.sha256(protocol_key).digest()


def csr_digest(csr_der: bytes) -> bytes:
    """How a join proof names its certificate request: SHA-256 of the DER."""
    return hashlib.sha256(csr_der).digest()


def make_proof(
    federation_id: FederationId, token_id: bytes, csr_der: bytes, invite_key: PrivateKey, protocol_key: PrivateKey
) -> JoinProof:
    """The two signatures with which a joiner binds its certificate request and its protocol key to its invite."""
    digest = csr_digest(csr_der)
    fields = (federation_id.encode(), token_id, digest, signing.public_key(protocol_key))
    return JoinProof(
        digest,
        signing.sign_bytes(invite_key, JOIN_LABEL, *fields),
        signing.sign_bytes(protocol_key, JOIN_LABEL, *fields),
    )


def verify_proof(proof: JoinProof, invite: Invite, protocol_key: bytes) -> None:
    """Returns if the invite key and the protocol key both signed; PeerError `bad_join_proof` otherwise."""
    fields = (invite.federation_id.encode(), invite.token_id, proof.csr_digest, protocol_key)
    try:
        signing.verify_bytes(invite.invite_key, proof.invite_sig, JOIN_LABEL, *fields)
        signing.verify_bytes(protocol_key, proof.key_sig, JOIN_LABEL, *fields)
    except PeerError as error:
        raise PeerError(
            "bad_join_proof",
            f"the join of {invite.org_id} is not signed by its invite key and its own protocol key",
            peer=invite.org_id,
        ) from error


# --- tokens -----------------------------------------------------------------------------------------------------------


def format_token(token: Token) -> str:
    """The line to paste. It holds a private key: whoever reads it can join in the invited name."""
    address = token.address.encode("ascii")
    fields = bytes([len(address)]) + address + token.fingerprint + token.token_id + token.invite_key.expose()
    data = fields + hashlib.sha256(fields).digest()[:_SUM_BYTES]
    return TOKEN_PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def parse_token(text: str) -> Token:
    """The token in a pasted line; surrounding white space is dropped.

    Raises ConfigError `token_missing`, `token_unknown_version`, `token_malformed`, `token_altered`.
    """
    line = text.strip()
    if not line:
        raise ConfigError("token_missing", "no invite token was given", not_done=_NOTHING, next_step=_PASTE)
    if not line.startswith(TOKEN_PREFIX):
        raise ConfigError(
            "token_unknown_version", f"an invite token begins with {TOKEN_PREFIX}", not_done=_NOTHING, next_step=_PASTE
        )
    if len(line) > MAX_TOKEN:
        raise ConfigError(
            "token_malformed",
            f"the token has {len(line)} characters, at most {MAX_TOKEN} are allowed",
            not_done=_NOTHING,
            next_step=_PASTE,
        )
    code = line.removeprefix(TOKEN_PREFIX)
    try:
        data = base64.b64decode(code.encode("ascii") + b"=" * (-len(code) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ConfigError(
            "token_malformed", "the token holds characters that no token has", not_done=_NOTHING, next_step=_PASTE
        ) from None
    fields, check = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    if not fields or len(fields) != 1 + fields[0] + 32 + TOKEN_ID_BYTES + 32:
        raise ConfigError(
            "token_malformed",
            f"a token of {len(line)} characters is too short or too long",
            not_done=_NOTHING,
            next_step=_PASTE,
        )
    if hashlib.sha256(fields).digest()[:_SUM_BYTES] != check:
        raise ConfigError(
            "token_altered",
            "the token's check sum does not fit: a character was changed",
            not_done=_NOTHING,
            next_step=_PASTE,
        )
    at = 1 + fields[0]
    try:
        address = fields[1:at].decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(
            "token_malformed", "the token's address is not ASCII", not_done=_NOTHING, next_step=_PASTE
        ) from None
    split_address(address)
    token = Token(address, fields[at : at + 32], fields[at + 32 : at + 32 + TOKEN_ID_BYTES], PrivateKey(fields[-32:]))
    if format_token(token) != line:  # base64 has spare bits: one token, one text
        raise ConfigError(
            "token_altered", "the token is not in the form in which it was made", not_done=_NOTHING, next_step=_PASTE
        )
    return token


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPV6]:PORT; ConfigError `bad_address`."""
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    legal = bare and all(character.isascii() and (character.isalnum() or character in ".-:_") for character in bare)
    if not legal or not port.isdecimal() or not 0 < int(port) < 65535:
        raise ConfigError(
            "bad_address", f"{address!r} is not HOST:PORT with a port of 1 to 65534", next_step="write HOST:7443"
        )
    if ":" in bare and not host.startswith("["):
        raise ConfigError(
            "bad_address", f"{address!r}: an IPv6 address stands in brackets", next_step="write [::1]:7443"
        )
    return bare, int(port)
