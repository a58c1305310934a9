"""A federation in which a process may die at any single write to its disk: right before it, or right after.

Writes are numbered over all lives of a process, in the order in which it makes them: every record of the journal, every
update, input, sum, plan, roster, note and end, and every deletion. Who died is started again at once, from what its
journal holds. Built on the observed federation of `ledger`, so every rule of the stories is checked as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from federation import FIVE, RUN
from fedveil_common import layout as layouts
from fedveil_common.ids import COORDINATOR, OrgId, RunId
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_common.provenance import Lineage
from fedveil_common.secret import Seed
from fedveil_coordinator import driver as coordinator
from fedveil_participant.ports import Bench
from fedveil_simulation.journals import PackedMemory
from ledger import CrashError, LedgerCluster, LedgerSpool, story_plan
from numpy.typing import NDArray

MEMBER_WRITES = (
    "save",
    "put_update",
    "drop_update",
    "drop_updates",
    "save_plan",
    "save_roster",
    "save_newer_roster",
    "save_end",
    "note",
    "discard_input",
)
COORDINATOR_WRITES = (
    "append",
    "create_run",
    "set_status",
    "owe",
    "delivered",
    "save_answer",
    "store_sum",
    "discard_inputs",
    "keep_inputs",
)
VECTORS = {"new_input", "spool"}
"""Methods whose result is written by its `finish`."""


@dataclass
class Writes:
    """The writes of one party so far, by what they write; `fatal` is the number of the one it dies at, and when."""

    party: OrgId
    made: list[str] = field(default_factory=list)
    fatal: tuple[int, bool] | None = None
    died: bool = False

    def __call__(self, name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        """`write`, counted; the party may be gone before it (not durable) or after it (durable)."""

        def counted(*arguments: Any, **options: Any) -> Any:
            number = len(self.made)
            self.made.append(self.kind_of(name, arguments))
            if self.fatal == (number, False):
                self.died = True
                raise CrashError(self.party)
            result = write(*arguments, **options)
            if self.fatal == (number, True):
                self.died = True
                raise CrashError(self.party)
            return result

        return counted

    @staticmethod
    def kind_of(name: str, arguments: tuple[Any, ...]) -> str:
        """What a write writes: for a record of the journal its kind."""
        match name:
            case "save":
                return f"save {arguments[2]}"
            case "append":
                return f"append {', '.join(kind for kind, _ in arguments[1])}"
            case _:
                return name

    def watch(self, memory: Any, names: tuple[str, ...]) -> None:
        """Count these methods of a journal, and the vectors that it begins."""
        for name in names:
            setattr(memory, name, self(name, getattr(memory, name)))
        for name in VECTORS:
            if hasattr(memory, name):
                setattr(memory, name, self._vectors(name, getattr(memory, name)))

    def _vectors(self, name: str, begin: Callable[..., PackedMemory]) -> Callable[..., PackedMemory]:
        def begun(*arguments: Any) -> PackedMemory:
            made = begin(*arguments)
            made.finish = self(name, made.finish)  # type: ignore[method-assign]
            return made

        return begun


class WholeBench:
    """The marks of `ledger.MarkedBench` on the grid: whatever the rounding draws, the integers are the same."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.accept, self.encode, self.rows = bench.accept, bench.encode, bench.rows

    def contribution(
        self, plan: Plan, version: bytes, purpose: Purpose, lineage: Lineage | None, fresh: Callable[[], Seed]
    ) -> list[NDArray[np.float64]]:
        values = np.concatenate(self._bench.contribution(plan, version, purpose, lineage, fresh))
        shape = layouts.layout_for(plan, purpose, 0 if lineage is None else lineage.step)
        for block, where in zip(shape.blocks, shape.slices().values(), strict=True):
            values[where] = np.round(values[where] * block.scale) / block.scale
        return [values]


class MortalCluster(LedgerCluster):
    """The observed federation; `writes[party]` counts, and says where that party dies."""

    def __init__(self, names: tuple[OrgId, ...], plan: bytes, fatal: Mapping[OrgId, tuple[int, bool]]) -> None:
        self.writes = {party: Writes(party, fatal=fatal.get(party)) for party in (COORDINATOR, *names)}
        self.canonical = plan
        super().__init__(names, plan)
        for org, member in self.members.items():
            self.writes[org].watch(member.memory, MEMBER_WRITES)

    def _new_coordinator(self) -> coordinator.Driver:
        if not isinstance(self.memory, LedgerSpool):
            self.memory = LedgerSpool(self)
            self.writes[COORDINATOR].watch(self.memory, COORDINATOR_WRITES)
        return super()._new_coordinator()

    def start_member(self, org_id: OrgId) -> None:
        super().start_member(org_id)
        driver = self.members[org_id].driver
        assert driver is not None
        driver._bench = WholeBench(driver._bench)  # type: ignore[assignment]

    def _bury(self, crash: CrashError) -> None:
        super()._bury(crash)
        if crash.party != COORDINATOR:
            self.start_member(crash.party)
        elif RUN not in self.memory.runs:
            self.start_run(RUN, self.canonical)  # the operator's order was not answered: it is given again

    @property
    def opened(self) -> dict[tuple[RunId, int], bytes]:
        """Every sum that the coordinator holds."""
        return {place: made.data for place, made in sorted(self.memory.sums.items())}


def mortal(fatal: Mapping[OrgId, tuple[int, bool]] = MappingProxyType({})) -> MortalCluster:
    """Three members, started, and a run ordered; where each party dies, if it does."""
    cluster = MortalCluster(FIVE[:3], story_plan(), fatal)
    for org in cluster.members:
        cluster.start_member(org)
    cluster.start_run(RUN, cluster.canonical)
    return cluster
