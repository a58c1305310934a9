"""Masking rules: what is understood, what is refused and where, and what the masking digest covers."""

import pytest
from fedveil_common.errors import ConfigError
from fedveil_participant.masking import RulesError, canonical, parse_rules
from fedveil_participant.masking.canonical import form
from fedveil_participant.masking.rules import Fpe, Pseudonym

from tests.masked_tables import no_file, rules, rules_text

JOBS = b"nurse,care,any\ndoctor,care,any\nclerk,office,any\n"


def problems(columns: dict[str, str], further: str = "", jobs: bytes = JOBS) -> set[tuple[int, str]]:
    with pytest.raises(RulesError) as caught:
        parse_rules(rules_text(columns, further), "masking.yaml", lambda name: jobs)
    assert caught.value.code == "bad_masking_rules"
    return {(problem.line, problem.code) for problem in caught.value.problems}


GOOD = {
    "name": "class: identifier, do: drop",
    "ssn": 'class: identifier, do: fpe, alphabet: digits, separators: "-", tweak: ssn/v1',
    "id": "class: identifier, do: pseudonym, scope: project, length: 26",
    "phone": 'class: identifier, do: mask, keep_last: 2, char: "*"',
    "notes": "class: free_text, do: redact, patterns: [email, phone, iban, date]",
    "zip": "class: quasi, do: truncate, keep: 3",
    "dob": "class: quasi, do: generalise, to: month, then: [year, decade]",
    "age": "class: quasi, do: [{generalise: {width: 10, then: [20, 40]}}, {clamp: {min: 30, max: 70}}]",
    "job": "class: quasi, do: hierarchy, file: job.csv, level: 1, then: [2]",
    "chol": "class: feature, do: [{clamp: {min: 0}}, {noise: {discrete_laplace: {scale: 4, grid: 1}}}]",
    "weight": "class: feature, do: [{suppress: {above: 300, rarer_than: 3, what: row}}, {microaggregate: {k: 5}}]",
    "diagnosis": "class: sensitive, do: keep",
}
RELEASE = "release: {k: 5, l: 2, t: 0.4, max_suppression: 0.05, on_fail: generalise}"


