"""Where this organisation's data meets a plan: read, checked against the plan, turned into what enters a sum.

Promise: only registered data is read; a plan is accepted only if the data fits it (every problem named, with file and
place) and has enough rows. What was accepted is kept in a snapshot, and every round of the run is about that: a source
that changes, or goes, in the middle neither harms a run nor enters it. Where there is no snapshot the source is read
again: if it is not the version that was accepted, the update is refused. With differential privacy it may then be
another version: the ledger is over all versions, and a refusal would tell that a record came (D8). A data set that is
registered with masking rules is never used without its mask.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog
from fedveil_common import layout as layouts
from fedveil_common import member_noise
from fedveil_common.errors import ConfigError, IntegrityError, PolicyRefusal
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import Manifest, Purpose
from fedveil_common.noise_links import Coins
from fedveil_common.plan import Plan, canonical, plan_hash
from fedveil_common.provenance import Lineage
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant import update
from fedveil_participant.data.csv_source import Source, read_table
from fedveil_participant.data.folder import table_files, unreadable
from fedveil_participant.data.masked_records import Mask
from fedveil_participant.data.prepare import check_rows
from fedveil_participant.data.records import TableFile
from fedveil_participant.data.registration import FileSource, Registration
from fedveil_participant.data.selection import PersonDigests, Selection
from fedveil_participant.training.own_trainer import BUILT_IN, Trainers

log = structlog.get_logger("fedveil.bench")

FindFiles = Callable[[Path], Sequence[TableFile]]
"""The files of the table registered under a path. Raises FedveilError."""

OpenSource = Callable[[Registration], Sequence[TableFile]]
"""The files, or the one table of a database, of a registered data set. Raises FedveilError."""

MaskOf = Callable[[Registration, Plan], Mask]
"""The mask through which a plan sees a data set with rules, those that were registered. Raises FedveilError."""

Excluded = Callable[[str], Mapping[str, frozenset[bytes]]]
"""Data set -> by column, the digests of persons who are in no run."""


class Shelf(Protocol):
    """Where accepted data is kept, sealed, between acceptance and the end of the run. Any thread. StorageError."""

    def put(self, dataset: str, plan_hash: bytes, source: Source) -> None:
        """What the plan reads is durable."""
        ...

    def get(self, plan_hash: bytes, version: bytes) -> Source | None:
        """What was put; None if it is not kept. IntegrityError if the disk changed it."""
        ...


def unmasked(registration: Registration, plan: Plan) -> Mask:
    """No mask is at hand: ConfigError `mask_missing`."""
    del plan
    raise ConfigError(
        "mask_missing",
        f"the data set {registration.name} is registered with masking rules, and nothing here applies them",
        not_done="no row of it was read",
        next_step=f"fedveil data add {registration.name} --replace with a source that is masked already",
    )


def nobody(dataset: str) -> Mapping[str, frozenset[bytes]]:
    """No exclusions."""
    del dataset
    return {}


class TableBench:
    """Tables registered by name. `version_key`: 32 local secret bytes under which versions are labelled.

    `datasets`: files and folders, found by `find_files`. `sources`: registrations of other names, opened by
    `open_source`. `shelf`: where what was accepted is kept; None (a simulation): in memory alone.
    """

    def __init__(
        self,
        datasets: Mapping[str, Path],
        version_key: Seed,
        find_files: FindFiles = table_files,
        trainers: Trainers = BUILT_IN,
        *,
        sources: Mapping[str, Registration] | None = None,
        open_source: OpenSource | None = None,
        mask_of: MaskOf = unmasked,
        excluded: Excluded = nobody,
        shelf: Shelf | None = None,
    ) -> None:
        self._datasets = dict(datasets)
        named = {name: Registration(name, FileSource(path)) for name, path in datasets.items()}
        self._sources = {**(sources or {}), **named}
        self._version_key = version_key
        self._find_files = find_files
        self._open_source = open_source
        self._mask_of = mask_of
        self._excluded = excluded
        self._shelf = shelf
        self._trainers = trainers
        self._loaded: tuple[bytes, Source] | None = None
        self._sketches: dict[bytes, bytes] = {}

    def accept(self, plan: Plan) -> bytes:
        """The version label (32 bytes, local) of the data set the plan names. Raises DataError with every problem,
        ConfigError `dataset_missing`, PolicyRefusal `too_few_rows`, LocalRefusal `trainer_*`.
        """
        source = self._read(plan)
        check_rows(plan, source)
        self._trainers.accept(plan)
        self._sketches[source.version] = source.sketch
        if self._shelf is not None:
            self._shelf.put(plan.data.dataset, plan_hash(canonical(plan)), source)
        return source.version

    def sketch(self, version: bytes) -> bytes:
        """Of a version that was accepted here, by which it is told from one with few other rows (`difference`)."""
        return self._sketches.get(version, b"")

    def rows(self, plan: Plan, version: bytes) -> int:
        """How many rows of the data set are left after all filters, as the next input would have them."""
        return self._accepted(plan, version).table.rows

    def contribution(
        self,
        plan: Plan,
        version: bytes,
        purpose: Purpose,
        lineage: Lineage | None,
        fresh: Callable[[], Seed],
    ) -> update.Blocks:
        """Every block of the sum's layout, in order: float64, d coordinates in all. The organisation's secret.

        PolicyRefusal `data_changed` if what was accepted is not kept and the data is another version by now (not with
        differential privacy), `update_not_finite` for NaN, LocalRefusal `trainer_*`.
        """
        source = self._accepted(plan, version)
        if plan.privacy is None and source.version != version:
            raise PolicyRefusal(
                "data_changed",
                f"the data set {plan.data.dataset} changed since the plan was accepted",
                not_done="no update was made",
                next_step="restart `fedveil participate` once the data is final",
            )
        step = 0 if lineage is None else lineage.step
        model = None if lineage is None else lineage.model
        scaling = None if lineage is None else lineage.standardisation
        trainer = self._trainers.trainer(plan)
        secret = fresh() if plan.privacy is not None else None
        clip = 1.0 if lineage is None else lineage.clip
        return update.contribution(plan, purpose, step, source, model, scaling, trainer, secret, clip)

    def encode(self, plan: Plan, manifest: Manifest, values: NDArray[np.float64], coins: Coins, start: int) -> Signed:
        """Coordinates start .. start+len(values) as integers under the sum's layout, with this participant's own noise
        where the plan has differential privacy. Deterministic in `coins`.
        """
        if plan.privacy is not None:
            return update.private_input(plan, values, member_noise.pieces(plan, manifest, coins), start)
        shape = layouts.layout_for(plan, manifest.purpose, manifest.step)
        return update.encode(shape, values, coins.secret.expose(), plan.protection.value_bits, start).integers

    def _accepted(self, plan: Plan, version: bytes) -> Source:
        """The data as it was accepted, if it is kept; else as it is now."""
        key = canonical(plan)
        last = self._loaded  # looked at once: another thread may read for another plan meanwhile
        loaded = None if last is None or last[0] != key else last[1]
        if loaded is not None and (loaded.version == version or self._shelf is None):
            return loaded
        found = self._kept(plan, version)
        if found is not None:
            self._loaded = (key, found)
            return found
        return self._read(plan)

    def _kept(self, plan: Plan, version: bytes) -> Source | None:
        if self._shelf is None:
            return None
        try:
            return self._shelf.get(plan_hash(canonical(plan)), version)
        except IntegrityError as error:
            log.warning("snapshot.unreadable", code=error.code, dataset=plan.data.dataset)
            return None

    def _read(self, plan: Plan) -> Source:
        name = plan.data.dataset
        registration = self._sources.get(name)
        if registration is None:
            raise ConfigError(
                "dataset_missing",
                f"no data set is registered as {name!r}",
                not_done="the plan was not accepted",
                next_step=f"fedveil data add {name} --source FILE, or fedveil participate --data {name}=FILE",
            )
        source = read_registered(
            plan, registration, self._files(registration), self._version_key, self._excluded(name), self._mask_of
        )
        self._loaded = (canonical(plan), source)
        return source

    def _files(self, registration: Registration) -> Sequence[TableFile]:
        if isinstance(registration.source, FileSource) and (
            registration.name in self._datasets or self._open_source is None
        ):
            try:
                return self._find_files(registration.source.path)
            except OSError as error:
                raise unreadable(registration.source.path, error) from error
        if self._open_source is None:
            raise ValueError(f"nothing here opens {registration.source.shown}")
        return self._open_source(registration)


def read_registered(
    plan: Plan,
    registration: Registration,
    files: Sequence[TableFile],
    version_key: Seed,
    excluded: Mapping[str, frozenset[bytes]],
    mask_of: MaskOf,
) -> Source:
    """A registered data set under a plan: its rows without those that are left out, masked if it has rules.

    DataError with every problem, ConfigError `mask_missing`, `data_unreadable`, and those of the source.
    """
    selection = Selection(registration.where, excluded, PersonDigests(version_key))
    # the mask stands between what lies in the source and what the plan checks; nothing reads a data set past it
    mask = None if registration.rules is None else mask_of(registration, plan)
    try:
        return read_table(files, registration.source.shown, plan, version_key.expose(), selection, mask)
    except OSError as error:
        raise unreadable(Path(registration.source.shown), error) from error
