"""Which certificate succeeds which, when each was first used, and whose identity is frozen.

Invariant: a certificate and its place in the succession are recorded in one transaction, with the audit row; so is a
freeze. Source: docs/protocol.md 2.11.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from fedveil_common.database import Database
from fedveil_common.ids import OrgId
from fedveil_common.ports import Clock
from fedveil_common.rows import Row

from fedveil_coordinator.store import tables
from fedveil_coordinator.store.members import Certificate, certificate_values
from fedveil_coordinator.store.records import audit


@dataclass(frozen=True, slots=True)
class Renewal:
    """`serial` was signed at `made_s` to succeed `predecessor`. Times are seconds since 1970; None: not yet."""

    serial: str
    predecessor: str
    made_s: float
    used_s: float | None = None
    withdrawn_s: float | None = None


@dataclass(frozen=True, slots=True)
class Freeze:
    """The identity (role, org) is frozen since `frozen_s`, because `serial` was used after its successor."""

    role: str
    org_id: OrgId
    serial: str
    frozen_s: float


class Renewals:
    """The succession of certificates. Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def renewals(self) -> list[Renewal]:
        """Every renewal, oldest first."""
        with self._database.read() as connection:
            return [_renewal(row) for row in tables.RENEWALS.select(connection)]

    def freezes(self) -> list[Freeze]:
        """Who is frozen now."""
        with self._database.read() as connection:
            return [
                Freeze(row.text("role"), OrgId(row.text("org_id")), row.text("serial"), row.real("frozen_s"))
                for row in tables.FREEZES.select(connection)
            ]

    def record_renewal(
        self, certificate: Certificate, predecessor: str, withdrawn: Sequence[str], at_s: float, who: str
    ) -> None:
        """A certificate that was signed to succeed `predecessor`; those of `withdrawn` will never be used."""
        with self._database.write() as connection:
            for serial in withdrawn:
                tables.RENEWALS.change(connection, {"serial": serial}, withdrawn_s=float(at_s))
            tables.CERTIFICATES.insert(connection, **certificate_values(certificate))
            tables.RENEWALS.insert(
                connection,
                serial=certificate.serial,
                predecessor=predecessor,
                made_s=float(at_s),
                used_s=None,
                withdrawn_s=None,
            )
            audit(
                connection,
                self._clock,
                who,
                "renew",
                org=certificate.org_id,
                role=certificate.role,
                serial=certificate.serial,
                predecessor=predecessor,
            )

    def mark_used(self, serial: str, at_s: float) -> None:
        """The first call with `serial`: its predecessor is superseded from now on."""
        with self._database.write() as connection:
            tables.RENEWALS.change(connection, {"serial": serial}, used_s=float(at_s))
            audit(connection, self._clock, "coordinator", "superseded", by=serial)

    def freeze(self, freeze: Freeze) -> None:
        """Nobody speaks for this identity until it has new keys (`lift`, or a re-key)."""
        with self._database.write() as connection:
            tables.FREEZES.put(
                connection,
                role=freeze.role,
                org_id=freeze.org_id,
                serial=freeze.serial,
                frozen_s=float(freeze.frozen_s),
            )
            audit(
                connection,
                self._clock,
                "coordinator",
                "frozen",
                org=freeze.org_id,
                role=freeze.role,
                serial=freeze.serial,
            )

    def replace_identity(self, certificate: Certificate, at_s: float, who: str) -> None:
        """A certificate from outside the succession, for an identity that starts anew: its earlier ones end, and so
        does a freeze. Repeating changes nothing.
        """
        with self._database.write() as connection:
            if tables.CERTIFICATES.one(connection, serial=certificate.serial) is not None:
                return
            end_identity(connection, certificate.role, certificate.org_id, at_s)
            tables.CERTIFICATES.insert(connection, **certificate_values(certificate))
            audit(
                connection,
                self._clock,
                who,
                "certificate",
                org=certificate.org_id,
                role=certificate.role,
                serial=certificate.serial,
            )


def end_identity(connection: sa.Connection, role: str, org_id: OrgId, at_s: float) -> None:
    """In the transaction of who makes it anew."""
    for row in tables.CERTIFICATES.select(connection, role=role, org_id=org_id, revoked_s=None):
        tables.CERTIFICATES.change(connection, {"serial": row.text("serial")}, revoked_s=float(at_s))
    tables.FREEZES.delete(connection, role=role, org_id=org_id)


def _renewal(row: Row) -> Renewal:
    def optional(name: str) -> float | None:
        return None if row.values[name] is None else row.real(name)

    return Renewal(
        row.text("serial"), row.text("predecessor"), row.real("made_s"), optional("used_s"), optional("withdrawn_s")
    )