def test_the_rules_of_the_documentation_are_understood() -> None:
    read = rules(GOOD, RELEASE, lambda name: JOBS)
    assert list(read.columns) == list(GOOD)
    assert read.columns["id"].steps == (Pseudonym("project", None, 26, True),)
    assert read.columns["ssn"].steps == (Fpe("0123456789", "-", "ssn/v1", "project", None),)
    assert [step.NAME for step in read.columns["age"].steps] == ["generalise", "clamp"]
    assert read.release is not None
    assert (read.release.k, read.release.l, read.release.t, read.release.max_suppression) == (5, 2, 0.4, 0.05)
    assert read.needs_key
    assert not read.needs_entropy


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("class: identifier, do: keep", "identifier_kept"),
        ("class: identifier, do: clamp, min: 1", "identifier_kept"),
        ("class: identifier, do: truncate, keep: 3", "identifier_kept"),
        ("class: identifier, do: redact, patterns: [email]", "identifier_kept"),
        ("class: identifier, do: suppress, rarer_than: 5", "identifier_kept"),
        ("class: identifier, do: [suppress]", "missing"),
        ("class: person, do: drop", "choice"),
        ("class: quasi, do: hash", "choice"),
        ("class: quasi", "missing"),
        ("class: quasi, do: []", "missing"),
        ("class: quasi, do: 3", "type"),
        ("class: quasi, do: [[keep]]", "type"),
        ("class: quasi, do: [{clamp: {min: 1}, truncate: {keep: 2}}]", "type"),
        ("class: quasi, do: [keep, {clamp: {min: 1}}]", "alone"),
        ("class: quasi, do: [drop, drop]", "alone"),
        ("class: quasi, do: drop, keep: 3", "unknown_field"),
        ("class: quasi, do: [{truncate: {keep: 3, form: x}}]", "unknown_field"),
        ("class: quasi, do: truncate", "missing"),
        ("class: quasi, do: [truncate]", "missing"),
        ("class: quasi, do: truncate, keep: 0", "range"),
        ("class: quasi, do: clamp", "missing"),
        ("class: quasi, do: clamp, min: 3, max: 2", "range"),
        ("class: quasi, do: generalise", "missing"),
        ("class: quasi, do: generalise, width: 0", "range"),
        ("class: quasi, do: generalise, width: 10, then: [25]", "not_coarser"),
        ("class: quasi, do: generalise, width: 10, then: [10]", "not_coarser"),
        ("class: quasi, do: generalise, width: 10, then: [-20]", "range"),
        ("class: quasi, do: generalise, to: year, then: [month]", "not_coarser"),
        ("class: quasi, do: generalise, to: week", "choice"),
        ("class: quasi, do: redact, patterns: [names]", "choice"),
        ("class: quasi, do: redact, patterns: []", "missing"),
        ("class: quasi, do: pseudonym, length: 25", "range"),
        ("class: quasi, do: pseudonym, length: 53", "range"),
        ("class: quasi, do: pseudonym, domain: a/b", "name"),
        ("class: quasi, do: mask, char: ab", "range"),
        ("class: quasi, do: suppress", "missing"),
        ("class: quasi, do: suppress, rarer_than: 1", "range"),
        ('class: quasi, do: suppress, values: [""]', "text"),
        ("class: quasi, do: microaggregate, k: 1", "range"),
        ("class: quasi, do: noise, discrete_laplace: {scale: 1}", "missing"),
        ("class: quasi, do: noise, discrete_laplace: {scale: 1, grid: 100}", "range"),
        ("class: quasi, do: noise, gaussian: {scale: 1}", "unknown_field"),
        ("class: quasi, do: fpe", "missing"),
        ("class: quasi, do: fpe, alphabet: digits, characters: abc", "choice"),
        ("class: quasi, do: fpe, characters: aab", "range"),
        ('class: quasi, do: fpe, alphabet: digits, separators: "-5"', "range"),
        ("class: quasi, do: hierarchy, file: job.csv, level: 3", "range"),
        ("class: quasi, do: hierarchy, file: job.csv, level: 2, then: [1]", "not_coarser"),
        ("class: quasi, do: hierarchy, file: ../job.csv, level: 1", "hierarchy_file"),
        ("class: quasi, do: hierarchy, level: 1", "missing"),
    ],
)
def test_a_wrong_rule_is_named_by_its_line(rule: str, code: str) -> None:
    found = problems({"kept": "class: feature, do: keep", "a": rule})
    assert (6, code) in found, found
    assert all(line == 6 for line, _ in found)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "hierarchy_empty"),
        (b"nurse\n", "hierarchy_levels"),
        (b"nurse,care\ndoctor,care,any\n", "hierarchy_levels"),
        (b"nurse,care\nnurse,any\n", "hierarchy_twice"),
        (b"nurse,\n", "missing_mark"),
        (b"NA,care\n", "missing_mark"),
        (b"n\xff,care\n", "not_utf8"),
        (b'nurse,"care\n', "csv_syntax"),
        (b"x" * (16 * 1024 * 1024 + 1), "hierarchy_too_large"),
    ],
)
def test_a_wrong_hierarchy_is_named_without_its_values(data: bytes, code: str) -> None:
    found = problems({"a": "class: quasi, do: hierarchy, file: job.csv, level: 1"}, jobs=data)
    assert found == {(5, code)}


def test_levels_that_are_no_coarsening_are_refused() -> None:
    """Level 2 parts what level 1 has put together: going up would say more, not less."""
    crossed = b"nurse,care,day\ndoctor,care,night\n"
    found = problems({"a": "class: quasi, do: hierarchy, file: job.csv, level: 1, then: [2]"}, jobs=crossed)
    assert found == {(5, "not_coarser")}


@pytest.mark.parametrize(
    ("further", "code"),
    [
        ("unlisted: drop", "choice"),
        ("unlisted: keep", "choice"),
        ("salt: x", "unknown_field"),
        ("release: {l: 2}", "no_sensitive"),
        ("release: {k: 2, on_fail: warn}", "choice"),
        ("release: {max_suppression: 0.1}", "missing"),
        ("release: {k: 2, max_suppression: 2}", "range"),
        ("release: {k: 2, on_fail: generalise}", "no_levels"),
        ("aggregate: {by: [b], k: 5}", "column"),
        ("aggregate: {by: [a], k: 1}", "range"),
        ("aggregate: {by: [], k: 5, columns: {a: mean}}", "missing"),
        ("aggregate: {by: [a], k: 5, columns: {a: mean}}", "column"),
        ("aggregate: {by: [a], k: 5, count: a}", "column"),
        ("columns: {}", "duplicate_key"),
    ],
)
def test_a_wrong_part_of_the_file_is_refused(further: str, code: str) -> None:
    assert code in {found for _, found in problems({"a": "class: quasi, do: keep"}, further)}


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        {"a": "class: identifier, do: keep", "b": "class: quasi, do: hash", "c": "class: quasi, do: truncate"},
        "unlisted: drop\nkey: abc",
    )
    assert found == {
        (5, "identifier_kept"),
        (6, "choice"),
        (7, "missing"),
        (8, "choice"),
        (9, "unknown_field"),
    }


