"""`plan check`: what a plan says, its hash, and whether so many participants can ever open a sum under it.

The order is that of a person who must decide: protection and privacy first, then what is read, then the rest.
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from fedveil_common import layout, modelfile, private_sum
from fedveil_common.jcs import Json
from fedveil_common.layout import parameter_count
from fedveil_common.masking import quorum
from fedveil_common.noise import rests_on
from fedveil_common.plan import (
    BinaryTarget,
    CategoryTarget,
    FloatFeature,
    FloatTarget,
    NoiseKind,
    Plan,
    PrivacySpec,
    StatisticsSpec,
    Unit,
    canonical,
    parse_canonical,
    plan_hash,
)
from fedveil_common.statistics import vector

from fedveil_cli import cohort_figures, model_reading, model_status, operating
from fedveil_cli.files import MAX_PLAN, read_file
from fedveil_cli.known_roster import KnownRoster, known_roster
from fedveil_cli.model_status import Nearby, Standing
from fedveil_cli.output import Output, TextTable

if TYPE_CHECKING:
    from fedveil_cli.model_files import Asked


@dataclasses.dataclass(frozen=True, slots=True)
class GoesOn:
    """The model file that a plan goes on from. `fingerprint`: of the federation whose model it must be; None: nobody
    said, so its signatures and its stage are not looked at (a run goes on from no file that lies or was withdrawn).
    """

    file: pathlib.Path
    fingerprint: bytes | None
    asked: "Asked"

    def model(self, output: Output) -> tuple[modelfile.ModelFile, Standing | None]:
        """Raises as `model_files.usable` and `model_status.check_ancestry`."""
        found, model_hash = model_reading.load(self.file)
        if self.fingerprint is None:
            return found, None
        from fedveil_cli import model_files

        _, standing = model_files.usable(
            found.head, lambda: model_hash, Nearby(self.file), self.fingerprint, self.asked
        )
        model_status.check_ancestry(standing)
        model_status.warn(standing, output)
        return found, standing


def check(
    path: pathlib.Path,
    roster_size: int | None,
    home: pathlib.Path,
    output: Output,
    continued: "GoesOn | None" = None,
) -> None:
    """Prints the report on the plan in `path`, or on the one that goes on from a model file, with the figures of a
    roster where one is given or `home` knows one.

    Raises PlanError (`bad_plan`) with every problem, NotInThisReleaseError, ConfigError `file_unreadable`; with
    `roster_size` also ConfigError `cohort_never_possible`, after the report. A roster that only the home knows and that
    is too small is a warning: more organisations may join before the run starts.
    """
    earlier, standing = (None, None) if continued is None else continued.model(output)
    canonical, _ = operating.prepare_plan(read_file(path, "the plan", MAX_PLAN), str(path), earlier)
    plan = parse_canonical(canonical)
    roster = known_roster(roster_size, home)
    figures = None if roster is None else _figures(plan, roster)
    begins: dict[str, Json] = {} if continued is None else {"status": model_status.value(standing)}
    output.result(
        _value(plan, figures) | begins,
        [*_text(plan, figures), *([] if continued is None else [f"first model, {model_status.line(standing)}"])],
    )
    if roster is None:
        return
    if roster.asked:
        cohort_figures.check_roster(plan, roster.size)
        return
    missing = cohort_figures.impossible(plan, roster.size)
    if missing is not None:
        output.warn(f"no run can start with the {roster.size} participants there are ({roster.origin}): {missing.why}")
        output.note(f"what would do: {'; or '.join(missing.remedies)}")


def _figures(plan: Plan, roster: KnownRoster) -> dict[str, Json]:
    """c, quorum and the rest for a roster, all of whom take part (the 256 that a cohort may have at most)."""
    found = cohort_figures.figures(plan, roster.size, min(roster.size, quorum.MAX_COHORT))
    missing = cohort_figures.impossible(plan, roster.size)
    return {
        "participants": roster.size,
        "participants_from": roster.origin,
        "cohort": found.members,
        "max_corrupt": found.corrupt,
        "quorum": found.quorum,
        "threshold": None if found.encrypted else found.threshold,
        "abort_threshold": found.abort_threshold,
        "min_survivors": found.min_survivors,
        "tolerated_drops": found.may_drop,
        "honest_in_sum": found.honest_in_sum,
        "openings_of_one_dealer": None if found.encrypted else found.openings,
        "ring_bits": found.ring_bits,
        "bytes_up": _bytes(found, found.vector_up, found.messages_up),
        "bytes_down": _bytes(found, found.vector_down, found.messages_down),
        "smallest_cohort": cohort_figures.smallest_cohort(plan, roster.size),
        "can_start": missing is None,
        "why_not": None if missing is None else missing.why,
        "would_do": [] if missing is None else list(missing.remedies),
    }


def _bytes(found: cohort_figures.CohortFigures, vector: int, messages: int) -> dict[str, Json] | None:
    """None under paillier: what a ciphertext takes is the key's choice, not the plan's."""
    return None if found.encrypted else {"vector": vector, "messages_about": messages}


def _value(plan: Plan, figures: dict[str, Json] | None) -> dict[str, Json]:
    key: dict[str, Json] = {"key": plan.protection.key} if plan.protection.key else {}
    value: dict[str, Json] = {
        "name": plan.name,
        "plan_hash": plan_hash(canonical(plan)).hex(),
        "kind": plan.kind.value,
        "protection": {
            "kind": plan.protection.kind,
            "value_bits": plan.protection.value_bits,
            "update_norm": plan.protection.update_norm,
            **key,
        },
        "privacy": _privacy(plan),
        "dataset": plan.data.dataset,
        "columns": [{"name": name, "use": use, "values": values} for name, use, values in _columns(plan)],
        "min_rows": plan.data.min_rows,
        **(_trained(plan) if plan.statistics is None else _asked(plan, plan.statistics)),
        "cohort": {
            "min_participants": plan.cohort.min_participants,
            "max_corrupt": plan.cohort.max_corrupt,
            "wait_s": plan.cohort.wait_s,
            "progress_s": plan.cohort.progress_s,
            "hard_limit_s": plan.cohort.hard_limit_s,
        },
    }
    statements = _statements(plan)
    return value | ({"statements": dict(statements)} if statements else {}) | ({"figures": figures} if figures else {})


def _trained(plan: Plan) -> dict[str, Json]:
    """What a training plan makes."""
    return {
        "standardise": plan.data.standardise.value,
        "model": plan.model.kind.value,
        "parameters": parameter_count(plan),
        "strategy": plan.strategy.kind,
        "strategy_fields": _strategy_fields(plan),
        "rounds": plan.training.rounds,
        "first_model": plan.model.initial,
        "continues": [{"run": leg.run, "steps": leg.steps} for leg in plan.continues],
    }


def _asked(plan: Plan, statistics: StatisticsSpec) -> dict[str, Json]:
    """What a statistics plan asks."""
    return {
        "questions": [vector.title(query) for query in statistics.queries],
        "max_rows": statistics.max_rows,
        "min_cell": statistics.min_cell,
        "refresh": statistics.refresh,
        "coordinates": vector.length(plan),
        "query": layout.query_digest(plan).hex(),
    }


def _privacy(plan: Plan) -> Json:
    """The privacy block with what the whole run costs by it; "none" for exact sums."""
    privacy = plan.privacy
    if privacy is None:
        return "none"
    steps, sums = private_sum.steps_allowed(plan, privacy), private_sum.sums_allowed(plan, privacy)
    training, holdout = private_sum.costs(plan, privacy, sums)
    return {
        "unit": _unit(plan, privacy),
        "noise": privacy.noise.value,
        "rests_on": rests_on(plan),
        "noise_multiplier": privacy.noise_multiplier,
        **(
            {"clip_norm": privacy.clip_norm, "sample_rate": privacy.sample_rate}
            if plan.statistics is None
            else {"mechanism": privacy.mechanism.value}
        ),
        "rows": privacy.rows,
        "delta": privacy.delta,
        "max_epsilon": privacy.max_epsilon,
        "steps_allowed": steps,
        "epsilon_of_one_step": private_sum.spent(plan, privacy, 1),
        "sums_allowed": sums,
        "epsilon": private_sum.spent(plan, privacy, sums),
        "epsilon_of_training": training,
        "epsilon_of_holdout": holdout,
    }


def _unit(plan: Plan, privacy: PrivacySpec) -> str:
    """Whom it protects."""
    return "person" if privacy.unit is Unit.RECORD and plan.data.person is not None else privacy.unit.value


def _privacy_line(plan: Plan) -> str:
    privacy = plan.privacy
    if privacy is None:
        return "none: coordinator and participants see the exact sum of every round"
    sums, planned = private_sum.sums_allowed(plan, privacy), private_sum.sums_planned(plan)
    unit = _unit(plan, privacy)
    ends = "" if sums == planned else f" (the budget ends the run after {sums} of {planned} sums)"
    of = "the bound of one" if plan.statistics is not None else f"clip norm {privacy.clip_norm:g}"
    kind = "Laplace noise of scale" if privacy.mechanism is NoiseKind.LAPLACE else "noise"
    return (
        f"each {unit}, epsilon {private_sum.spent(plan, privacy, sums):.3g} at delta {privacy.delta:g}{ends}, "
        f"{kind} {privacy.noise_multiplier:g} x {of} by the {privacy.noise}"
    )


def _text(plan: Plan, figures: dict[str, Json] | None) -> list[str | TextTable]:
    bits, key = plan.protection.value_bits, plan.protection.key
    lines: list[str | TextTable] = [
        f"plan        {plan.name}",
        f"plan hash   {plan_hash(canonical(plan)).hex()}",
        f"protection  {plan.protection.kind}: {bits} bits a value"
        + (f", update norm {plan.protection.update_norm:g}" if plan.statistics is None else "")
        + (f", key {key}" if key else ""),
        f"privacy     {_privacy_line(plan)}",
        *(_training_lines(plan) if plan.statistics is None else _question_lines(plan, plan.statistics)),
        f"cohort      at least {plan.cohort.min_participants}, {plan.cohort.max_corrupt} or more assumed corrupt",
    ]
    lines += [f"{name:<11} {text}" for name, text in _statements(plan).items()]
    if figures is not None:
        lines += _figure_lines(figures, "a train sum" if plan.statistics is None else "the sum")
    return [*lines, "", TextTable(("column", "use", "values"), _columns(plan))]


def _training_lines(plan: Plan) -> list[str | TextTable]:
    return [
        f"rounds      {plan.training.rounds}, strategy {_strategy(plan)}",
        *_begins(plan),
        f"model       {_model(plan)}, {parameter_count(plan)} parameters",
        f"data set    {plan.data.dataset}, at least {plan.data.min_rows} rows each, "
        f"standardise {plan.data.standardise.value}",
    ]


def _question_lines(plan: Plan, statistics: StatisticsSpec) -> list[str | TextTable]:
    titles = [vector.title(query) for query in statistics.queries]
    return [
        f"questions   {titles[0]}",
        *(f"{'':<11} {title}" for title in titles[1:]),
        f"opens       one sum of {vector.length(plan)} figures and cells; cells below {statistics.min_cell} rows are "
        "not shown",
        f"data set    {plan.data.dataset}, {plan.data.min_rows} to {statistics.max_rows} rows each",
    ]


def _figure_lines(figures: dict[str, Json], what: str) -> list[str]:
    who, up, down = f"of {figures['participants']}", figures["bytes_up"], figures["bytes_down"]
    lines = []
    if figures["can_start"]:
        lines.append(
            f"{who:<11} c {figures['max_corrupt']}, quorum {figures['quorum']}, at least {figures['min_survivors']} in "
            f"a sum, of whom {figures['honest_in_sum']} honest; {figures['tolerated_drops']} may drop; "
            f"{figures['smallest_cohort']} can start"
        )
    else:
        lines.append(f"{who:<11} can never start: {figures['why_not']}")
        would_do = figures["would_do"]
        assert isinstance(would_do, list)
        lines += [f"{'':<11} would do: {remedy}" for remedy in would_do]
    if not isinstance(up, dict) or not isinstance(down, dict):
        lines.append(
            f"{'':<11} abort by {figures['abort_threshold']}; the key says who opens a sum, and the bytes it takes"
        )
        return lines
    lines.append(
        f"{'':<11} threshold {figures['threshold']}, at most {figures['openings_of_one_dealer']} opened shares of a "
        f"dealer, abort by {figures['abort_threshold']}; ring of {figures['ring_bits']} bits"
    )
    lines.append(
        f"{what:<11} {up['vector']} bytes up and {down['vector']} down for each participant, beside keys, "
        f"shares and signatures of about {up['messages_about']} and {down['messages_about']}"
    )
    return lines


def _strategy_fields(plan: Plan) -> dict[str, Json]:
    fields = dataclasses.asdict(plan.strategy)
    return {name: value for name, value in fields.items() if name != "kind" and value is not None}


def _strategy(plan: Plan) -> str:
    fields = ", ".join(f"{name} {value:g}" for name, value in _strategy_fields(plan).items())
    return plan.strategy.kind + (f" ({fields})" if fields else "")


def _begins(plan: Plan) -> list[str | TextTable]:
    if not plan.continues:
        return []
    legs = ", then ".join(f"{leg.steps} of run {leg.run}" for leg in plan.continues)
    return [f"begins      after rounds {legs}", f"            with model {plan.model.initial}"]


def _model(plan: Plan) -> str:
    if plan.model.trainer:
        return f"trainer {plan.model.trainer}: each organisation's own code of that name"
    hidden = f" of {', '.join(map(str, plan.model.hidden))} hidden units" if plan.model.hidden else ""
    return plan.model.kind.value + hidden


def _columns(plan: Plan) -> list[tuple[str, str, str]]:
    """Everything that is read: (column, use, permitted values)."""
    rows: list[tuple[str, str, str]] = []
    for feature in plan.data.features:
        match feature:
            case FloatFeature(lo=lo, hi=hi):
                rows.append((feature.name, "feature", f"{lo:g} to {hi:g}{', clamped' if feature.clamp else ''}"))
            case _:
                rows.append((feature.name, "feature", ", ".join(feature.values)))
    if plan.statistics is not None:
        asked = [(name, "asked about", values) for name, _, values in rows]
        person = plan.data.person
        if person is None:
            return asked
        return [*asked, (person, "person", "counts once" if plan.privacy is not None else "read, of no effect here")]
    match plan.data.target:
        case BinaryTarget(column=column, positive=positive):
            rows.append((column, "target", f"1 where {positive}"))
        case CategoryTarget(column=column, values=values):
            rows.append((column, "target", ", ".join(values)))
        case FloatTarget(column=column, lo=lo, hi=hi):
            rows.append((column, "target", f"{lo:g} to {hi:g}"))
    if plan.data.person is not None:
        rows.append((plan.data.person, "person", "splits the holdout; never trained on"))
    return rows


def _statements(plan: Plan) -> dict[str, Json]:
    """What the plan states for people and records, where it does."""
    stated: dict[str, Json] = {
        "purpose": plan.purpose,
        "controller": plan.controller,
        "legal_basis": plan.legal_basis,
        "contact": plan.contact,
        "retention_days": plan.retention_days,
    }
    return {name: value for name, value in stated.items() if value is not None}
