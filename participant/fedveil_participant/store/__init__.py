"""Everything a participant keeps in its folder, opened together: `journal.db`, `inputs/`, `updates/`,
`snapshots/`, `models/`: the last three are sealed.

The journal key (`journal.key`) is read by the composition root and handed in. Journals are never backed up: one that
came back from a copy would sign what it has already signed differently.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fedveil_common import plan as plans
from fedveil_common.database import Database, open_database
from fedveil_common.errors import IntegrityError, PolicyRefusal, SealedError
from fedveil_common.ids import RunId
from fedveil_common.messages import SignedBlob
from fedveil_common.ports import Clock, Entropy
from fedveil_common.rows import verify
from fedveil_common.sealedfile import SealedFiles
from fedveil_common.sealer import Sealer
from fedveil_common.secret import Seed

from fedveil_participant.data.registration import Registration
from fedveil_participant.store import snapshots, tables
from fedveil_participant.store.checkpoints import Checked, CheckpointRows
from fedveil_participant.store.consents import Consents, Shown, StoredOffer
from fedveil_participant.store.countersignatures import CountersignatureFiles
from fedveil_participant.store.data_sets import FORGOTTEN, DataSets
from fedveil_participant.store.holdings import Holdings, StoredEnd, StoredPlan
from fedveil_participant.store.journal import RoundJournal, Standing
from fedveil_participant.store.key import journal_key, make_journal_key, seal_journal_key
from fedveil_participant.store.ledgers import LedgerRow, LimitChange, PrivacyLedgers
from fedveil_participant.store.models import Models
from fedveil_participant.store.outbox import OutboxRows, Sent, StoredReceipt
from fedveil_participant.store.snapshots import Snapshots
from fedveil_participant.store.statistics_files import StatisticsFiles
from fedveil_participant.store.trail import TrailRow, TrailRows
from fedveil_participant.store.trainer_notes import IsolationNote, TrainerNotes
from fedveil_participant.store.updates import StoredUpdate, UpdateCache

FILE = "journal.db"
_CHECK = "key_check"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased of a data set, and what of it stays: the record of what was opened or spent, and objections."""

    registration: bool
    snapshots: int
    updates: int
    spent: int
    ledger: int
    excluded: int
    runs: int


class Books(PrivacyLedgers, DataSets, OutboxRows, CheckpointRows, TrailRows, Holdings, TrainerNotes, Consents):
    """What the commands read while a participant runs: no stage, no input, no update."""

    def __init__(self, database: Database, models: Models, sealer: Sealer, clock: Clock, entropy: Entropy) -> None:
        PrivacyLedgers.__init__(self, database, clock)
        DataSets.__init__(self, database, clock)
        OutboxRows.__init__(self, database, clock)
        CheckpointRows.__init__(self, database, clock)
        TrailRows.__init__(self, database, clock)
        Consents.__init__(self, database, clock)
        Holdings.__init__(self, database, models, sealer, clock, entropy)
        TrainerNotes.__init__(self, database)

    def close(self) -> None:
        """Every connection is closed."""
        self._database.close()

    def open_runs(self, dataset: str) -> list[RunId]:
        """Runs over a data set in which a round began, and whose end is not stored here."""
        with self._database.read() as connection:
            begun = {row.text("run_id") for row in tables.HIGH_WATER.select(connection)}
            ended = {row.text("run_id") for row in tables.ENDS.select(connection)}
        return [run for run in self.runs_over(dataset) if run in begun - ended]

    def runs_over(self, dataset: str) -> list[RunId]:
        """Every run over a data set that was answered with yes, in the order of the answers."""
        return [one.run_id for one in self.plans() if plans.parse_canonical(one.canonical).data.dataset == dataset]


