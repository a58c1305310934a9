"""`budget show|set|history`: what data sets have spent of differential privacy, and the limits on it.

Promise: looking works beside a participant that runs. Setting does not (`data_folder_in_use`): the participant took the
limits that it found when it started, and one that were set beside it would not hold. On an operator's home `show` says
what the coordinator's ledger says of runs.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterable, Iterator

from fedveil_common import plan as plans
from fedveil_common.database import FolderLock
from fedveil_common.dp import budget
from fedveil_common.dp.charge import Spent
from fedveil_common.dp.rdp import ORDERS, Curve
from fedveil_common.dp.slack import Slack
from fedveil_common.errors import ConfigError
from fedveil_common.ids import RunId, check_name
from fedveil_common.plan import Plan
from fedveil_common.secret import Passphrase
from fedveil_participant import membership
from fedveil_participant.state import LifetimeLimit
from fedveil_participant.store import Books, ParticipantStore, journal_key, open_store

from fedveil_cli import data_home, identity_commands, service_commands, spending_report
from fedveil_cli.files import check_writable
from fedveil_cli.output import Output, TextTable
from fedveil_cli.spending_report import DataSetBook
from fedveil_cli.world import real_world

MOST_DELTA = 0.01
"""As in a plan: with a larger one, whole records may be published."""

_LEAST = Spent(Curve((5e-324,) * len(ORDERS)), Slack(draws=1))
"""Less than any sum costs."""


def show(home: pathlib.Path, name: str | None, passphrase: Passphrase | None, output: Output) -> None:
    """`budget show`. ConfigError `unknown_dataset`; on an operator's home those of `run show`."""
    if service_commands.is_operator(home):
        from fedveil_cli import run_commands

        run_commands.show_budget(home, name, output)
        return
    with data_home.looking(home, passphrase, real_world()) as books:
        known = _known(books)
        names = sorted(known) if name is None else [_checked(name, known)]
        found = _books(books, names)
    lines: list[str | TextTable] = []
    for book in found:
        lines += [*([""] if lines else []), *spending_report.dataset_lines(book)]
    value = {"datasets": [spending_report.dataset_report(book) for book in found]}
    output.result(value, lines or ["no data set is registered here"])


def history(home: pathlib.Path, name: str | None, passphrase: Passphrase | None, output: Output) -> None:
    """`budget history`. ConfigError `unknown_dataset`."""
    with data_home.looking(home, passphrase, real_world()) as books:
        if name is not None:
            _checked(name, _known(books))
        rows = [row for row in books.ledger_rows() if name in {None, row.dataset}]
        changes = [one for one in books.limit_changes() if name in {None, one.dataset}]
        entries = spending_report.entry_reports(rows, _plans(books))
    value = {"entries": entries, "limits": spending_report.limit_reports(changes)}
    output.result(value, spending_report.history_lines(entries, changes))


def set_limit(
    home: pathlib.Path,
    name: str,
    max_epsilon: float,
    delta: float,
    reason: str,
    passphrase: Passphrase | None,
    output: Output,
) -> None:
    """`budget set NAME --max-epsilon X --delta D`.

    ConfigError `bad_limit`, `bad_name`, `unknown_dataset`, `data_folder_in_use`.
    """
    limit = _limit(max_epsilon, delta)
    with _store(home, name, passphrase) as store:
        before = store.set_lifetime(name, limit, reason)
        (book,) = _books(store, [name])
    spent, said = book.spent, f"epsilon {spending_report.shown(book.spent)} is spent"
    left = spending_report.left_of(limit.max_epsilon, spent)
    value = {
        "dataset": name,
        "max_epsilon": limit.max_epsilon,
        "delta": limit.delta,
        "before": spending_report.limit_value(before),
        "epsilon": spending_report.finite(spent),
        "left": left,
        "reason": reason,
    }
    output.result(
        value,
        [
            f"{name}: at most {spending_report.limit_text(limit)} over all runs, "
            f"before: {spending_report.limit_text(before)}",
            f"{said}, {spending_report.shown(left)} left; it holds from the next start of `fedveil participate` on",
        ],
    )
    least = _LEAST.lifetime_epsilon(limit.delta)
    if spent > limit.max_epsilon:
        output.warn(f"{said} already, more than this limit: {name} takes part in no further private sum")
    elif least > limit.max_epsilon:
        output.warn(
            f"no sum costs less than epsilon {least:.4g} at delta {limit.delta:g}, whatever its noise: "
            f"{name} takes part in no private sum"
        )


