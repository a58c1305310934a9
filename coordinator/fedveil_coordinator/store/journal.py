"""The coordinator's journal: facts of runs in the database; inputs, their products and opened sums in files beside.

Promise: when `append` returns, the facts are on the disk, all of them or none; an input is counted as received only
after its file is durable; a sum is readable only after it is whole. The row that names a file is written after it.
Source: FLSA/1 sections 2.9 and 2.10 (docs/protocol.md).
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedveil_common import durable
from fedveil_common.database import Database
from fedveil_common.errors import ConfigError
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.leaffile import LeafFile, LeafWriter
from fedveil_common.leafform import LeafSeal
from fedveil_common.leafshape import Shape
from fedveil_common.leafspool import Announced, LeafSpool
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import SumRef
from fedveil_common.plan import plan_hash
from fedveil_common.ports import Clock
from fedveil_common.ringfile import RingFile, RingWriter, read_signed
from fedveil_common.rows import Row, Value

from fedveil_coordinator.store import tables
from fedveil_coordinator.store.records import SERVICE, audit
from fedveil_coordinator.store.storage import Storage

SPOOL, INPUTS, SUMS = "spool", "inputs", "sums"
"""The folders of inputs that are at work, of inputs that are kept, and of opened sums."""

WAITING, ENDED = "waiting", "ended"

KEEP_BYTES = 2 * 1024**3
"""How many bytes of inputs of opened rounds, with what opened them, are kept for audits; the last opened round in any
case.
"""

_PRODUCT, _ANSWER = "+product", "+answer"
"""What stands beside inputs is told from them by a character that no id has; no dot: a name up to its last dot is what
belongs together.
"""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as lists show it. `code` is empty until the run ended."""

    run_id: RunId
    canonical_plan: bytes
    plan_hash: bytes
    created_s: float
    status: str
    code: str