class ParticipantStore(RoundJournal, UpdateCache, Books):
    """What the driver takes as its journal, and what the commands read."""

    def __init__(
        self, database: Database, home: Path, sealer: Sealer, key: Seed, clock: Clock, entropy: Entropy
    ) -> None:
        RoundJournal.__init__(self, database, sealer, home / "inputs", clock)
        UpdateCache.__init__(self, database, SealedFiles(home / "updates", key, entropy))
        Books.__init__(self, database, Models(home, key, entropy), sealer, clock, entropy)
        self.home = home
        self.clock, self.entropy = clock, entropy
        self.shelf = Snapshots(database, SealedFiles(home / snapshots.FOLDER, key, entropy))
        self._statistics = StatisticsFiles(home)
        self._countersignatures = CountersignatureFiles(home)
        self._models.seal_what_is_in_clear(database)
        self._drop_unnamed_models()

    def save_end(self, run_id: RunId, plan_hash: bytes, code: str, model_file: bytes, answers: bytes = b"") -> None:
        """How a run ended; its verified final model, and the answers of a statistics run (each empty: none)."""
        if answers:
            self._statistics.put(run_id, answers)
        super().save_end(run_id, plan_hash, code, model_file)

    def keep_snapshots(self, wanted: Iterable[tuple[bytes, bytes]]) -> None:
        """Accepted data is kept for these (plan hash, version) alone."""
        self.shelf.keep_only(wanted)

    def register(self, registration: Registration) -> None:
        """See `DataSets.register`. With other masking rules or filters, what was made from the rows as they were masked
        and filtered before is erased first: a run that goes on reads them anew. Hold the `FolderLock`.
        """
        before = self.registrations().get(registration.name)
        if before is not None and _seen_through(before) != _seen_through(registration):
            self._erase_rows(registration.name)
        super().register(registration)

    def _erase_rows(self, dataset: str) -> tuple[int, int]:
        """Accepted data and updates of a data set; how many there were of each."""
        erased = self.shelf.forget(dataset)
        with self._database.read() as connection:
            updates = tables.UPDATES.select(connection, dataset=dataset)
        for row in updates:
            self._files.delete(row.blob("blob"))
        with self._database.write() as connection:
            tables.UPDATES.delete(connection, dataset=dataset)
        return erased, len(updates)

    def forget_dataset(self, dataset: str) -> Forgotten:
        """Erases the registration of a data set and everything made from its rows; the rest of the record stays. What
        is written over in the database is emptied before this returns. Hold the `FolderLock`.
        """
        erased, updates = self._erase_rows(dataset)
        with self._database.write() as connection:
            named = tables.SOURCES.delete(connection, name=dataset) + tables.DATASETS.delete(connection, name=dataset)
            found = Forgotten(
                named > 0,
                erased,
                updates,
                len(tables.SPENT.select(connection, dataset=dataset)),
                len(tables.LEDGER.select(connection, dataset=dataset)),
                len(tables.EXCLUDED.select(connection, dataset=dataset)),
                0,
            )
            facts = [["dataset", dataset], ["snapshots", str(erased)], ["updates", str(updates)]]
            tables.TRAIL.append(connection, [self._trail(FORGOTTEN, facts)])
        self._database.erase_history()
        return replace(found, runs=len(self.runs_over(dataset)))

    def put_countersignature(self, run_id: RunId, blob: SignedBlob, *, held: bool) -> None:
        """This participant vouches for the final model of a run; `held`: once its owner has said so."""
        self._countersignatures.put(run_id, blob, held=held)

    def countersignature(self, run_id: RunId) -> tuple[SignedBlob, ...]:
        """What may leave of it; empty if there is none."""
        return self._countersignatures.get(run_id)

    def countersignature_held(self, run_id: RunId) -> bool:
        """Whether the owner is still to decide."""
        return self._countersignatures.held(run_id)

    def presumes_spent(self, dataset: str) -> bool:
        """Whether anything of this data set counts as spent only because of a re-key: what `forgive_spent` settles."""
        with self._database.read() as connection:
            if any(row.text("dataset") == dataset for row in tables.PRESUMED_SPENT.select(connection)):
                return True
        try:
            self.admit_version(dataset, b"")
        except PolicyRefusal:
            return True
        return False


def _seen_through(registration: Registration) -> tuple[object, ...]:
    """What stands between the rows of a data set and a plan, and is not in the version of the rows."""
    return None if registration.rules is None else registration.rules.bound, registration.where


def open_store(home: Path, key: Seed, clock: Clock, entropy: Entropy, *, create: bool = False) -> ParticipantStore:
    """The store in `home`, checked from the first row to the last. Hold the `FolderLock` of `home`.

    `create` makes a new one (join); otherwise a missing journal is StorageError `database_missing`. SealedError
    `journal_key_wrong` if the journal was made under another key; StorageError `database_damaged` names the file.
    """
    path = home / FILE
    check = verify(path, tables.ALL)
    sealer = Sealer(key, entropy)
    database = open_database(path, f"{__name__}.migrations", create=create, keep_copy=False, check=check)
    try:
        _check_key(database, sealer)
        return ParticipantStore(database, home, sealer, key, clock, entropy)
    except BaseException:
        database.close()
        raise


def open_holdings(home: Path, key: Seed, clock: Clock, entropy: Entropy) -> Books:
    """The finished models, privacy ledgers and outbox of `home`, also while its participant runs: no stage and no file
    is touched, half-written ones included. Errors as `open_store`.
    """
    path = home / FILE
    sealer = Sealer(key, entropy)
    database = open_database(path, f"{__name__}.migrations", keep_copy=False, check=verify(path, tables.ALL))
    try:
        _check_key(database, sealer)
        return Books(database, Models(home, key, entropy, sweep=False), sealer, clock, entropy)
    except BaseException:
        database.close()
        raise


def _check_key(database: Database, sealer: Sealer) -> None:
    with database.write() as connection:
        row = tables.SECRETS.one(connection, name=_CHECK)
        if row is None:
            tables.SECRETS.put(connection, name=_CHECK, sealed=sealer.seal(b"", _CHECK.encode()))
            return
    try:
        sealer.open(row.blob("sealed"), _CHECK.encode())
    except IntegrityError as error:
        raise SealedError(
            "journal_key_wrong",
            f"{database.path} was made under another journal key",
            not_done="nothing was opened",
            next_step="put back the journal.key that belongs to it, or ask the operator for "
            "`fedveil invite ORG --rekey`, then `fedveil join` with another --home",
        ) from error


__all__ = [
    "Books",
    "Checked",
    "Consents",
    "CountersignatureFiles",
    "DataSets",
    "Forgotten",
    "IsolationNote",
    "LedgerRow",
    "LimitChange",
    "ParticipantStore",
    "PrivacyLedgers",
    "Sent",
    "Shown",
    "Snapshots",
    "Standing",
    "StatisticsFiles",
    "StoredEnd",
    "StoredOffer",
    "StoredPlan",
    "StoredReceipt",
    "StoredUpdate",
    "TrailRow",
    "journal_key",
    "make_journal_key",
    "open_holdings",
    "open_store",
    "seal_journal_key",
]
