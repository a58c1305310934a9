"""Who may become a member: invites and join requests, checked before anything is stored or signed.

Promise: nobody is enrolled without an invite that governance signed, that has not expired, and that no other key used;
the same key asking again gets the same certificate. Invariant: the coordinator's process sees no governance key and no
invite private key; what it stores is what the next roster version must prove (see `roster`).
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.pki import certificates, invites
from fedveil_common.pki.governance import Signed, Trust
from fedveil_common.pki.invites import Invite
from fedveil_common.pki.joining import JoinAnswer, JoinRequest, encode_proof
from fedveil_common.pki.names import Subject
from fedveil_common.ports import Clock, Entropy

from fedveil_coordinator.store.members import Certificate, Member
from fedveil_coordinator.store.members import Invite as StoredInvite

_NOBODY = "nobody was enrolled"


class EnrolmentStore(Protocol):
    """What enrolment keeps; `store.Members` is it. Any thread; every method may raise StorageError."""

    def register_invite(self, invite: StoredInvite, who: str = ...) -> None:
        """A new open invite. ConfigError `invite_exists` for a known token id."""
        ...

    def invite(self, token_id: bytes) -> StoredInvite | None:
        """The invite of a token, open or used."""
        ...

    def record_join(
        self, token_id: bytes, protocol_key: bytes, proof: bytes, certificate: Certificate, *, rekey: bool = False
    ) -> Certificate:
        """Use up the invite and record member and certificate in ONE transaction; the certificate to hand out.

        The key that used the invite gets the certificate that it got then.
        PeerError `token_unknown`, `token_used`, `already_member`.
        """
        ...

    def members(self) -> Sequence[Member]:
        """Every member that ever joined, revoked ones included."""
        ...

    def certificates(self) -> Sequence[Certificate]:
        """Every certificate ever signed."""
        ...


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that passed every check: for whom, with which TLS key, and whether it replaces a key."""

    invite: Invite
    signed: bytes
    request: x509.CertificateSigningRequest
    rekey: bool


def check_join(
    request: JoinRequest, stored: StoredInvite | None, members: Sequence[Member], trust: Trust, now: float
) -> Admission:
    """The admission that `request` has earned. Pure.

    Raises PeerError `token_unknown`, `token_expired`, `token_used`, `wrong_federation`, `bad_join_proof`, `bad_csr`,
    `already_member`, `member_revoked`, `rekey_mismatch`, `key_in_use`.
    """
    if stored is None:
        raise PeerError(
            "token_unknown", "no invite has this token", not_done=_NOBODY, next_step="ask the operator for a new invite"
        )
    invite = read_invite(stored.signed, trust, current=not stored.used_by)
    proof = request.proof
    # First of all: whoever does not hold the invite's key learns nothing about the invite and raises no alarm.
    if request.federation_id != trust.federation_id:
        raise PeerError(
            "wrong_federation",
            f"the request is for {request.federation_id}",
            not_done=_NOBODY,
            next_step="check the token's address",
        )
    invites.verify_proof(proof, invite, request.protocol_key)
    if invites.csr_digest(request.csr) != proof.csr_digest:
        raise PeerError(
            "bad_join_proof",
            "the invite's holder signed another certificate request",
            not_done=_NOBODY,
            next_step="join again",
        )
    if stored.used_by and stored.used_by != request.protocol_key:
        raise PeerError(
            "token_used",
            f"the invite of {invite.org_id} was already used with another key",
            peer=invite.org_id,
            not_done=_NOBODY,
            next_step="ask the operator who joined; it revokes and invites again if it was not you",
        )
    # Expiry does not end a retry: the answer to a join that was recorded may have been lost.
    if not stored.used_by and now >= invite.expires:
        raise PeerError(
            "token_expired",
            f"the invite of {invite.org_id} expired {(now - invite.expires) / 3600:.1f} h ago",
            peer=invite.org_id,
            not_done=_NOBODY,
            next_step="ask the operator for a new invite",
        )
    csr = certificates.read_request(request.csr)
    known = next((member for member in members if member.org_id == invite.org_id), None)
    _check_member(invite, known, members, request.protocol_key, retry=bool(stored.used_by))
    return Admission(invite, stored.signed, csr, rekey=bool(invite.replaces))


def _check_member(
    invite: Invite, known: Member | None, members: Sequence[Member], protocol_key: bytes, *, retry: bool
) -> None:
    """The member that the invite would make may be made."""
    holder = next((member for member in members if member.protocol_key == protocol_key), None)
    if retry:
        if known is None or known.revoked_s is not None or known.protocol_key != protocol_key:
            raise PeerError(
                "member_revoked",
                f"{invite.org_id} was revoked or re-keyed",
                not_done=_NOBODY,
                next_step="ask for a new invite",
            )
        return
    if holder is not None:
        raise PeerError(
            "key_in_use",
            f"the protocol key is already that of {holder.org_id}",
            not_done=_NOBODY,
            next_step="join with a new key",
        )
    live = known is not None and known.revoked_s is None
    if not invite.replaces and live:
        raise PeerError(
            "already_member",
            f"{invite.org_id} is a member already",
            not_done=_NOBODY,
            next_step="the operator runs `fedveil invite ORG --rekey`",
        )
    if invite.replaces and (known is None or not live or invites.key_digest(known.protocol_key) != invite.replaces):
        raise PeerError(
            "rekey_mismatch",
            f"the invite replaces a key that {invite.org_id} does not hold now",
            not_done=_NOBODY,
            next_step="the operator runs `fedveil invite ORG --rekey` again",
        )


