"""Who may speak: invites, members and certificates, each change in one transaction with its audit row.

Invariant: an invite is used up in the transaction that records the certificate it bought, so a crash leaves neither a
member without an invite nor an invite that works twice; the same key asking again gets the same certificate.
Signatures, dates and names are checked before anything here is called. Source: FLSA/1, enrolment (docs/protocol.md).
"""

from dataclasses import dataclass

import sqlalchemy as sa
from fedveil_common.database import Database
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.ports import Clock
from fedveil_common.rows import Row, Value

from fedveil_coordinator.store import tables
from fedveil_coordinator.store.records import SERVICE, audit


@dataclass(frozen=True, slots=True)
class Invite:
    """A governance-signed invite. `used_by` is the protocol key it enrolled, empty while it is open."""

    token_id: bytes
    org_id: OrgId
    role: str
    expires_s: float
    signed: bytes
    used_by: bytes = b""
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """An enrolled organisation. `proof` is the signed join request; `revoked_s` is None while it may speak."""

    org_id: OrgId
    role: str
    protocol_key: bytes
    proof: bytes
    token_id: bytes
    joined_s: float
    revoked_s: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate that the CA signed. `spki_hash`: SHA-256 of its public key; `serial` in hex."""

    serial: str
    org_id: OrgId
    role: str
    spki_hash: bytes
    pem: bytes
    not_after_s: float
    revoked_s: float | None = None


class Members:
    """Invites, members, certificates. Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def register_invite(self, invite: Invite, who: str = SERVICE) -> None:
        """A new open invite. ConfigError `invite_exists` for a token id that is known."""
        with self._database.write() as connection:
            if tables.INVITES.one(connection, token_id=invite.token_id) is not None:
                raise ConfigError("invite_exists", f"the invite of {invite.org_id} is already registered")
            tables.INVITES.insert(
                connection,
                token_id=invite.token_id,
                org_id=invite.org_id,
                role=invite.role,
                expires_s=float(invite.expires_s),
                signed=invite.signed,
                used_by=b"",
                serial="",
            )
            audit(connection, self._clock, who, "invite", org=invite.org_id, token=invite.token_id.hex())

    def invite(self, token_id: bytes) -> Invite | None:
        """The invite of a token, open or used."""
        with self._database.read() as connection:
            row = tables.INVITES.one(connection, token_id=token_id)
        return None if row is None else _invite(row)

    def invites(self) -> list[Invite]:
        """Every invite, oldest first."""
        with self._database.read() as connection:
            return [_invite(row) for row in tables.INVITES.select(connection)]

    def record_join(
        self, token_id: bytes, protocol_key: bytes, proof: bytes, certificate: Certificate, *, rekey: bool = False
    ) -> Certificate:
        """Use up the invite, add the member and its certificate; returns the certificate to hand out.

        The key that used the invite before gets the certificate that it got then. With `rekey` the member takes the new
        key and its earlier certificates end. PeerError `token_unknown`, `token_used` (another key), `already_member`.
        """
        with self._database.write() as connection:
            row = tables.INVITES.one(connection, token_id=token_id)
            if row is None:
                raise PeerError("token_unknown", "no invite has this token", not_done="nobody was enrolled")
            invite = _invite(row)
            if invite.used_by == protocol_key:
                earlier = tables.CERTIFICATES.one(connection, serial=invite.serial)
                assert earlier is not None, "the certificate was written in the transaction that used up the invite"
                return _certificate(earlier)
            if invite.used_by:
                raise PeerError(
                    "token_used",
                    f"the invite of {invite.org_id} was already used with another key",
                    peer=invite.org_id,
                    not_done="nobody was enrolled",
                    next_step="ask the operator who joined; it revokes and invites again if it was not you",
                )
            now = self._clock.wall_s()
            known = tables.MEMBERS.one(connection, org_id=invite.org_id)
            if known is not None and _member(known).revoked_s is None and not rekey:
                raise PeerError("already_member", f"{invite.org_id} is a member already", peer=invite.org_id)
            _revoke_certificates(connection, invite.org_id, now)
            tables.CERTIFICATES.insert(connection, **_values(certificate))
            tables.MEMBERS.put(
                connection,
                org_id=invite.org_id,
                role=invite.role,
                protocol_key=protocol_key,
                proof=proof,
                token_id=token_id,
                joined_s=now,
                revoked_s=None,
                reason="",
            )
            tables.INVITES.change(connection, {"token_id": token_id}, used_by=protocol_key, serial=certificate.serial)
            audit(
                connection,
                self._clock,
                invite.org_id,
                "rekey" if rekey else "join",
                org=invite.org_id,
                serial=certificate.serial,
                key=protocol_key.hex(),
            )
        return certificate

    def add_certificate(self, certificate: Certificate, who: str = SERVICE) -> None:
        """A certificate that no invite bought: the coordinator's own, the operator's."""
        with self._database.write() as connection:
            tables.CERTIFICATES.insert(connection, **_values(certificate))
            audit(connection, self._clock, who, "certificate", org=certificate.org_id, serial=certificate.serial)

    def replace_certificate(self, certificate: Certificate, at_s: float, who: str = SERVICE) -> None:
        """A certificate that no invite bought takes the place of the earlier ones of its name, which end at `at_s`.

        Repeating changes nothing.
        """
        with self._database.write() as connection:
            if tables.CERTIFICATES.one(connection, serial=certificate.serial) is not None:
                return
            _revoke_certificates(connection, certificate.org_id, at_s)
            tables.CERTIFICATES.insert(connection, **_values(certificate))
            audit(connection, self._clock, who, "certificate", org=certificate.org_id, serial=certificate.serial)

    def members(self) -> list[Member]:
        """Every member that ever joined, by name; revoked ones included."""
        with self._database.read() as connection:
            found = [_member(row) for row in tables.MEMBERS.select(connection)]
        return sorted(found, key=lambda member: member.org_id)

    def certificates(self) -> list[Certificate]:
        """Every certificate ever signed, oldest first; revoked ones included."""
        with self._database.read() as connection:
            return [_certificate(row) for row in tables.CERTIFICATES.select(connection)]

    def revoke(self, org_id: OrgId, reason: str, at_s: float, who: str = SERVICE) -> list[str]:
        """The member and its certificates end at `at_s`; returns the serials that ended now. Repeating changes nothing.
        ConfigError `unknown_member`.
        """
        with self._database.write() as connection:
            row = tables.MEMBERS.one(connection, org_id=org_id)
            if row is None:
                raise ConfigError("unknown_member", f"{org_id} is not a member", next_step="fedveil status")
            if _member(row).revoked_s is not None:
                return []
            tables.MEMBERS.change(connection, {"org_id": org_id}, revoked_s=float(at_s), reason=reason)
            serials = _revoke_certificates(connection, org_id, at_s)
            audit(connection, self._clock, who, "revoke", org=org_id, reason=reason)
        return serials


