"""Where this organisation's data meets a plan: read, checked against the plan, turned into what enters a sum.

Promise: only registered files are read; a plan is accepted only if the data fits it (every problem named, with file and
place) and has enough rows; the data under a run stays the version that was accepted, or the update is refused. With
differential privacy it may change: the ledger is over all versions, and a refusal would tell that a record came (D8).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from fedveil_common import layout as layouts
from fedveil_common import member_noise
from fedveil_common.errors import ConfigError, PolicyRefusal
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import Manifest, Purpose
from fedveil_common.noise_links import Coins
from fedveil_common.plan import Plan, canonical
from fedveil_common.provenance import Lineage
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant import update
from fedveil_participant.data.csv_source import Source, read_table
from fedveil_participant.data.folder import table_files, unreadable
from fedveil_participant.data.prepare import check_rows
from fedveil_participant.data.records import TableFile
from fedveil_participant.training.own_trainer import BUILT_IN, Trainers

FindFiles = Callable[[Path], Sequence[TableFile]]
"""The files of the table registered under a path. Raises FedveilError."""


class TableBench:
    """Tables registered by name. `version_key`: 32 local secret bytes under which versions are labelled."""

    def __init__(
        self,
        datasets: Mapping[str, Path],
        version_key: Seed,
        find_files: FindFiles = table_files,
        trainers: Trainers = BUILT_IN,
    ) -> None:
        self._datasets = dict(datasets)
        self._version_key = version_key
        self._find_files = find_files
        self._trainers = trainers
        self._loaded: tuple[bytes, Source] | None = None

    def accept(self, plan: Plan) -> bytes:
        """The version label (32 bytes, local) of the data set the plan names. Raises DataError with every problem,
        ConfigError `dataset_missing`, PolicyRefusal `too_few_rows`, LocalRefusal `trainer_*`.
        """
        source = self._read(plan)
        check_rows(plan, source)
        self._trainers.accept(plan)
        return source.version

    def rows(self, plan: Plan) -> int:
        """How many rows of the data set are left after all filters, as the next input would have them."""
        return self._current(plan).table.rows

    def contribution(
        self,
        plan: Plan,
        version: bytes,
        purpose: Purpose,
        lineage: Lineage | None,
        fresh: Callable[[], Seed],
    ) -> update.Blocks:
        """Every block of the sum's layout, in order: float64, d coordinates in all. The organisation's secret.

        PolicyRefusal `data_changed` if the data is no longer the accepted version (not with differential privacy),
        `update_not_finite` for NaN, LocalRefusal `trainer_*`.
        """
        source = self._current(plan)
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

    def _current(self, plan: Plan) -> Source:
        key = canonical(plan)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = (key, self._read(plan))
        return self._loaded[1]

    def _read(self, plan: Plan) -> Source:
        path = self._datasets.get(plan.data.dataset)
        if path is None:
            raise ConfigError(
                "dataset_missing",
                f"no data set is registered as {plan.data.dataset!r}",
                not_done="the plan was not accepted",
                next_step=f"fedveil participate --data {plan.data.dataset}=FILE",
            )
        try:
            source = read_table(self._find_files(path), str(path), plan, self._version_key.expose())
        except OSError as error:
            raise unreadable(path, error) from error
        self._loaded = (canonical(plan), source)
        return source