def test_thresholds_without_quasi_identifiers_are_refused() -> None:
    assert (6, "no_quasi") in problems({"a": "class: feature, do: keep"}, "release: {k: 5}")


def test_rules_that_leave_nothing_are_refused() -> None:
    assert {code for _, code in problems({"a": "class: quasi, do: drop"})} == {"no_columns"}


@pytest.mark.parametrize(
    "text",
    [b"version: 1\ndataset: &a visits\n", b"version: 1\nversion: 1\n", b"- 1\n", b"", b"\xff", b"version: 2\n"],
)
def test_files_that_are_no_rules_are_refused(text: bytes) -> None:
    with pytest.raises(RulesError):
        parse_rules(text, "masking.yaml", no_file)


@pytest.mark.parametrize("reference", ["env:1A", "env:", "file:", "credential:a/b", "credential:..", "abc", "vault:x"])
def test_key_references_that_lead_nowhere_are_refused(reference: str) -> None:
    text = rules_text({"a": "class: quasi, do: pseudonym"}).replace(b"env:K", f'"{reference}"'.encode())
    with pytest.raises(RulesError) as caught:
        parse_rules(text, "masking.yaml", no_file)
    assert [problem.code for problem in caught.value.problems] == ["key_ref"]


def test_a_key_is_asked_for_where_a_step_needs_one() -> None:
    text = rules_text({"a": "class: quasi, do: pseudonym"}).replace(b"key_ref: env:K\n", b"")
    with pytest.raises(RulesError) as caught:
        parse_rules(text, "masking.yaml", no_file)
    assert [problem.path for problem in caught.value.problems] == ["key_ref"]


# --- digest -----------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_meaning() -> None:
    plain = rules({"a": "class: quasi, do: truncate, keep: 3", "b": "class: identifier, do: pseudonym"})
    other = rules(
        {
            "b": "do: [{pseudonym: {length: 26, typed: true}}], class: identifier",
            "a": "do: [{truncate: {keep: 3}}], class: quasi",
        },
        "unlisted: refuse   # nothing else is possible",
    )
    assert plain.digest == other.digest
    assert len(plain.digest) == 32


@pytest.mark.parametrize(
    "changed",
    [
        {"a": "class: quasi, do: truncate, keep: 4", "b": "class: identifier, do: pseudonym"},
        {"a": "class: feature, do: truncate, keep: 3", "b": "class: identifier, do: pseudonym"},
        {"a": "class: quasi, do: truncate, keep: 3", "b": "class: identifier, do: pseudonym, length: 27"},
        {"a": "class: quasi, do: truncate, keep: 3", "b": "class: identifier, do: pseudonym, domain: p"},
        {"a": "class: quasi, do: truncate, keep: 3", "b": "class: identifier, do: surrogate"},
        {"a": "class: quasi, do: truncate, keep: 3", "c": "class: identifier, do: pseudonym"},
    ],
)
def test_the_digest_changes_with_every_rule(changed: dict[str, str]) -> None:
    plain = rules({"a": "class: quasi, do: truncate, keep: 3", "b": "class: identifier, do: pseudonym"})
    assert rules(changed).digest != plain.digest


def test_the_digest_changes_with_release_dataset_and_hierarchy() -> None:
    columns = {"a": "class: quasi, do: hierarchy, file: job.csv, level: 1"}
    digests = {
        rules(columns, further, lambda name, data=data: data, dataset).digest  # type: ignore[misc]
        for further in ("", "release: {k: 2}", "release: {k: 3}", "release: {k: 3, on_fail: suppress}")
        for data in (JOBS, JOBS + b"cook,care,any\n")
        for dataset in ("visits", "stays")
    }
    assert len(digests) == 4 * 2 * 2


def test_the_canonical_form_has_every_field_of_every_step() -> None:
    """A parameter that is added and forgotten here would not be approved by anyone."""
    read = rules(GOOD, RELEASE, lambda name: JOBS)
    text = canonical(read).decode()
    assert '"release":{"k":5,"l":2,"max_suppression":0.05,"on_fail":"generalise","t":0.4}' in text
    lookup = read.columns["job"].steps[0]
    assert set(form(lookup)) == {"file", "level", "other", "then", "hierarchy"}
    assert form(lookup)["hierarchy"] in text
    assert "nurse" not in text


def test_a_hierarchy_that_cannot_be_read_is_a_problem_of_its_line() -> None:
    def missing(name: str) -> bytes:
        raise ConfigError("file_unreadable", f"{name} is not there")

    with pytest.raises(RulesError) as caught:
        parse_rules(rules_text({"a": "class: quasi, do: hierarchy, file: x.csv, level: 1"}), "masking.yaml", missing)
    assert [(problem.line, problem.code) for problem in caught.value.problems] == [(5, "file_unreadable")]
