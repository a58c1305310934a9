"""`join`: from a pasted token to a membership. Every private key is made here and never travels.

Promise: the home is not touched before the coordinator has proved itself (`meet`): a wrong fingerprint ends the join
before a key exists. Keys are on the disk before the request is sent, so that a join whose answer was lost is repeated
with the same keys and gets the same certificate. What the coordinator answers is checked against governance's
signature: name, role and whether an older key is replaced come from the signed invite.
"""

import contextlib
import pathlib
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common import durable, jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.gate import Bare, Outbox
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.pki import bundle, certificates, invites, sealed_keys
from fedveil_common.pki.documents import Fields, canonical
from fedveil_common.pki.governance import Trust
from fedveil_common.pki.invites import Invite, Token
from fedveil_common.pki.joining import JoinAnswer, JoinRequest
from fedveil_common.pki.names import Subject
from fedveil_common.pki.words import check_words
from fedveil_common.ports import Clock, Entropy
from fedveil_common.roster import Roster, accept_roster
from fedveil_common.secret import Passphrase, PrivateKey
from fedveil_common.succession import follow, roster_in_force, roster_of_its_time

from fedveil_participant.enrolment_client import dial, fetch_trust, post_join
from fedveil_participant.membership import Membership, has_membership, load_membership, save_membership

_PENDING = "joining.key"

FINAL = frozenset(
    {
        "already_member",
        "bad_csr",
        "bad_join_proof",
        "key_in_use",
        "member_revoked",
        "rekey_mismatch",
        "token_expired",
        "token_unknown",
        "token_used",
        "wrong_federation",
    }
)
"""Refusals after which the keys of a join are of no use: nobody is enrolled with them, and nobody will be."""


class KeyVault(Outbox, Protocol):
    """What a join puts into the journal, its outbox included; `store.ParticipantStore` is it."""

    def set_protocol_key(self, key: PrivateKey) -> None:
        """Seal the Ed25519 protocol key of this membership; an earlier one is erased."""
        ...

    def mark_rekeyed(self) -> None:
        """This journal begins a membership anew: what its predecessor spent is not known."""
        ...

    def save_roster(self, signed: bytes) -> None:
        """Pin a roster."""
        ...

    def roster(self) -> bytes:
        """The pinned roster; empty before the first."""
        ...


@dataclass(frozen=True, slots=True)
class JoinResult:
    """What `join` prints. `words`: check words of the TLS key, for a telephone call. `listed`: the roster has me."""

    federation_id: FederationId
    org_id: OrgId
    fingerprint: bytes
    words: str
    roster_version: int
    listed: bool
    rekeyed: bool


@dataclass(frozen=True, slots=True)
class _Pending:
    """The keys of a join that is under way."""

    token_id: bytes
    tls_key: ec.EllipticCurvePrivateKey
    protocol_key: PrivateKey

    def __repr__(self) -> str:
        return "_Pending(<redacted>)"


@dataclass(frozen=True, slots=True)
class Meeting:
    """A coordinator that proved itself; nothing is stored yet and nothing was said."""

    token: Token
    chain: bytes
    trust: Trust
    authorities: tuple[x509.Certificate, ...]

    def __repr__(self) -> str:
        return "Meeting(<redacted>)"


def meet(home: pathlib.Path, token_text: str, passphrase: Passphrase | None) -> Meeting:
    """The coordinator that issued the token, if it is the one. `home` is looked at and not touched.

    Raises ConfigError `token_...`, `other_federation`, `weak_passphrase`; PeerError `fingerprint_mismatch` before
    anything but two GETs is sent, `authority_mismatch`, `server_not_trusted`; Unreachable.
    """
    token = invites.parse_token(token_text)
    if passphrase is not None and len(passphrase.expose()) < sealed_keys.MIN_PASSPHRASE:
        raise ConfigError(
            "weak_passphrase",
            f"the passphrase has fewer than {sealed_keys.MIN_PASSPHRASE} bytes",
            next_step="choose a longer one, for example six words",
        )
    chain, trust, authorities = fetch_trust(token, Bare())
    _check_home(home, trust)
    dial(token, trust, authorities).close()
    return Meeting(token, chain, trust, authorities)


def join(
    home: pathlib.Path,
    met: Meeting,
    vault: KeyVault,
    passphrase: Passphrase | None,
    clock: Clock,
    entropy: Entropy,
) -> JoinResult:
    """Join the federation of the coordinator that was met. `passphrase`: that of the journal key, if it has one.

    Raises PeerError `token_used`, `token_expired` and what else the coordinator refuses with, after which no key of
    this join is left; ConfigError `home_is_another_member`; Unreachable, after which the whole may be repeated.
    """
    token, trust, authorities = met.token, met.trust, met.authorities
    pending = _pending(home, token, passphrase, entropy)
    csr = certificates.make_request(pending.tls_key)
    proof = invites.make_proof(trust.federation_id, token.token_id, csr, token.invite_key, pending.protocol_key)
    own_key = signing.public_key(pending.protocol_key)
    request = JoinRequest(trust.federation_id, token.token_id, csr, own_key, proof)
    # not the line over which it was met: the coordinator cuts one that is silent while keys are made and written
    connection = dial(token, trust, authorities)
    try:
        with contextlib.closing(connection):
            answer = post_join(connection, request, vault)
    except PeerError as error:
        if error.code in FINAL:
            durable.remove(home / _PENDING)
        raise
    invite = _check_answer(answer, token, trust, authorities, pending, clock.wall_s())
    _check_name(home, invite)
    roster = _check_roster(answer, trust, invite, own_key, vault)
    if invite.replaces:
        vault.mark_rekeyed()
    vault.set_protocol_key(pending.protocol_key)
    vault.save_roster(answer.signed_roster)
    member = Membership(
        home,
        trust.federation_id,
        invite.org_id,
        invite.role,
        token.address,
        trust.fingerprint,
        answer.certificate,
        bundle.bundle_pem(authorities),
        met.chain,
        answer.signed_roster,
    )
    save_membership(member, certificates.key_pem(pending.tls_key), passphrase, entropy)
    durable.remove(home / _PENDING)
    return JoinResult(
        trust.federation_id,
        invite.org_id,
        trust.fingerprint,
        check_words(certificates.spki_hash(certificates.load_certificate(answer.certificate))),
        roster.version,
        invite.org_id in roster.participants and roster.key_of(invite.org_id) == own_key,
        bool(invite.replaces),
    )