def forgive(home: pathlib.Path, name: str, reason: str, passphrase: Passphrase | None, output: Output) -> None:
    """`budget set NAME --reason TEXT`: what a re-key presumed spent for a data set is not. The ledger stays.

    ConfigError `bad_name`, `reason_missing`, `unknown_dataset`, `data_folder_in_use`.
    """
    membership.load_membership(home)
    check_name(name, "the data set")
    identity_commands.check_reason(reason)
    with _store(home, name, passphrase) as store:
        presumed = store.presumes_spent(name)
        if presumed:
            store.forgive_spent(name, reason)
    said = (
        "versions presumed spent after the re-key are free" if presumed else "nothing is presumed spent, none was freed"
    )
    output.result({"dataset": name, "reason": reason, "freed": presumed}, [f"{name}: {said}"])


def _limit(max_epsilon: float, delta: float) -> LifetimeLimit:
    """ConfigError `bad_limit` for what limits nothing or means nothing."""
    if not 0 < max_epsilon < math.inf:
        raise _bad_limit(f"--max-epsilon {max_epsilon:g} is no limit: a number above 0, and a finite one")
    if not 0 < delta <= MOST_DELTA:
        raise _bad_limit(f"--delta {delta:g} is not above 0 and at most {MOST_DELTA:g}")
    return LifetimeLimit(max_epsilon, delta)


def _bad_limit(what: str) -> ConfigError:
    return ConfigError(
        "bad_limit",
        what,
        not_done="the limit stays what it was",
        next_step="--max-epsilon 8 --delta 1e-5, with a delta well below one over the number of records",
    )


# --- the home ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _store(home: pathlib.Path, name: str, passphrase: Passphrase | None) -> Iterator[ParticipantStore]:
    """The store of a home in which nothing runs, if it knows the data set."""
    world = real_world()
    membership.load_membership(home)
    check_name(name, "the data set")
    check_writable(home)
    with FolderLock(home):
        store = open_store(home, journal_key(home, passphrase), world.clock, world.entropy)
        try:
            _checked(name, _known(store))
            yield store
        finally:
            store.close()


def _known(books: Books) -> set[str]:
    """Registered now, or spent from, or limited, at any time: a ledger outlives the registration."""
    return {*books.registrations(), *(row.dataset for row in books.ledger_rows()), *books.lifetimes()}


def _checked(name: str, known: Iterable[str]) -> str:
    if name not in known:
        raise ConfigError(
            "unknown_dataset",
            f"no data set {name} is registered here; there is {', '.join(sorted(known)) or 'none'}",
            next_step=f"`fedveil data add {name} --source FILE` registers it",
        )
    return name


def _plans(books: Books) -> dict[RunId, Plan]:
    return {stored.run_id: plans.parse_canonical(stored.canonical) for stored in books.plans()}


def _books(books: Books, names: Iterable[str]) -> list[DataSetBook]:
    """The data sets of these names, in this order."""
    rows, limits, known = books.ledger_rows(), books.lifetimes(), _plans(books)
    opened = books.runs_with_sums()
    return [
        DataSetBook(
            name,
            budget.fold(row.entry for row in rows if row.dataset == name),
            limits.get(name),
            known,
            tuple(
                run
                for run, plan in known.items()
                if plan.privacy is None and plan.data.dataset == name and run in opened
            ),
        )
        for name in names
    ]
