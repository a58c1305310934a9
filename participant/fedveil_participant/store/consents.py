"""What was offered to this organisation, what its people said to it, and which runs were let in.

Promise: each thing that somebody says is one transaction together with its row of the trail, which has who, when and
the digests; an admission is written in the transaction that writes the advert resting on it, or neither is. A reason
for a denial is kept here and in the trail, and nowhere else. Source: docs/consent.md.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from fedveil_common import jcs
from fedveil_common.database import Database
from fedveil_common.errors import PolicyRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.ports import Clock
from fedveil_common.roster import Roster
from fedveil_common.rows import Row, Value

from fedveil_participant.approval.binding import Binding, differences
from fedveil_participant.approval.decisions import ACCEPT, Approval, Denial, Person, Standing
from fedveil_participant.approval.roster_word import Confirmed
from fedveil_participant.events import Admission
from fedveil_participant.policy.automatic import LetIn
from fedveil_participant.store import tables

MAX_OFFERS = 256
"""Plans that may wait at once, and offers of ended runs that are kept: whoever runs the coordinator can name as many as
it likes.
"""

_PAUSED, _CONFIRMED = "paused", "confirmed_members"

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class StoredOffer:
    """A run that was offered, with the canonical plan, and what this house was when it was looked at."""

    run_id: RunId
    canonical: bytes
    binding: Binding
    wall_s: float


@dataclass(frozen=True, slots=True)
class Shown:
    """What somebody approved, as it was shown."""

    number: int
    person: Person
    text: str
    wall_s: float


class Consents:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # --- what was offered ---------------------------------------------------------------------------------------------

    def keep_offer(
        self,
        run_id: RunId,
        canonical: bytes,
        binding: Binding,
        kind: str = "consent_pending",
        offered: Container[RunId] = (),
    ) -> bool:
        """The offer waits for somebody's word, or for another one than was said; the first time that it came stays.
        `kind`: what stands in the trail. `offered`: the runs that the coordinator still offers. Where too many wait,
        the oldest of those that were denied, then of those that are offered no more, makes room; False if none can.
        """
        with self._database.write() as connection:
            known = tables.OFFERS.one(connection, run_id=run_id)
            if known is None and not self._make_room(connection, offered):
                return False
            tables.OFFERS.put(
                connection,
                run_id=run_id,
                plan_hash=binding.plan_hash,
                canonical=canonical,
                dataset=binding.dataset,
                binding=binding.to_bytes(),
                wall_s=self._clock.wall_s() if known is None else known.real("wall_s"),
            )
            if known is None or known.blob("binding") != binding.to_bytes():
                self._consent_trail(connection, kind, (("run", run_id), *binding.facts()))
        return True

    def _make_room(self, connection: sa.Connection, offered: Container[RunId]) -> bool:
        """Whether one more offer may wait. What was said about a plan stays, also if its offer goes."""
        ended = [
            row
            for row in tables.OFFERS.select(connection)
            if tables.ENDS.one(connection, run_id=row.text("run_id")) is not None
        ]
        for row in ended[: max(0, len(ended) - MAX_OFFERS)]:
            tables.OFFERS.delete(connection, run_id=row.text("run_id"))
        waiting = _waiting(connection)
        if len(waiting) < MAX_OFFERS:
            return True
        denied = [row for row in waiting if tables.DENIALS.one(connection, plan_hash=row.blob("plan_hash")) is not None]
        gone = [row for row in waiting if RunId(row.text("run_id")) not in offered]
        for why, rows in (("denied", denied), ("not offered any more", gone)):
            if rows:
                run_id = rows[0].text("run_id")
                tables.OFFERS.delete(connection, run_id=run_id)
                facts = (("run", run_id), ("plan", rows[0].blob("plan_hash").hex()), ("why", why))
                self._consent_trail(connection, "offer_dropped", facts)
                return True
        return False

    def offers(self) -> list[StoredOffer]:
        """Every offer that waited, oldest first; of runs that ended the last MAX_OFFERS."""
        with self._database.read() as connection:
            found = tables.OFFERS.select(connection)
        return [_offer(row) for row in found]

    def waiting(self) -> list[StoredOffer]:
        """The offers of runs that have neither begun here nor ended, oldest first."""
        with self._database.read() as connection:
            found = _waiting(connection)
        return [_offer(row) for row in found]

    # --- what was said ------------------------------------------------------------------------------------------------

    def approve(
        self, binding: Binding, run_id: str, runs: int, until_s: float, need: int, person: Person, shown: str
    ) -> Approval:
        """`person` approves; a second one, to the same terms, adds to the first. With enough of them the plan is no
        longer denied. `until_s`: inf for no end. `shown`: what the person approved, in words.
        """
        now = self._clock.wall_s()
        with self._database.write() as connection:
            row = next(
                (
                    row
                    for row in tables.APPROVALS.select(connection, plan_hash=binding.plan_hash, open=1)
                    if (row.blob("binding"), row.text("dataset")) == (binding.to_bytes(), binding.dataset)
                    and (row.text("run_id"), row.integer("runs"), row.real("until_s")) == (run_id, runs, until_s)
                    and not _approval(connection, row).complete
                ),
                None,
            )
            number = _next(connection) if row is None else row.integer("number")
            if row is None:
                tables.APPROVALS.insert(
                    connection,
                    number=number,
                    plan_hash=binding.plan_hash,
                    dataset=binding.dataset,
                    binding=binding.to_bytes(),
                    run_id=run_id,
                    runs=runs,
                    until_s=until_s,
                    need=need,
                    open=1,
                    wall_s=now,
                )
            tables.APPROVERS.put(connection, number=number, uid=person.uid, name=person.name, shown=shown, wall_s=now)
            stored = tables.APPROVALS.one(connection, number=number)
            assert stored is not None, "written above"
            approval = _approval(connection, stored)
            if approval.complete and tables.DENIALS.one(connection, plan_hash=binding.plan_hash) is not None:
                _outlive(connection, binding.plan_hash)
                tables.DENIALS.delete(connection, plan_hash=binding.plan_hash)
            terms = (
                ("approval", str(number)),
                ("run", run_id),
                ("runs", str(runs)),
                ("until_s", "" if math.isinf(until_s) else repr(until_s)),
                ("approvers", f"{len(approval.people)} of {need}"),
            )
            self._consent_trail(connection, "consent_given", (*_by(person), *terms, *binding.facts(), ("shown", shown)))
        return approval

    def deny(self, plan_hash: bytes, person: Person, reason: str) -> tuple[RunId, ...]:
        """`person` says no: every approval of the plan ends, and what a command line says of it counts no more. The
        runs of it that were let in and have not ended.
        """
        with self._database.write() as connection:
            tables.DENIALS.put(
                connection,
                plan_hash=plan_hash,
                uid=person.uid,
                name=person.name,
                reason=reason,
                wall_s=self._clock.wall_s(),
            )
            _outlive(connection, plan_hash)
            tables.APPROVALS.change(connection, {"plan_hash": plan_hash, "open": 1}, open=0)
            runs = tuple(
                RunId(row.text("run_id"))
                for row in tables.ADMISSIONS.select(connection, plan_hash=plan_hash)
                if tables.ENDS.one(connection, run_id=row.text("run_id")) is None
            )
            kind = "consent_withdrawn" if runs else "consent_denied"
            facts = (*_by(person), ("plan", plan_hash.hex()), ("runs", ",".join(runs)), ("reason", reason))
            self._consent_trail(connection, kind, facts)
        return runs

    def was_denied(self, plan_hash: bytes) -> bool:
        """Whether somebody said no to a plan, ever: only people let it in again, run by run."""
        with self._database.read() as connection:
            return denied_before(connection, plan_hash)

    def standing_consents(self) -> Standing:
        """Everything that was said and still counts, and every run that was let in."""
        with self._database.read() as connection:
            approvals = [_approval(connection, row) for row in tables.APPROVALS.select(connection, open=1)]
            denials = tables.DENIALS.select(connection)
            accepted = tables.ACCEPTED.select(connection)
            let_in = tables.ADMISSIONS.select(connection)
        return Standing(
            frozenset(row.blob("plan_hash") for row in accepted),
            tuple(approvals),
            tuple(
                Denial(
                    row.blob("plan_hash"),
                    Person(row.integer("uid"), row.text("name")),
                    row.text("reason"),
                    row.real("wall_s"),
                )
                for row in denials
            ),
            tuple(
                LetIn(
                    row.text("run_id"),
                    row.blob("plan_hash"),
                    row.text("dataset"),
                    row.text("approved_by"),
                    row.integer("rounds"),
                    row.real("epsilon"),
                    row.real("wall_s"),
                )
                for row in let_in
            ),
        )

    def shown(self, plan_hash: bytes) -> list[Shown]:
        """What people were shown when they approved a plan, oldest first, ended approvals included."""
        with self._database.read() as connection:
            numbers = [row.integer("number") for row in tables.APPROVALS.select(connection, plan_hash=plan_hash)]
            found = [row for number in numbers for row in tables.APPROVERS.select(connection, number=number)]
        return [
            Shown(
                row.integer("number"),
                Person(row.integer("uid"), row.text("name")),
                row.text("shown"),
                row.real("wall_s"),
            )
            for row in found
        ]

    # --- pause --------------------------------------------------------------------------------------------------------

    def set_paused(self, paused: bool, person: Person) -> None:
        """Whether inputs are held back, until it is set otherwise: also over a restart."""
        with self._database.write() as connection:
            if paused:
                tables.MARKS.put(connection, name=_PAUSED, value=b"yes")
            else:
                tables.MARKS.delete(connection, name=_PAUSED)
            self._consent_trail(connection, "paused" if paused else "resumed", _by(person))

    def is_paused(self) -> bool:
        """Whether inputs are held back."""
        with self._database.read() as connection:
            return tables.MARKS.one(connection, name=_PAUSED) is not None

    def note_leave(self, person: Person) -> None:
        """`person` ends the participation of the process that runs."""
        with self._database.write() as connection:
            self._consent_trail(connection, "leaving", _by(person))

    # --- who is in the federation -------------------------------------------------------------------------------------

    def confirmed_members(self) -> Confirmed:
        """The members that somebody here confirmed and that did not leave since."""
        with self._database.read() as connection:
            row = tables.MARKS.one(connection, name=_CONFIRMED)
        if row is None:
            return Confirmed()
        found = jcs.loads(row.blob("value"))
        assert isinstance(found, dict), "written below"
        members, approvers = found["members"], found["approvers"]
        assert isinstance(members, dict), "written below"
        assert isinstance(approvers, list), "written below"
        keys = {OrgId(name): bytes.fromhex(str(key)) for name, key in members.items()}
        return Confirmed(keys, tuple(map(str, approvers)))

    def keep_confirmed(self, confirmed: Confirmed) -> None:
        """Of the confirmed members these are left: the others are in no roster any more."""
        with self._database.write() as connection:
            tables.MARKS.put(connection, name=_CONFIRMED, value=_confirmed(confirmed))

    def confirm_roster(self, roster: Roster, words: str, person: Person, approvers: tuple[str, ...]) -> None:
        """`person` confirms every member of `roster` under its key. `words`: what the person was told and compared."""
        confirmed = Confirmed({member.org_id: member.protocol_key for member in roster.members}, approvers)
        facts = (("version", str(roster.version)), ("roster", roster.hash.hex()), ("words", words))
        with self._database.write() as connection:
            tables.MARKS.put(connection, name=_CONFIRMED, value=_confirmed(confirmed))
            self._consent_trail(connection, "roster_confirmed", (*_by(person), *facts))

    def _consent_trail(self, connection: sa.Connection, kind: str, facts: Facts) -> None:
        row: dict[str, Value] = {
            "wall_s": self._clock.wall_s(),
            "run_id": "",
            "round": 0,
            "attempt": 0,
            "kind": kind,
            "facts": jcs.dumps([[name, value] for name, value in facts]).decode(),
        }
        tables.TRAIL.append(connection, [row])


def denied_before(connection: sa.Connection, plan_hash: bytes) -> bool:
    """See `Consents.was_denied`."""
    return (
        tables.DENIALS.one(connection, plan_hash=plan_hash) is not None
        or tables.MARKS.one(connection, name=_denied(plan_hash)) is not None
    )


def _confirmed(confirmed: Confirmed) -> bytes:
    members: dict[str, jcs.Json] = {name: key.hex() for name, key in confirmed.members.items()}
    return jcs.dumps({"approvers": list(confirmed.approvers), "members": members})


def _outlive(connection: sa.Connection, plan_hash: bytes) -> None:
    """That a plan was denied is known also once an approval lifted it; what was accepted before is not any more."""
    tables.MARKS.put(connection, name=_denied(plan_hash), value=b"yes")
    tables.ACCEPTED.delete(connection, plan_hash=plan_hash)


def _denied(plan_hash: bytes) -> str:
    return f"denied/{plan_hash.hex()}"


def admit(connection: sa.Connection, admission: Admission, wall_s: float) -> None:
    """A run goes on by this consent, which is looked at again: in the transaction that writes the advert.

    PolicyRefusal `approval_gone` if the consent ended, or is for something else: then nothing of it is written. The
    month in which a run was first let in stays.
    """
    binding = admission.binding
    if tables.DENIALS.one(connection, plan_hash=binding.plan_hash) is not None:
        raise _gone("the plan was denied")
    others = [
        row
        for row in tables.ADMISSIONS.select(connection, number=admission.number)
        if row.text("run_id") != admission.run_id
    ]
    if admission.number:
        row = tables.APPROVALS.one(connection, number=admission.number)
        if row is None or not row.integer("open"):
            raise _gone("the approval has ended")
        approval = _approval(connection, row)
        changed = differences(approval.binding, binding)
        if approval.binding.plan_hash != binding.plan_hash or changed or not approval.complete:
            raise _gone(f"the approval is not for this: {', '.join(changed) or 'plan'}")
        if approval.run_id not in {"", admission.run_id} or len(others) >= approval.runs:
            raise _gone("the approval is for other runs")
        if wall_s > approval.until_s:
            raise _gone("the time of the approval is over")
    elif admission.approved_by == ACCEPT and tables.ACCEPTED.one(connection, plan_hash=binding.plan_hash) is None:
        raise _gone("the plan is not accepted on the command line")
    elif denied_before(connection, binding.plan_hash):
        raise _gone("the plan was denied meanwhile, and only people let it in now")
    before = tables.ADMISSIONS.one(connection, run_id=admission.run_id)
    values: dict[str, Value] = {
        "run_id": admission.run_id,
        "plan_hash": binding.plan_hash,
        "dataset": binding.dataset,
        "approved_by": admission.approved_by,
        "number": admission.number,
        "binding": binding.to_bytes(),
        "rounds": admission.rounds,
        "epsilon": admission.epsilon,
        "wall_s": wall_s if before is None else before.real("wall_s"),
    }
    if before is None or dict(before.values) != values:
        tables.ADMISSIONS.put(connection, **values)


def admission_facts(admission: Admission) -> tuple[tuple[str, str], ...]:
    """What stands in the trail beside the advert."""
    return ("approved_by", admission.approved_by), *admission.binding.facts()


def _gone(why: str) -> PolicyRefusal:
    return PolicyRefusal(
        "approval_gone",
        f"{why}, so no input may be made under it",
        not_done="no advert was written or sent, and no input was made",
        next_step="`fedveil pending` shows what waits; `fedveil approve PLAN_HASH` approves it as it is now",
    )


def _by(person: Person) -> tuple[tuple[str, str], ...]:
    return ("uid", str(person.uid)), ("name", person.name)


def _next(connection: sa.Connection) -> int:
    return 1 + max((row.integer("number") for row in tables.APPROVALS.select(connection)), default=0)


def _waiting(connection: sa.Connection) -> list[Row]:
    return [
        row
        for row in tables.OFFERS.select(connection)
        if tables.ENDS.one(connection, run_id=row.text("run_id")) is None and not _goes_on(connection, row)
    ]


def _goes_on(connection: sa.Connection, offer: Row) -> bool:
    """Whether the run was let in, bound to what this house was when the offer was looked at last."""
    admission = tables.ADMISSIONS.one(connection, run_id=offer.text("run_id"))
    return admission is not None and admission.blob("binding") == offer.blob("binding")


def _offer(row: Row) -> StoredOffer:
    binding = Binding.from_bytes(row.blob("plan_hash"), row.text("dataset"), row.blob("binding"))
    return StoredOffer(RunId(row.text("run_id")), row.blob("canonical"), binding, row.real("wall_s"))


def _approval(connection: sa.Connection, row: Row) -> Approval:
    people = tables.APPROVERS.select(connection, number=row.integer("number"))
    return Approval(
        row.integer("number"),
        Binding.from_bytes(row.blob("plan_hash"), row.text("dataset"), row.blob("binding")),
        row.text("run_id"),
        row.integer("runs"),
        row.real("until_s"),
        row.integer("need"),
        tuple(Person(one.integer("uid"), one.text("name")) for one in people),
        row.real("wall_s"),
    )
