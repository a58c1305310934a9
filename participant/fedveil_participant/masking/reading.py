"""The rules file, read: YAML of one meaning, every field known, every problem at once.

Promise: what `parse_rules` returns was checked as a whole, and has the masking digest of its canonical form.
"""

import dataclasses
import hashlib
from collections.abc import Mapping

from fedveil_common.plan.section import Findings, Section
from fedveil_common.plan.yaml_tree import Fields, Items, Node, Scalar, read_tree

from fedveil_participant.masking import rules
from fedveil_participant.masking.canonical import VERSION, canonical
from fedveil_participant.masking.key_reference import is_key_reference
from fedveil_participant.masking.problems import RulesError
from fedveil_participant.masking.rules import ColumnClass, ColumnRule, Grouping, OnFail, Release, Rules
from fedveil_participant.masking.steps import ALL, MAX_K, ReadBeside, StepReader

MAX_COLUMNS = 16_384
MEASURES = ("mean", "sum", "min", "max")
_CLASSES = tuple(one.value for one in ColumnClass)


def parse_rules(text: bytes, filename: str, beside: ReadBeside) -> Rules:
    """The rules in a YAML file. `filename` is for messages; `beside` reads the hierarchies.

    Raises RulesError (`bad_masking_rules`) with every problem.
    """
    findings = Findings()
    root = read_tree(text, findings.problems)
    if root is None:
        raise RulesError(filename, findings.problems)
    read = _read(Section(root, "", 1, findings), StepReader(beside))
    if findings.problems:
        raise RulesError(filename, findings.problems)
    return dataclasses.replace(read, digest=hashlib.sha256(canonical(read)).digest())


def _read(root: Section, steps: StepReader) -> Rules:
    version = root.integer("version", 1)
    if version != VERSION:
        root.wrong("version", "version", f"this release reads version {VERSION}")
    dataset = root.name("dataset")
    key_ref = root.prose("key_ref")
    if key_ref is not None and not is_key_reference(key_ref):
        root.wrong("key_ref", "key_ref", "env:NAME, file:PATH or credential:NAME")
    root.choice("unlisted", ("refuse",), default="refuse")
    columns = _columns(root, steps)
    aggregate = _grouping(root, columns) if root.has("aggregate") else None
    release = _release(root, columns, aggregate) if root.has("release") else None
    read = Rules(dataset, key_ref, columns, aggregate, release, b"")
    if read.needs_key and key_ref is None:
        root.wrong("key_ref", "missing", "pseudonyms, noise and fpe need a key: env:NAME, file:PATH or credential:NAME")
    root.close()
    return read


def _columns(root: Section, steps: StepReader) -> dict[str, ColumnRule]:
    node = root.take("columns", required=True)
    if not isinstance(node, Fields):
        root.wrong("columns", "type", "expected a mapping {column: rule}")
        return {}
    if not 1 <= len(node.members) <= MAX_COLUMNS:
        root.wrong("columns", "range", f"1 to {MAX_COLUMNS} columns")
    found: dict[str, ColumnRule] = {}
    for name, member in node.members.items():
        section = Section(member, root.at(f"columns.{name}"), node.lines[name], root.findings)
        section.check_column(name, "")
        found[name] = _rule(name, section, steps)
        section.close()
    if all(rule.dropped for rule in found.values()) and found:
        root.wrong("columns", "no_columns", "every column is dropped: nothing is left of the table")
    return found


def _rule(name: str, section: Section, steps: StepReader) -> ColumnRule:
    kind = ColumnClass(section.choice("class", _CLASSES))
    read = _steps(section, section.take("do", required=True), steps)
    if len(read) > 1 and any(isinstance(step, rules.Keep | rules.Drop) for step in read):
        section.wrong("do", "alone", "keep and drop stand alone")
    if kind is ColumnClass.IDENTIFIER and read and not any(_hides(step) for step in read):
        section.wrong("do", "identifier_kept", "an identifier is never kept: drop it, or put a pseudonym in its place")
    return ColumnRule(name, kind, read)


def _hides(step: rules.Step) -> bool:
    return isinstance(step, rules.HIDING) or (isinstance(step, rules.Redact) and ALL in step.patterns)