class CoordinatorJournal:
    """What the driver keeps. Any thread. Every method may raise StorageError."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        clock: Clock,
        keep_bytes: int = KEEP_BYTES,
        storage: Storage | None = None,
    ) -> None:
        """`storage`: the seals of all files; None: they are in clear."""
        self._database = database
        self._clock = clock
        self._keep_bytes = keep_bytes
        self._storage = storage
        self._checks: dict[tuple[AttemptKey, Path], list[int]] = {}
        self._spools = folder / SPOOL
        self._kept = folder / INPUTS
        self._sums = folder / SUMS
        for one in (self._spools, self._kept, self._sums):
            durable.make_folder(one)
            durable.sweep(one)

    # --- facts and runs -----------------------------------------------------------------------------------------------

    def append(self, run_id: RunId, records: list[tuple[str, bytes]]) -> None:
        """Facts (kind, body) of a run, in order, after all others; one transaction, one fsync."""
        with self._database.write() as connection:
            rows: list[dict[str, Value]] = [{"run_id": run_id, "kind": kind, "body": body} for kind, body in records]
            tables.FACTS.append(connection, rows)

    def facts(self, run_id: RunId) -> list[tuple[str, bytes]]:
        """Every fact of a run, in order."""
        with self._database.read() as connection:
            found = tables.FACTS.select(connection, run_id=run_id)
        return [(row.text("kind"), row.blob("body")) for row in found]

    def facts_of_kind(self, run_id: RunId, kind: str) -> list[bytes]:
        """The bodies of one kind of facts of a run, in order."""
        with self._database.read() as connection:
            return [row.blob("body") for row in tables.FACTS.select(connection, run_id=run_id, kind=kind)]

    def create_run(self, run_id: RunId, canonical: bytes, created_s: float, who: str = SERVICE) -> None:
        """A run that waits for its turn. ConfigError `run_exists`."""
        digest = plan_hash(canonical)
        with self._database.write() as connection:
            if tables.RUNS.one(connection, run_id=run_id) is not None:
                raise ConfigError("run_exists", f"there is already a run {run_id}")
            tables.RUNS.insert(
                connection,
                run_id=run_id,
                canonical_plan=canonical,
                plan_hash=digest,
                created_s=float(created_s),
                status=WAITING,
                code="",
            )
            audit(connection, self._clock, who, "run.created", run=run_id, plan=digest.hex())

    def set_status(self, run_id: RunId, status: str, code: str, who: str = SERVICE) -> None:
        """Where a run stands; the spooled inputs of one that ended are removed. ConfigError `unknown_run`."""
        with self._database.write() as connection:
            if not tables.RUNS.change(connection, {"run_id": run_id}, status=status, code=code):
                raise ConfigError("unknown_run", f"there is no run {run_id}", next_step="fedveil run list")
            audit(connection, self._clock, who, f"run.{status}", run=run_id, code=code)
        if status == ENDED:
            self._remove(self._spools.glob(f"{run_id}.*"))

    def runs(self) -> list[RunRow]:
        """Every run, oldest first."""
        with self._database.read() as connection:
            return [_run(row) for row in tables.RUNS.select(connection)]

    def run(self, run_id: RunId) -> RunRow:
        """One run. ConfigError `unknown_run`."""
        with self._database.read() as connection:
            row = tables.RUNS.one(connection, run_id=run_id)
        if row is None:
            raise ConfigError("unknown_run", f"there is no run {run_id}", next_step="fedveil run list")
        return _run(row)

    def unfinished(self) -> list[tuple[RunId, bytes]]:
        """(run, canonical plan) of the runs that have not ended, oldest first."""
        return [(run.run_id, run.canonical_plan) for run in self.runs() if run.status != ENDED]

    # --- what is owed to members --------------------------------------------------------------------------------------

    def owe(self, run_id: RunId, orgs: tuple[OrgId, ...]) -> None:
        """The end of the run is owed to these. May be repeated before anything was delivered."""
        with self._database.write() as connection:
            for org in orgs:
                tables.DELIVERIES.put(connection, run_id=run_id, org_id=org)

    def owed(self, org_id: OrgId) -> list[RunId]:
        """Whose ends are owed to `org_id`, sorted."""
        with self._database.read() as connection:
            found = tables.DELIVERIES.select(connection, org_id=org_id)
        return sorted(RunId(row.text("run_id")) for row in found)

    def delivered(self, run_id: RunId, org_id: OrgId) -> None:
        """`org_id` has stored the end of the run."""
        with self._database.write() as connection:
            tables.DELIVERIES.delete(connection, run_id=run_id, org_id=org_id)

    # --- answers ------------------------------------------------------------------------------------------------------

    def save_answer(self, query_digest: bytes, ref: SumRef) -> None:
        """The sum that answers a query; the first one stays."""
        with self._database.write() as connection:
            if tables.ANSWERS.one(connection, query_digest=query_digest) is None:
                tables.ANSWERS.insert(
                    connection,
                    query_digest=query_digest,
                    run_id=ref.run_id,
                    round=ref.round,
                    result_hash=ref.result_hash,
                )

    def answer(self, query_digest: bytes) -> SumRef | None:
        """The stored answer, if any."""
        with self._database.read() as connection:
            row = tables.ANSWERS.one(connection, query_digest=query_digest)
        if row is None:
            return None
        return SumRef(RunId(row.text("run_id")), row.integer("round"), row.blob("result_hash"))

    # --- files --------------------------------------------------------------------------------------------------------

    def sum_path(self, run_id: RunId, round: int) -> Path:
        """Where the opened sum of a round stands: a ring file, sealed where the operator says so."""
        return self._sums / f"{run_id}.{round}"

    def open_sum(self, run_id: RunId, round: int) -> RingFile:
        """An opened sum, read leaf by leaf, to be closed. Errors as `RingFile`."""
        return RingFile(self.sum_path(run_id, round), self._sum_seal(run_id, round))

    def new_sum(self, run_id: RunId, round: int, length: int, bits: int) -> RingWriter:
        """An opened sum on its way in, leaf by leaf; in its place, durable, once it is finished."""
        return RingWriter(self.sum_path(run_id, round), length, bits, self._sum_seal(run_id, round))

    def read_sum(self, run_id: RunId, round: int) -> Signed:
        """An opened sum, shape (d,). Errors as `open_sum`."""
        return read_signed(self.sum_path(run_id, round), self._sum_seal(run_id, round))

    def spool_path(self, key: AttemptKey, org_id: OrgId) -> Path:
        """Where the protected input of a member stands."""
        return self._spools / f"{_attempt(key)}{org_id}"

    def spool(self, key: AttemptKey, org_id: OrgId, announced: Announced) -> LeafSpool:
        """An input on its way in, from the first leaf that is missing. PeerError `input_differs` if another one was
        announced or is there already: the first input of an attempt stays. One at a time for each member.
        """
        return self._spool(key, self.spool_path(key, org_id), announced, "input")

    def open_input(self, key: AttemptKey, org_id: OrgId) -> LeafFile:
        """An input, read leaf by leaf, to be closed. Errors as `read_sum`; the file's name names the member."""
        return self._open(key, self.spool_path(key, org_id))

    def new_noise(self, key: AttemptKey, shape: Shape) -> LeafWriter:
        """The coordinator's own noise on its way in, beside the inputs: no organisation has its name."""
        return self._new(key, self.spool_path(key, COORDINATOR), shape)

    def new_product(self, key: AttemptKey, shape: Shape) -> LeafWriter:
        """The product of an attempt's inputs on its way in; in its place, durable, once it is finished. One that is
        finished after the inputs were discarded stays until the run ends.
        """
        return self._new(key, self._spools / f"{_attempt(key)}{_PRODUCT}", shape)

    def open_product(self, key: AttemptKey) -> LeafFile:
        """The product of an attempt's inputs, to be closed. Errors as `open_input`."""
        return self._open(key, self._spools / f"{_attempt(key)}{_PRODUCT}")

    def spool_answer(self, key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...], announced: Announced) -> LeafSpool:
        """A holder's partial decryptions for this quorum (holders by index) on their way in. As `spool`: the first
        answer for a quorum stays.
        """
        return self._spool(key, self._answer(key, org_id, quorum), announced, "answer")

    def open_answer(self, key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...]) -> LeafFile:
        """A holder's partial decryptions for this quorum, to be closed. Errors as `open_input`."""
        return self._open(key, self._answer(key, org_id, quorum))

    def _answer(self, key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...]) -> Path:
        return self._spools / f"{_attempt(key)}{org_id}{_ANSWER}-{'-'.join(map(str, quorum))}"

    def _spool(self, key: AttemptKey, path: Path, announced: Announced, what: str) -> LeafSpool:
        known = self._checks.setdefault((key, path), [])
        return LeafSpool(path, announced, known, what, self._input_seal(key.run_id, key.round, path))

    def _open(self, key: AttemptKey, path: Path) -> LeafFile:
        return LeafFile(path, self._input_seal(key.run_id, key.round, path))

    def _new(self, key: AttemptKey, path: Path, shape: Shape) -> LeafWriter:
        return LeafWriter(path, shape, self._input_seal(key.run_id, key.round, path))

    def _input_seal(self, run_id: RunId, round: int, path: Path) -> LeafSeal | None:
        return None if self._storage is None else self._storage.input(run_id, round, path.name.rpartition(".")[2])

    def _sum_seal(self, run_id: RunId, round: int) -> LeafSeal | None:
        return None if self._storage is None else self._storage.sum(run_id, round)

    def discard_inputs(self, key: AttemptKey) -> None:
        """The inputs of an attempt that is over are gone, and with them their product and every answer."""
        self._checks = {known: checks for known, checks in self._checks.items() if known[0] != key}
        self._remove(self._spools.glob(f"{_attempt(key)}*"))

    def keep_inputs(
        self,
        key: AttemptKey,
        survivors: tuple[OrgId, ...],
        quorum: tuple[int, ...] = (),
        holders: tuple[OrgId, ...] = (),
    ) -> None:
        """The inputs of an attempt that was opened stay, for audits, and nothing else of the attempt does; the oldest
        kept rounds go, beyond the bytes that may be kept. May be repeated.

        With a `quorum`, what it opened stays too: the product, and the answers of these `holders` for it.
        """
        kept = {self.spool_path(key, org): self._kept_path(key.run_id, key.round, org) for org in survivors}
        if quorum:
            kept[self._spools / f"{_attempt(key)}{_PRODUCT}"] = self._kept_path(key.run_id, key.round, _PRODUCT)
            for org in holders:
                answer = self._answer(key, org, quorum)
                kept[answer] = self._kept_path(key.run_id, key.round, f"{org}{_ANSWER}")
        with durable.storing(self._kept):
            for path, final in kept.items():
                if path.exists():  # else it was moved before a crash
                    path.rename(final)
        self.discard_inputs(key)  # what came too late, or in part
        durable.sync_folder(self._kept)
        self._let_go(f"{key.run_id}.{key.round}.")

    def kept_input(self, run_id: RunId, round: int, org_id: OrgId) -> LeafFile:
        """An input of an opened round, to be closed. StorageError `ring_file_missing` once it was let go."""
        return self._open_kept(run_id, round, org_id)

    def kept_product(self, run_id: RunId, round: int) -> LeafFile:
        """The product of the inputs of an opened round, to be closed. Errors as `kept_input`."""
        return self._open_kept(run_id, round, _PRODUCT)

    def kept_answer(self, run_id: RunId, round: int, org_id: OrgId) -> LeafFile:
        """A holder's answer for the quorum that opened a round, to be closed. Errors as `kept_input`."""
        return self._open_kept(run_id, round, f"{org_id}{_ANSWER}")

    def _open_kept(self, run_id: RunId, round: int, name: str) -> LeafFile:
        path = self._kept_path(run_id, round, name)
        return LeafFile(path, self._input_seal(run_id, round, path))

    def _kept_path(self, run_id: RunId, round: int, name: str) -> Path:
        return self._kept / f"{run_id}.{round}.{name}"

    def _let_go(self, latest: str) -> None:
        """Whole rounds, the oldest first, until the rest fits; never the one whose files begin with `latest`."""
        with durable.storing(self._kept):
            found = [(path, path.stat()) for path in self._kept.iterdir()]
        rounds: dict[str, list[tuple[Path, os.stat_result]]] = {}
        for path, stat in found:
            rounds.setdefault(path.name.rpartition(".")[0] + ".", []).append((path, stat))
        total = sum(stat.st_size for _, stat in found)
        oldest_first = sorted(rounds.items(), key=lambda item: max(stat.st_mtime_ns for _, stat in item[1]))
        for name, files in oldest_first:
            if total <= self._keep_bytes:
                return
            if name != latest:
                self._remove(path for path, _ in files)
                total -= sum(stat.st_size for _, stat in files)

    def _remove(self, paths: Iterable[Path]) -> None:
        with durable.storing(self._spools):
            for path in list(paths):
                path.unlink(missing_ok=True)
        durable.sync_folder(self._spools)
        durable.sync_folder(self._kept)


def _attempt(key: AttemptKey) -> str:
    """How the names of all spooled files of an attempt begin, and no others'."""
    return f"{key.run_id}.{key.round}.{key.attempt}."


def _run(row: Row) -> RunRow:
    return RunRow(
        RunId(row.text("run_id")),
        row.blob("canonical_plan"),
        row.blob("plan_hash"),
        row.real("created_s"),
        row.text("status"),
        row.text("code"),
    )


__all__ = ["CoordinatorJournal", "RunRow"]
