"""What an approval is bound to in a home: `approval.binding.Bindings` over its files, as they are at each call."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedveil_common.crypto.labels import h
from fedveil_common.errors import ConfigError
from fedveil_common.ids import RunId
from fedveil_common.plan import Plan
from fedveil_participant.approval.binding import NOTHING, LocalDigests
from fedveil_participant.data.folder import table_files, unreadable
from fedveil_participant.data.problems import Problems
from fedveil_participant.data.records import TableFile
from fedveil_participant.training import code_tree

MASKING = "masking.yaml"

FindFiles = Callable[[Path], Sequence[TableFile]]
DataSets = Callable[[], Mapping[str, Path]]


class HouseBindings:
    """Of the home `home`. `datasets`: tables registered by name; `trainers`: own trainers' code by name."""

    def __init__(
        self,
        home: Path,
        datasets: DataSets,
        trainers: Mapping[str, Path] | None = None,
        find_files: FindFiles = table_files,
    ) -> None:
        self._home = home
        self._datasets = datasets
        self._trainers = dict(trainers or {})
        self._find_files = find_files
        self._columns: dict[Path, tuple[tuple[object, ...], tuple[str, ...]]] = {}

    def of(self, plan: Plan) -> LocalDigests:
        """`Bindings.of`. ConfigError `dataset_missing`; those of reading a table's first line and a trainer's code."""
        return LocalDigests(self._masking(), self._trainer(plan), self._schema(plan.data.dataset))

    def changed_rows(self, plan: Plan, run_id: RunId) -> int | None:
        """Not known: that would take a digest of every row of every version."""
        return None

    def _masking(self) -> bytes:
        path = self._home / MASKING
        try:
            return hashlib.sha256(path.read_bytes()).digest()
        except FileNotFoundError:
            return NOTHING
        except OSError as error:
            raise unreadable(path, error) from error

    def _trainer(self, plan: Plan) -> bytes:
        folder = self._trainers.get(plan.model.trainer)
        return NOTHING if folder is None else code_tree.digest(folder)

    def _schema(self, dataset: str) -> bytes:
        """Of the names of all columns, in whatever order they stand."""
        path = self._datasets().get(dataset)
        if path is None:
            raise ConfigError(
                "dataset_missing",
                f"no data set is registered as {dataset!r}",
                not_done="the plan was not accepted",
                next_step=f"fedveil participate --data {dataset}=FILE",
            )
        try:
            seen = _state_of(path)
            known = self._columns.get(path)
            if known is None or known[0] != seen:
                known = self._columns[path] = seen, self._header(path)
        except OSError as error:
            raise unreadable(path, error) from error
        return h("approval/schema", dataset.encode(), *(name.encode() for name in known[1]))

    def _header(self, path: Path) -> tuple[str, ...]:
        problems = Problems(str(path))
        with self._find_files(path)[0].open(()) as records:
            return tuple(sorted(records.header(problems)))


def _state_of(path: Path) -> tuple[object, ...]:
    """What is another once a file of the table was replaced."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple((str(one), one.stat().st_mtime_ns, one.stat().st_size, one.stat().st_ino) for one in files)
