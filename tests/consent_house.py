"""An organisation's house for tests of consent: a real store, a desk and orders over it, people that a test invents."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedveil_common import plan as plans
from fedveil_common.ids import COORDINATOR, FederationId, OrgId, RunId
from fedveil_common.plan import Plan
from fedveil_common.roster import Member, Role, Roster
from fedveil_common.secret import Seed
from fedveil_participant.approval.binding import LocalDigests
from fedveil_participant.approval.decisions import Person
from fedveil_participant.approval.desk import ConsentDesk
from fedveil_participant.approval.orders import NotRunning, Orders
from fedveil_participant.approval.people import Caller
from fedveil_participant.consent import Word
from fedveil_participant.policy import Policy, parse_policy
from fedveil_participant.store import ParticipantStore, open_store
from fedveil_simulation.ports import SeededEntropy, SimulatedClock

from tests.processes import PRIVATE, plan_text

OWNER, ALICE, BOB, MALLORY = (
    Caller(Person(uid, name)) for uid, name in ((990, "owner"), (1001, "alice"), (1002, "bob"), (1003, "mallory"))
)
STEWARD = Caller(Person(1004, "carol"), frozenset({"data-stewards"}))
ROSTER = tuple(OrgId(name) for name in ("acme", "borealis", "cygnus"))
MEMBERS = Roster(
    FederationId("north"),
    1,
    (
        Member(COORDINATOR, Role.COORDINATOR, bytes([9]) * 32),
        *(Member(name, Role.PARTICIPANT, bytes([index]) * 32) for index, name in enumerate(ROSTER)),
    ),
)
EXACT = plans.canonical(plans.parse_plan(plan_text().encode(), "plan.yaml"))
NOISY = plans.canonical(plans.parse_plan(PRIVATE.encode(), "plan.yaml"))
POLICY = """
version: 1
privacy: {exact_sums: allow, max_epsilon: 4, max_delta: 1.0e-5}
data:
  visits: {features: all, targets: all, min_rows: 20}
"""


@dataclass
class Bindings:
    """What a test says of the house."""

    local: LocalDigests = field(default_factory=LocalDigests)
    changed: Mapping[str, int] = field(default_factory=dict)
    approvals: dict[bytes, bytes] = field(default_factory=dict)

    def of(self, plan: Plan) -> LocalDigests:
        return self.local

    def changed_rows(self, plan: Plan, run_id: RunId) -> int | None:
        return self.changed.get(run_id)

    def trainer_known(self, plan_hash: bytes, trainer: bytes) -> bool:
        return self.approvals.get(plan_hash) in {None, trainer}

    def trainer_approved(self, plan_hash: bytes, trainer: bytes) -> None:
        self.approvals[plan_hash] = trainer


@dataclass
class Live:
    """What a participant that runs was told."""

    told: list[tuple[str, str]] = field(default_factory=list)
    late: dict[RunId, int] = field(default_factory=dict)

    def reconsider(self, plan_hash: bytes) -> None:
        self.told.append(("reconsider", plan_hash.hex()))

    def withdraw(self, plan_hash: bytes, code: str) -> dict[RunId, int]:
        self.told.append(("withdraw", code))
        return self.late

    def hold_changed(self) -> None:
        self.told.append(("hold", ""))

    def leave(self) -> None:
        self.told.append(("leave", ""))


class ConsentHouse:
    """The store of `folder`, opened anew by each house: as after a restart."""

    def __init__(
        self, folder: Path, policy: str = "", live: Live | None = None, clock: SimulatedClock | None = None
    ) -> None:
        self.clock = clock or SimulatedClock()
        self.store: ParticipantStore = open_store(
            folder, Seed(bytes(32)), self.clock, SeededEntropy(1, "store"), create=not (folder / "journal.db").exists()
        )
        self.bindings = Bindings()
        self.policy: Policy | None = parse_policy((POLICY + policy).encode(), "policy.yaml") if policy else None
        self.desk = ConsentDesk(ROSTER[0], self.policy, self.store, self.bindings, self.clock)
        self.live = live
        self.roster = MEMBERS
        self.orders = Orders(self.desk, self.store, live or NotRunning(), lambda: self.roster, self.clock, 990)

    def offer(self, run: str, canonical: bytes = EXACT) -> Word:
        return self.desk.decide(RunId(run), canonical, plans.parse_canonical(canonical), ROSTER)

    def admit(self, run: str, canonical: bytes = EXACT) -> None:
        """The first advert of a run, as far as consent is concerned."""
        from fedveil_common.ids import AttemptKey
        from fedveil_participant.events import Changes
        from fedveil_participant.stages import Idle

        plan, digest = plans.parse_canonical(canonical), plans.plan_hash(canonical)
        admission = self.desk.admission(RunId(run), plan, digest)
        self.store.save(AttemptKey(RunId(run), 1, 1), Idle(), "advert", (), Changes(admission=admission))

    def notes(self) -> list[str]:
        return [row.kind for row in self.store.trail()]

    def close(self) -> None:
        self.store.close()


@contextlib.contextmanager
def house(folder: Path, policy: str = "", live: Live | None = None) -> Iterator[ConsentHouse]:
    made = ConsentHouse(folder, policy, live)
    try:
        yield made
    finally:
        made.close()


def digest(canonical: bytes = EXACT) -> str:
    return plans.plan_hash(canonical).hex()


def renamed(canonical: bytes, **changes: object) -> bytes:
    """The plan with other fields of its own."""
    return plans.canonical(replace(plans.parse_canonical(canonical), **changes))  # type: ignore[arg-type]
