"""`data check NAME --plan PLAN`: what of a plan an organisation's data fulfils, for the organisation alone.

Promise: nothing leaves this machine; what stands in a cell is never printed, only where it stands and what is wrong.
"""

import pathlib

from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError
from fedveil_common.ports import Entropy
from fedveil_common.secret import Passphrase
from fedveil_participant.data.contract import Contract, check_contract
from fedveil_participant.data.folder import unreadable
from fedveil_participant.data.masked_records import Mask
from fedveil_participant.data.registration import Registration
from fedveil_participant.data.selection import PersonDigests, Selection

from fedveil_cli import data_home
from fedveil_cli.data_commands import VERSION_DIGITS
from fedveil_cli.data_sources import opening
from fedveil_cli.files import MAX_PLAN, read_file
from fedveil_cli.organisation_policy import ConsentPlaces
from fedveil_cli.output import Output, TextTable
from fedveil_cli.world import real_world


def check_plan(
    home: pathlib.Path,
    name: str,
    plan_file: pathlib.Path,
    passphrase: Passphrase | None,
    output: Output,
) -> None:
    """The report; afterwards ConfigError `contract_unmet` if the plan would not be accepted for this data.

    ConfigError `bad_plan`, `unknown_dataset`, `plan_of_other_data`, and those of the source.
    """
    world = real_world()
    plan = plans.parse_plan(read_file(plan_file, "the plan", MAX_PLAN), str(plan_file))
    with data_home.looking(home, passphrase, world) as books:
        registration = data_home.registered(books, name)
        excluded, key = books.excluded(name), books.data_version_key()
    if plan.data.dataset != name:
        raise ConfigError(
            "plan_of_other_data",
            f"the plan reads the data set {plan.data.dataset}, not {name}",
            not_done="nothing was read",
            next_step=f"fedveil data check {plan.data.dataset} --plan {plan_file}",
        )
    selection = Selection(registration.where, excluded, PersonDigests(key))
    policy = ConsentPlaces.of(home).rules()
    release = policy is not None and policy.training_release
    mask = _mask(registration, plan, world.entropy, output, release=release)
    files = opening(home, world.clock)(registration)
    try:
        found = check_contract(files, registration.source.shown, plan, key.expose(), selection, mask)
    except OSError as error:
        raise unreadable(pathlib.Path(registration.source.shown), error) from None
    output.result(_report(name, plan, found), _lines(name, plan, found))
    if not found.fulfilled:
        raise ConfigError(
            "contract_unmet",
            f"{name} does not fulfil the plan: {', '.join(one.code for one in found.findings if one.refuses)}",
            not_done="nothing was sent; a participant would decline the plan",
            next_step="correct what the report names, or ask for a plan with other ranges or rules",
        )


def _report(name: str, plan: plans.Plan, found: Contract) -> dict[str, object]:
    return {
        "dataset": name,
        "plan_hash": plans.plan_hash(plans.canonical(plan)).hex(),
        "fulfils": found.fulfilled,
        "rows": found.rows,
        "left_out": found.left_out,
        "failing": found.failing,
        "dropped": found.dropped,
        "usable": found.usable,
        "min_rows": plan.data.min_rows,
        "columns": [{"name": one.name, "demand": one.demand, "failing": dict(one.failing)} for one in found.columns],
        "findings": [
            {"code": one.code, "column": one.column, "text": one.text, "refuses": one.refuses} for one in found.findings
        ],
        "problems": [
            {"place": one.place, "column": one.column, "code": one.code, "text": one.text} for one in found.problems
        ],
        "version": found.version.hex()[:VERSION_DIGITS],
    }


def _lines(name: str, plan: plans.Plan, found: Contract) -> list[str | TextTable]:
    said = "fulfils" if found.fulfilled else "does not fulfil"
    columns = [
        (one.name, one.demand, ", ".join(f"{code}: {rows}" for code, rows in one.failing) or "none")
        for one in found.columns
    ]
    return [
        f"{name} {said} the plan {plan.name}",
        f"{found.usable} rows usable, the plan asks for {plan.data.min_rows}: {found.rows} used, {found.failing} "
        f"failing, {found.dropped} dropped by the plan's rule for missing values; {found.left_out} left out by filters "
        "and exclusions",
        TextTable(("column", "the plan demands", "rows that fail"), columns),
        *(
            f"{'refused' if one.refuses else 'note'}: {one.code}{f' {one.column}' if one.column else ''}: {one.text}"
            for one in found.findings
        ),
        *(f"{one.place}: {f'{one.column}: ' if one.column else ''}{one.text}" for one in found.problems),
    ]


def _mask(
    registration: Registration, plan: plans.Plan, entropy: Entropy, output: Output, *, release: bool
) -> Mask | None:
    if registration.rules is None:
        return None
    from fedveil_cli.home_masks import masks_of  # pyarrow, which other data sets do without

    return masks_of([registration], entropy, output, _unrecorded, release=release)(registration, plan)


def _unrecorded(kind: str, facts: tuple[tuple[str, str], ...]) -> None:
    """Looking is no use of the data: nothing is on record of it."""