def read_invite(signed: bytes, trust: Trust, *, current: bool) -> Invite:
    """The invite in the bytes of a signed document, governance's signatures and the federation checked.

    `current`: only the set in force counts; an invite that nobody used before governance changed is void. Otherwise one
    of an earlier set counts too. Raises PeerError `invite_not_governance`, `bad_document`, `wrong_federation`.
    """
    sets = (trust.governance,) if current else (trust.governance, *trust.earlier)
    invite = invites.verify_invite(Signed.decode(signed, "invite"), sets)
    if invite.federation_id != trust.federation_id:
        raise PeerError("wrong_federation", f"the invite is of federation {invite.federation_id}")
    return invite


def register_invite(store: EnrolmentStore, trust: Trust, signed: bytes, now: float) -> int:
    """Keep a governance-signed invite; how many keys it replaces (1 for a re-key, else 0).

    Raises what `read_invite` raises; ConfigError `invite_expired`, `already_member`, `unknown_member`,
    `rekey_mismatch`, `invite_exists`.
    """
    invite = read_invite(signed, trust, current=True)
    if now >= invite.expires:
        raise ConfigError("invite_expired", f"the invite of {invite.org_id} has expired", next_step="invite again")
    known = next((m for m in store.members() if m.org_id == invite.org_id and m.revoked_s is None), None)
    if known is not None and not invite.replaces:
        raise ConfigError(
            "already_member",
            f"{invite.org_id} is a member already",
            next_step="for a member that lost its keys: `fedveil invite ORG --rekey`",
        )
    if invite.replaces and known is None:
        raise ConfigError("unknown_member", f"{invite.org_id} is not a member", next_step="invite it without --rekey")
    if invite.replaces and known is not None and invites.key_digest(known.protocol_key) != invite.replaces:
        raise ConfigError("rekey_mismatch", f"the invite replaces a key that {invite.org_id} does not hold now")
    store.register_invite(
        StoredInvite(invite.token_id, invite.org_id, invite.role.value, float(invite.expires), signed)
    )
    return 1 if invite.replaces else 0


class Enrolment:
    """The office that answers join requests. Any thread; holds the authority's key."""

    def __init__(
        self,
        trust: Callable[[], Trust],
        authority: Callable[[], certificates.Authority],
        store: EnrolmentStore,
        clock: Clock,
        entropy: Entropy,
        signed_roster: Callable[[], bytes],
        admitted: Callable[[OrgId, Certificate, bool], None],
    ) -> None:
        """`trust`, `authority`, `signed_roster`: the current ones. `admitted` (who, certificate, whether it replaces a
        key) is told after the join is durable; it updates the allow-list.
        """
        self._trust = trust
        self._authority = authority
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._signed_roster = signed_roster
        self._admitted = admitted
        self._lock = threading.Lock()

    def join(self, request: JoinRequest) -> JoinAnswer:
        """The certificate for a checked request; PeerError as `check_join` and the store raise it."""
        with self._lock:
            now = self._clock.wall_s()
            stored = self._store.invite(request.token_id)
            admission = check_join(request, stored, self._store.members(), self._trust(), now)
            made = self._issue(admission, now)
            given = self._store.record_join(
                request.token_id, request.protocol_key, encode_proof(request.proof), made, rekey=admission.rekey
            )
            if given.spki_hash != certificates.spki_hash(admission.request):
                raise PeerError(
                    "token_used",
                    "the invite was used with another TLS key",
                    not_done=_NOBODY,
                    next_step="ask for a new invite",
                )
            if given == made:
                self._admitted(given.org_id, given, admission.rekey)
        return JoinAnswer(given.pem, Signed.decode(admission.signed, "invite"), self._signed_roster())

    def _issue(self, admission: Admission, now: float) -> Certificate:
        key = admission.request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("read_request lets only P-256 keys pass")
        invite = admission.invite
        subject = Subject(invite.federation_id, invite.role, invite.org_id)
        certificate = certificates.issue(self._authority(), key, subject, now, self._entropy)
        return stored_certificate(certificate, subject)


def stored_certificate(certificate: x509.Certificate, subject: Subject) -> Certificate:
    """As the store keeps it."""
    return Certificate(
        certificates.serial_text(certificate),
        subject.org_id,
        subject.role.value,
        certificates.spki_hash(certificate),
        certificates.certificate_pem(certificate),
        certificates.validity(certificate)[1],
    )