def _check_home(home: pathlib.Path, trust: Trust) -> None:
    """A home is one federation's, and goes behind no trust chain that it pinned: `trust_fork`, `trust_rollback`."""
    if not has_membership(home):
        return
    member = load_membership(home)
    if member.federation_id != trust.federation_id:
        raise ConfigError(
            "other_federation",
            f"{home} belongs to {member.federation_id}, the token to {trust.federation_id}",
            not_done="nothing was sent and the folder is as it was",
            next_step="join with another --home",
        )
    follow(member.trust, trust)


def _check_name(home: pathlib.Path, invite: Invite) -> None:
    """A home is one organisation's. Whose invite the token is stands in no token: only the answer says it."""
    if has_membership(home) and load_membership(home).org_id != invite.org_id:
        raise ConfigError(
            "home_is_another_member",
            f"{home} belongs to {load_membership(home).org_id}, and the token is for {invite.org_id}",
            not_done=f"{load_membership(home).org_id} is as it was; the coordinator has enrolled {invite.org_id}",
            next_step=f"make a folder for {invite.org_id} (mode 0700), move {home / _PENDING} into it, and join with "
            "the same token and that --home",
        )


def _pending(home: pathlib.Path, token: Token, passphrase: Passphrase | None, entropy: Entropy) -> _Pending:
    """The keys of an unfinished join with this token, or new ones, on the disk before they are used.

    Keys of another token, and a file that is in no form of ours, are replaced. SealedError `passphrase_missing`,
    `passphrase_wrong` for a sealed file: its keys may be enrolled already.
    """
    path = home / _PENDING
    found = _read_pending(path, passphrase) if path.exists() else None
    kept = found is not None and found.token_id == token.token_id
    made = found if found is not None and kept else _Pending(token.token_id, *_new_keys(entropy))
    text = jcs.dumps(
        {
            "protocol_key": made.protocol_key.expose().hex(),
            "tls_key": certificates.key_pem(made.tls_key).decode("ascii"),
            "token_id": made.token_id.hex(),
        }
    )
    if not kept or passphrase is not None:  # with a passphrase, keys that were in clear no longer are
        data = text if passphrase is None else sealed_keys.seal_key(text, passphrase, "joining", entropy)
        durable.write_file(path, data)
    return made


def _new_keys(entropy: Entropy) -> tuple[ec.EllipticCurvePrivateKey, PrivateKey]:
    return certificates.new_key(entropy), PrivateKey(entropy.take(32))


def _read_pending(path: pathlib.Path, passphrase: Passphrase | None) -> _Pending | None:
    """The keys in the file, whether it is sealed or in clear; None if it is in no form of ours."""
    data = sealed_keys.read_private(path)
    try:
        return _parse_pending(data)
    except (PeerError, ConfigError):
        if sealed_keys.FORMAT.encode() not in data:
            return None
    try:
        return _parse_pending(sealed_keys.open_key(data, passphrase, "joining"))
    except (PeerError, ConfigError):
        return None


def _parse_pending(data: bytes) -> _Pending:
    fields = Fields(canonical(data, _PENDING), _PENDING, {"protocol_key", "tls_key", "token_id"})
    return _Pending(
        fields.hex("token_id", invites.TOKEN_ID_BYTES),
        certificates.load_key(fields.text("tls_key", 4096).encode("ascii", "replace")),
        PrivateKey(fields.hex("protocol_key", 32)),
    )


def _check_answer(
    answer: JoinAnswer,
    token: Token,
    trust: Trust,
    authorities: tuple[x509.Certificate, ...],
    pending: _Pending,
    now: float,
) -> Invite:
    """The invite behind the answer, if it is my token's and the certificate is for its name and for my key."""
    invite = invites.verify_invite(answer.invite, (trust.governance, *trust.earlier))
    mine = (trust.federation_id, token.token_id, signing.public_key(token.invite_key))
    if (invite.federation_id, invite.token_id, invite.invite_key) != mine:
        raise PeerError("wrong_invite", "the coordinator answers with the invite of another token")
    certificate = certificates.load_certificate(answer.certificate)
    authority = bundle.issuer_in(certificate, authorities)
    certificates.check_leaf(certificate, authority, Subject(trust.federation_id, invite.role, invite.org_id), now)
    if certificates.spki_hash(certificate) != certificates.key_hash(pending.tls_key.public_key()):
        raise PeerError("wrong_name", "the certificate that came back is not for the key that was made here")
    return invite


def _check_roster(answer: JoinAnswer, trust: Trust, invite: Invite, own_key: bytes, vault: KeyVault) -> Roster:
    """The roster in force, if it may follow the one pinned here. Until a re-key is listed it names my old key."""
    roster = roster_in_force(answer.signed_roster, trust)
    before = vault.roster()
    pinned = roster_of_its_time(before, trust) if before else None
    return accept_roster(
        pinned,
        roster,
        federation_id=trust.federation_id,
        me=None if invite.replaces else invite.org_id,
        my_key=None if invite.replaces else own_key,
    )