def _steps(section: Section, node: Node | None, steps: StepReader) -> tuple[rules.Step, ...]:
    """`do: NAME` with its parameters beside it, or a list of `NAME` and `{NAME: {parameters}}`."""
    found: list[rules.Step] = []
    match node:
        case Scalar(value=str(name)):
            found += _step(section, name, section, steps)
        case Items(items=items):
            for item in items:
                match item:
                    case Scalar(value=str(name)):
                        inner = Section(Fields({}, {}, item.line), section.at("do"), item.line, section.findings)
                    case Fields(members=members) if len(members) == 1:
                        name, parameters = next(iter(members.items()))
                        inner = Section(parameters, section.at(f"do.{name}"), item.line, section.findings)
                    case _:
                        section.wrong("do", "type", "a step is a word, or {word: {parameters}}")
                        continue
                found += _step(section, name, inner, steps)
                inner.close()
        case Scalar(refused=True) | None:
            return ()
        case _:
            section.wrong("do", "type", "expected the name of an operator or a list of steps")
            return ()
    if not found and isinstance(node, Items) and not node.items:
        section.wrong("do", "missing", "one step or more")
    return tuple(found)


def _step(section: Section, name: str, parameters: Section, steps: StepReader) -> list[rules.Step]:
    reader = steps.readers.get(name)
    if reader is None:
        section.wrong("do", "choice", f"{name!r} is not one of {', '.join(steps.readers)}")
        parameters.skip()
        return []
    return [reader(parameters)]


def _grouping(root: Section, columns: Mapping[str, ColumnRule]) -> Grouping:
    section = root.section("aggregate")
    by = tuple(node.value for node in section.items("by") if isinstance(node, Scalar) and isinstance(node.value, str))
    k, count = section.integer("k", 2, MAX_K), section.column("count", required=False) or "count"
    measures: dict[str, str] = {}
    inner = section.section("columns", required=False)
    for name in columns:
        if inner.has(name):
            measures[name] = inner.choice(name, MEASURES)
    inner.close()
    section.close()
    kept = [name for name, rule in columns.items() if not rule.dropped]
    if not by or len(set(by)) != len(by):
        section.wrong("by", "missing", "the names of the columns that make a group, each once")
    for name in by:
        if name not in kept or name in measures:
            section.wrong("by", "column", f"{name!r} is no column that is kept and not measured")
    for name in kept:
        if name not in by and name not in measures:
            section.wrong("columns", "column", f"{name!r} is neither in `by` nor measured: drop it, or say which")
    if any(columns[name].kind is ColumnClass.IDENTIFIER for name in by if name in columns):
        section.wrong("by", "column", "a group by an identifier is one person")
    if any(columns[name].dropped for name in measures):
        section.wrong("columns", "column", "a dropped column cannot be measured")
    if count in by or count in measures:
        section.wrong("count", "column", f"{count!r} is already a column of the groups")
    return Grouping(by, k, count, measures)


def _release(root: Section, columns: Mapping[str, ColumnRule], aggregate: Grouping | None) -> Release:
    section = root.section("release")
    k = section.integer("k", 1, MAX_K) if section.has("k") else None
    l_wanted = section.integer("l", 1, MAX_K) if section.has("l") else None
    t = section.number("t", 0, 1) if section.has("t") else None
    most = section.number("max_suppression", 0, 1, default=0.0)
    on_fail = OnFail(section.choice("on_fail", tuple(one.value for one in OnFail), default="refuse"))
    section.close()
    kinds = {rule.kind for rule in columns.values() if not rule.dropped}
    if k is None and l_wanted is None and t is None:
        section.wrong("k", "missing", "one of k, l, t")
    if (l_wanted is not None or t is not None) and ColumnClass.SENSITIVE not in kinds:
        section.wrong("l", "no_sensitive", "l and t are about a sensitive column, and no column is of that class")
    if ColumnClass.QUASI not in kinds and aggregate is None:
        section.wrong("k", "no_quasi", "k, l and t are about quasi-identifiers, and no column is of that class")
    if aggregate is not None and (l_wanted is not None or t is not None or on_fail is OnFail.GENERALISE):
        section.wrong("l", "aggregated", "an aggregated table has thresholds k and max_suppression only")
    if on_fail is OnFail.GENERALISE and not any(
        isinstance(step, rules.Levelled) and step.then
        for rule in columns.values()
        if rule.kind is ColumnClass.QUASI
        for step in rule.steps
    ):
        section.wrong("on_fail", "no_levels", "no quasi-identifier has a step with coarser levels (`then`)")
    return Release(k, l_wanted, t, most, on_fail)
