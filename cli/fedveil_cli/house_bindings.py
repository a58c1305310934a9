"""What an approval is bound to in a home: `approval.binding.Bindings` over its registered data sets and trainers."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fedveil_common.crypto.labels import h
from fedveil_common.errors import ConfigError
from fedveil_common.ids import RunId
from fedveil_common.plan import Plan
from fedveil_participant.approval.binding import NOTHING, LocalDigests
from fedveil_participant.bench import OpenSource
from fedveil_participant.data.folder import unreadable
from fedveil_participant.data.problems import Problems
from fedveil_participant.data.registration import FileSource, Registration, SqlSource
from fedveil_participant.training import code_tree
from fedveil_participant.training.own_trainer import Approvals, MemoryApprovals, TrainerConfig

Registrations = Callable[[], Mapping[str, Registration]]


class HouseBindings:
    """`registrations`: the data sets by name, as they are registered at the moment; `open_source` opens one.
    `trainers`: own trainers by name; `approvals`: with which of them a plan runs here. A file's header is read again
    once the file is another; that of a database once a start.
    """

    def __init__(
        self,
        registrations: Registrations,
        open_source: OpenSource,
        trainers: Mapping[str, TrainerConfig] | None = None,
        approvals: Approvals | None = None,
    ) -> None:
        self._registrations = registrations
        self._open_source = open_source
        self._trainers = dict(trainers or {})
        self._approvals = MemoryApprovals() if approvals is None else approvals
        self._columns: dict[Registration, tuple[tuple[object, ...], tuple[str, ...]]] = {}

    def of(self, plan: Plan) -> LocalDigests:
        """`Bindings.of`. ConfigError `dataset_missing`; those of reading a table's first line and a trainer's code."""
        registration = self._registrations().get(plan.data.dataset)
        if registration is None:
            raise ConfigError(
                "dataset_missing",
                f"no data set is registered as {plan.data.dataset!r}",
                not_done="the plan was not accepted",
                next_step=f"fedveil data add {plan.data.dataset} --source FILE",
            )
        masking = NOTHING if registration.rules is None else registration.rules.bound
        return LocalDigests(masking, self._trainer(plan), self._schema(registration))

    def changed_rows(self, plan: Plan, run_id: RunId) -> int | None:
        """Not known before the data is read. That enough rows changed is checked where the plan is accepted
        (`spending.check_plan`), whoever approved it.
        """
        return None

    def trainer_known(self, plan_hash: bytes, trainer: bytes) -> bool:
        """`Bindings.trainer_known`. Without a trainer of that name the plan is refused where it is accepted."""
        return trainer == NOTHING or self._approvals.get(plan_hash) in {None, trainer}

    def trainer_approved(self, plan_hash: bytes, trainer: bytes) -> None:
        """`Bindings.trainer_approved`."""
        if self._approvals.get(plan_hash) != trainer:
            self._approvals.put(plan_hash, trainer)

    def _trainer(self, plan: Plan) -> bytes:
        config = self._trainers.get(plan.model.trainer)
        return NOTHING if config is None else config.digest(code_tree.digest(config.code))

    def _schema(self, registration: Registration) -> bytes:
        """Of the names of all columns, in whatever order they stand, and of the filters: a database's are its query."""
        try:
            seen = _state_of(registration)
            known = self._columns.get(registration)
            if known is None or known[0] != seen:
                known = self._columns[registration] = seen, self._header(registration)
        except OSError as error:
            raise unreadable(Path(registration.source.shown), error) from error
        where = [f"{column}={value}" for column, value in registration.where]
        if isinstance(registration.source, SqlSource):
            where.append(registration.source.selected.statement)
        return h("approval/schema", registration.name.encode(), *(one.encode() for one in (*known[1], *where)))

    def _header(self, registration: Registration) -> tuple[str, ...]:
        problems = Problems(registration.source.shown)
        with self._open_source(registration)[0].open(()) as records:
            return tuple(sorted(records.header(problems)))


def _state_of(registration: Registration) -> tuple[object, ...]:
    """What is another once a file of the table was replaced. OSError."""
    if not isinstance(registration.source, FileSource):
        return ()
    path = registration.source.path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple((str(one), one.stat().st_mtime_ns, one.stat().st_size, one.stat().st_ino) for one in files)