def _revoke_certificates(connection: sa.Connection, org_id: OrgId, at_s: float) -> list[str]:
    live = [row.text("serial") for row in tables.CERTIFICATES.select(connection, org_id=org_id, revoked_s=None)]
    for serial in live:
        tables.CERTIFICATES.change(connection, {"serial": serial}, revoked_s=float(at_s))
    return live


def _revoked(row: Row) -> float | None:
    return None if row.values["revoked_s"] is None else row.real("revoked_s")


def _invite(row: Row) -> Invite:
    return Invite(
        row.blob("token_id"),
        OrgId(row.text("org_id")),
        row.text("role"),
        row.real("expires_s"),
        row.blob("signed"),
        row.blob("used_by"),
        row.text("serial"),
    )


def _member(row: Row) -> Member:
    return Member(
        OrgId(row.text("org_id")),
        row.text("role"),
        row.blob("protocol_key"),
        row.blob("proof"),
        row.blob("token_id"),
        row.real("joined_s"),
        _revoked(row),
        row.text("reason"),
    )


def _certificate(row: Row) -> Certificate:
    return Certificate(
        row.text("serial"),
        OrgId(row.text("org_id")),
        row.text("role"),
        row.blob("spki_hash"),
        row.blob("pem"),
        row.real("not_after_s"),
        _revoked(row),
    )


def _values(certificate: Certificate) -> dict[str, Value]:
    return {
        "serial": certificate.serial,
        "org_id": certificate.org_id,
        "role": certificate.role,
        "spki_hash": certificate.spki_hash,
        "pem": certificate.pem,
        "not_after_s": float(certificate.not_after_s),
        "revoked_s": certificate.revoked_s,
    }
