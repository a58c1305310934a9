"""From `policy.yaml` to a `Policy`: read by the loader of plans, typed, all problems at once, nothing ignored.

Promise: what is not understood is refused, with its line; a policy with a problem permits nothing, because there is
none. Whatever loosens privacy is written down by a person: it has no default. Source: docs/policy.md.
"""

import dataclasses
import hashlib
import re
import zoneinfo
from collections.abc import Callable

from fedveil_common import jcs
from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId, is_name
from fedveil_common.masking.quorum import MAX_COHORT
from fedveil_common.plan import Kind, ModelKind, NoiseSource, PlanProblem, Unit
from fedveil_common.plan.problems import printable
from fedveil_common.plan.section import Findings, Section
from fedveil_common.plan.yaml_tree import Fields, Node, Scalar, read_tree

from fedveil_participant.data.difference import MOST_ROWS
from fedveil_participant.policy import rules

MAX_LISTED = 10_000
"""Names in one list: no organisation has more, and no file of the size that is read."""

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\Z")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MODELS = rules.ModelRules()


class PolicyError(ConfigError):
    """`bad_policy`: the policy cannot be read; `problems` lists everything found, in line order."""

    def __init__(self, filename: str, problems: tuple[PlanProblem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        listing = "\n".join(
            f"{filename}:{p.line}: {printable(p.path) + ': ' if p.path else ''}{printable(p.text)}"
            for p in self.problems
        )
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            "bad_policy",
            f"{count} in the policy\n{listing}\n",
            not_done="nothing was started and no plan was accepted",
            next_step="correct the lines named above; docs/policy.md has a complete example",
        )


def parse_policy(text: bytes, filename: str) -> rules.Policy:
    """The policy in a YAML file. `filename` is used in messages only. PolicyError names everything that is wrong."""
    findings = Findings()
    root = read_tree(text, findings.problems)
    if root is None:
        raise PolicyError(filename, tuple(findings.problems))
    policy = _policy(root, findings)
    if findings.problems:
        raise PolicyError(filename, tuple(findings.problems))
    return policy


def canonical(policy: rules.Policy) -> bytes:
    """The canonical bytes of a policy (RFC 8785): defaults written out, so that two files that mean the same are equal.
    A field of a later release stands in it only when set: what is None is left out.
    """
    return jcs.dumps(_plain(policy))


def policy_digest(policy: rules.Policy | None) -> bytes:
    """SHA-256 of the canonical bytes: what an approval is bound to. 32 zero bytes where there is no policy."""
    return bytes(32) if policy is None else hashlib.sha256(canonical(policy)).digest()


def _plain(value: object) -> jcs.Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return {name: _plain(member) for name, member in members.items() if member is not None}
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, tuple):
        return [_plain(member) for member in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no place in a policy")


def _policy(root: Node, findings: Findings) -> rules.Policy:
    top = Section(root, "", 1, findings)
    version = top.integer("version", 1, 1)
    policy = rules.Policy(
        version=version,
        privacy=_privacy(top.section("privacy")),
        data=_data(top, findings),
        plans=_plans(top, "plans"),
        protections=_choices(top, "protections", ("masked", "paillier"), ("masked", "paillier")),
        cohort=_cohort(top.section("cohort", required=False)),
        models=_models(top.section("models", required=False)),
        hours=_hours(top.section("hours")) if top.has("hours") else None,
        resources=_resources(top.section("resources", required=False)),
        approvers=_approvers(top),
        need=top.integer("need", 1, 2, default=1),
        approve=_automatic(top),
        zone=_zone(top, "timezone", "UTC"),
        training_release=top.boolean("training_release", default=False),
        min_cell=top.integer("min_cell", 1, 1_000_000, default=1),
        min_changed_rows=top.integer("min_changed_rows", 1, MOST_ROWS, default=10),
        countersign=rules.Countersign(top.choice("countersign", tuple(rules.Countersign), default="auto")),
        isolation=rules.Isolation(top.choice("isolation", tuple(rules.Isolation), default="landlock")),
        roster=_roster(top),
    )
    if policy.need > 1 and not policy.approvers:
        top.wrong("need", "approvers", "two approvals need approvers: [{user: NAME}, ...]")
    for index, rule in enumerate(policy.approve):
        if rule.dataset not in policy.data:
            findings.wrong(top.line, f"approve[{index}].dataset", "dataset", "this data set is not under data")
    top.close()
    return policy


# --- sections ---------------------------------------------------------------------------------------------------------


def _privacy(section: Section) -> rules.PrivacyRules:
    privacy = rules.PrivacyRules(
        exact_sums=section.choice("exact_sums", ("allow", "refuse")) == "allow",
        max_epsilon=section.number("max_epsilon", 0.0, 1e6),
        max_delta=section.number("max_delta", 0.0, 0.01),
        units=_choices(section, "units", tuple(Unit), tuple(map(str, Unit))),
        noise=_choices(section, "noise", tuple(NoiseSource), (str(NoiseSource.PARTICIPANTS),)),
    )
    section.close()
    return privacy


def _roster(top: Section) -> rules.RosterRule | None:
    """`operator` is what holds where nothing is said: it is not in the canonical form."""
    found = rules.RosterRule(top.choice("roster", tuple(rules.RosterRule), default="operator"))
    return None if found is rules.RosterRule.OPERATOR else found


def _data(top: Section, findings: Findings) -> dict[str, rules.DataRules]:
    line = top.line_of("data")
    node = top.take("data", required=True)
    if not isinstance(node, Fields):
        if node is not None:
            findings.wrong(line, "data", "type", "expected a mapping {data set: {features: ..., ...}}")
        return {}
    found = {}
    for name, member in node.members.items():
        if not is_name(name):
            findings.wrong(node.lines[name], "data", "name", "a data set's name is 1 to 64 of a-z, 0-9, - and _")
        section = Section(member, f"data.{printable(name)}", node.lines[name], findings)
        found[name] = rules.DataRules(
            features=_columns(section, "features", ()),
            targets=_columns(section, "targets", ()),
            persons=_columns(section, "persons", ()),
            queries=_columns(section, "queries", ()),
            min_rows=section.integer("min_rows", 1, 10**12),
            epsilon_per_month=_optional_number(section, "epsilon_per_month"),
        )
        section.close()
    return found


def _cohort(section: Section) -> rules.CohortRules:
    known = tuple(OrgId(name) for name in _names(section, "known_organisations"))
    beside = 2 if known else 0
    cohort = rules.CohortRules(
        min_members=section.integer("min_members", 3, MAX_COHORT, default=3),
        min_survivors=section.integer("min_survivors", 3, MAX_COHORT, default=3),
        corrupt=section.integer("corrupt", 1, MAX_COHORT, default=1),
        known=known,
        min_known=section.integer("min_known", 0, MAX_COHORT, default=beside),
        min_known_survivors=section.integer("min_known_survivors", 0, MAX_COHORT, default=beside),
    )
    for key in ("min_known", "min_known_survivors"):
        if section.present and getattr(cohort, key) > len(known):
            section.wrong(key, "known", f"known_organisations names {len(known)}, this asks for more of them")
    section.close()
    return cohort


def _models(section: Section) -> rules.ModelRules:
    models = rules.ModelRules(
        kinds=_choices(section, "kinds", tuple(ModelKind), _MODELS.kinds),
        max_parameters=section.integer("max_parameters", 1, _MODELS.max_parameters, default=_MODELS.max_parameters),
        max_hidden_layers=section.integer(
            "max_hidden_layers", 0, _MODELS.max_hidden_layers, default=_MODELS.max_hidden_layers
        ),
        first_layer=rules.FirstLayer(section.choice("first_layer", tuple(rules.FirstLayer), default="guarded")),
        units_per_input=section.number("units_per_input", 0.0, 1e6, above=True, default=_MODELS.units_per_input),
        rows_per_unit=section.number("rows_per_unit", 0.0, 1e9, above=True, default=_MODELS.rows_per_unit),
        trainers=_names(section, "trainers"),
    )
    if bool(models.trainers) != (ModelKind.TRAINER in models.kinds):
        section.wrong("trainers", "trainers", "kind trainer and the names of trainers stand together, or neither does")
    section.close()
    return models


def _hours(section: Section) -> rules.HoursRules:
    names = _choices(section, "days", _DAYS, _DAYS)
    days = tuple(sorted(_DAYS.index(name) for name in names))
    start, end = _time(section, "from"), _time(section, "to")
    hours = rules.HoursRules(days, start, end, _zone(section, "timezone", None))
    section.close()
    return hours


def _resources(section: Section) -> rules.ResourceRules:
    def most(key: str) -> int | None:
        return section.integer(key, 1) if section.has(key) else None

    resources = rules.ResourceRules(
        most("max_rounds"), most("max_bytes_per_round"), _optional_number(section, "max_seconds_per_round", above=True)
    )
    section.close()
    return resources


def _approvers(top: Section) -> tuple[rules.Approver, ...]:
    found = []
    for index, section in enumerate(_sections(top, "approvers")):
        given = [key for key in ("user", "group") if section.has(key)]
        names = {key: _text(section, key, _ACCOUNT, "the name of an account on this machine") for key in given}
        if len(given) != 1:
            section.findings.wrong(section.line, section.path, "approver", "expected {user: NAME} or {group: NAME}")
        else:
            approver = rules.Approver(**names)
            if approver in found:
                section.findings.wrong(section.line, f"approvers[{index}]", "value_twice", "this approver stands twice")
            found.append(approver)
        section.close()
    return tuple(found)


def _automatic(top: Section) -> tuple[rules.AutomaticRule, ...]:
    found = []
    for section in _sections(top, "approve"):
        exact = section.choice("privacy", ("none", "differential")) == "none"
        rule = rules.AutomaticRule(
            dataset=section.name("dataset"),
            plans=_plans(section, "plans"),
            exact=exact,
            runs=section.integer("runs", 1, 1_000_000),
            rounds=section.integer("rounds", 1),
            epsilon=0.0 if exact else section.number("epsilon", 0.0, 1e6, above=True),
        )
        if exact and section.has("epsilon"):
            section.take("epsilon", required=False)
            section.wrong("epsilon", "epsilon", "exact sums have no epsilon; leave the field out")
        if exact and not rule.plans:
            section.wrong("plans", "missing", "plans with exact sums are named: plans: [{hash: ...}] or [{name: ...}]")
        section.close()
        found.append(rule)
    return tuple(found)


def _plans(section: Section, key: str) -> tuple[rules.PlanPattern, ...]:
    found = []
    for one in _sections(section, key):
        pattern = rules.PlanPattern(
            hash=_text(one, "hash", _HASH, "64 hex digits, small letters") if one.has("hash") else "",
            name=one.name("name") if one.has("name") else "",
            kind=one.choice("kind", tuple(Kind)) if one.has("kind") else "",
        )
        if pattern == rules.PlanPattern():
            one.findings.wrong(one.line, one.path, "missing", "expected hash, or name, or kind")
        if pattern.hash and (pattern.name or pattern.kind):
            one.findings.wrong(one.line, one.path, "choice", "a hash names one plan; leave name and kind out")
        one.close()
        found.append(pattern)
    return tuple(found)


# --- fields -----------------------------------------------------------------------------------------------------------


def _sections(section: Section, key: str) -> list[Section]:
    """The mappings in a list."""
    nodes = section.items(key, required=False)
    return [
        Section(node, section.at(f"{key}[{index}]"), node.line, section.findings) for index, node in enumerate(nodes)
    ]


def _optional_number(section: Section, key: str, *, above: bool = False) -> float | None:
    return section.number(key, 0.0, 1e12, above=above) if section.has(key) else None


def _text(section: Section, key: str, form: re.Pattern[str], expected: str) -> str:
    node = section.take(key, required=True)
    if isinstance(node, Scalar) and isinstance(node.value, str) and form.match(node.value):
        return node.value
    if node is not None and not (isinstance(node, Scalar) and node.refused):
        section.wrong(key, "type", f"expected {expected}")
    return ""


def _texts(section: Section, key: str, check: Callable[[str], str]) -> tuple[str, ...]:
    """A list of texts, each once. `check`: what is wrong with one, or nothing."""
    found: list[str] = []
    for node in section.items(key, required=False):
        value = node.value if isinstance(node, Scalar) else None
        if not isinstance(value, str):
            if not (isinstance(node, Scalar) and node.refused):
                section.findings.wrong(node.line, section.at(key), "type", "expected a list of names")
        elif value in found:
            section.findings.wrong(node.line, section.at(key), "value_twice", f"{value!r} is listed twice")
        elif problem := check(value):
            section.findings.wrong(node.line, section.at(key), "choice", f"{value!r} {problem}")
        else:
            found.append(value)
    if len(found) > MAX_LISTED:
        section.wrong(key, "range", f"{len(found)} names; at most {MAX_LISTED} are possible")
    return tuple(found)


def _choices(section: Section, key: str, choices: tuple[str, ...], default: tuple[str, ...] | None) -> tuple[str, ...]:
    """A list of some of `choices`, in their order; required, and not empty, without a default."""
    if not section.has(key):
        if default is None:
            section.take(key, required=True)
        return tuple(map(str, default or ()))
    named = ", ".join(map(str, choices))
    found = _texts(section, key, lambda value: "" if value in choices else f"is not one of {named}")
    if default is None and not found:
        section.wrong(key, "missing", f"name at least one of {named}")
    return tuple(str(choice) for choice in choices if choice in found)


def _names(section: Section, key: str) -> tuple[str, ...]:
    found = _texts(section, key, lambda value: "" if is_name(value) else "is not 1 to 64 of a-z, 0-9, - and _")
    return tuple(sorted(found))


def _columns(section: Section, key: str, default: tuple[str, ...]) -> tuple[str, ...] | None:
    """Column names, or `all`: None."""
    if not section.has(key):
        return default
    if section.is_text(key, rules.ALL_COLUMNS):
        section.take(key, required=False)
        return None
    found = _texts(section, key, lambda value: "")
    for name in found:
        section.check_column(name, key)
    return tuple(sorted(found))


def _time(section: Section, key: str) -> int:
    text = _text(section, key, _TIME, 'a time in quotes, as in "08:00"')
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute) if text else 0


def _zone(section: Section, key: str, default: str | None) -> str:
    """The name of a time zone that this machine knows."""
    node = section.take(key, required=default is None)
    if node is None:
        return default or "UTC"
    name = node.value if isinstance(node, Scalar) else None
    try:
        return zoneinfo.ZoneInfo(name if isinstance(name, str) else "").key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        section.wrong(key, "timezone", "expected a time zone that this machine knows, as in Europe/Berlin")
        return "UTC"
