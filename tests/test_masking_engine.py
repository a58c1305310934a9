"""A whole table through the engine: default deny, equal results for equal cells, noise, rows left out, groups."""

import datetime
import decimal
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from fedveil_common.dp import laplace
from fedveil_common.errors import ConfigError, FedveilError, PolicyRefusal
from fedveil_participant.data.csv_source import canonical_row
from fedveil_participant.data.version import VersionDigest
from fedveil_participant.masking import METADATA, BadCellsError, mask_table
from fedveil_simulation.ports import SeededEntropy

from tests.masked_tables import KEY, OTHER_KEY, masked, rules, texts

NOISE = "class: feature, do: [{clamp: {min: 0, max: 100}}, {noise: {discrete_laplace: {scale: 3, grid: 0.5}}}]"


def refused(columns: dict[str, str], table: pa.Table, **more: object) -> FedveilError:
    with pytest.raises(FedveilError) as caught:
        masked(columns, table, **more)  # type: ignore[arg-type]
    return caught.value


# --- default deny -----------------------------------------------------------------------------------------------------


def test_a_column_that_is_not_listed_stops_everything() -> None:
    table = texts({"a": ["1"], "b": ["2"], "c\u202e": ["3"]})
    error = refused({"a": "class: feature, do: keep"}, table)
    assert (error.code, error.exit_code) == ("column_unlisted", 4)
    assert "b" in error.what
    assert "\u202e" not in error.what
    assert isinstance(error, PolicyRefusal)


def test_a_listed_column_that_is_absent_is_refused() -> None:
    both = {"a": "class: feature, do: keep", "b": "class: identifier, do: drop"}
    error = refused(both, texts({"a": ["1"]}))
    assert (error.code, error.exit_code) == ("column_absent", 2)
    assert isinstance(error, ConfigError)


def test_what_else_is_refused_as_a_whole() -> None:
    keep = {"a": "class: feature, do: keep"}
    twice = pa.table([pa.array(["1"]), pa.array(["2"])], names=["a", " a"])
    assert refused(keep, twice).code == "column_twice"
    assert refused(keep, texts({"a": []})).code == "table_empty"
    assert (
        refused({"a": "class: identifier, do: pseudonym"}, texts({"a": ["1"]}), key=None).code == "masking_key_missing"
    )
    nested = pa.table({"a": pa.array([[1, 2]])})
    assert refused(keep, nested).code == "column_unreadable"
    assert refused(keep, pa.table({"a": pa.array([b"1"])})).code == "column_unreadable"
    assert refused(keep, texts({"a": ["x" * 131_073]})).code == "column_unreadable"
    with pytest.raises(ConfigError) as caught:
        mask_table(rules(keep), KEY, texts({"a": ["1"]}), "stays", entropy=SeededEntropy(1, "m"))
    assert caught.value.code == "masking_dataset"


def test_bad_cells_of_all_columns_are_named_at_once_and_without_values() -> None:
    columns = {"a": "class: feature, do: clamp, min: 0", "b": "class: quasi, do: generalise, to: year"}
    table = texts({"a": ["1", "secret-a", None, "4"], "b": ["2020-01-01", "secret-b", "2020-01-02", "secret-c"]})
    with pytest.raises(BadCellsError) as caught:
        masked(columns, table)
    assert caught.value.total == 3
    found = [(p.row, p.column, p.code) for p in caught.value.problems]
    assert found == [(2, "a", "not_a_number"), (2, "b", "not_a_date"), (4, "b", "not_a_date")]
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.problems)


def test_ten_thousand_bad_cells_are_counted_and_a_hundred_listed() -> None:
    error = refused({"a": "class: feature, do: clamp, min: 0"}, texts({"a": [f"x{i % 7}" for i in range(10_000)]}))
    assert isinstance(error, BadCellsError)
    assert (error.total, len(error.problems)) == (10_000, 100)
    assert [p.row for p in error.problems] == list(range(1, 101))


# --- equal cells, equal results ---------------------------------------------------------------------------------------

EVERY = {
    "id": "class: identifier, do: pseudonym",
    "n": "class: quasi, do: generalise, width: 10",
    "x": NOISE,
    "day": "class: quasi, do: generalise, to: month",
    "at": "class: quasi, do: truncate, keep: 10",
    "ok": "class: sensitive, do: keep",
    "d": "class: feature, do: clamp, max: 2.5",
}


def typed_table() -> pa.Table:
    return pa.table(
        {
            "id": pa.array([1, 2, None, 2, 5], pa.int32()),
            "n": pa.array([11, 25, 38, None, -4], pa.int64()),
            "x": pa.array([1.0, 2.5, None, 99.75, 1e3], pa.float64()),
            "day": pa.array([datetime.date(2024, 1, day) for day in range(1, 6)]),
            "at": pa.array([datetime.datetime(2024, 1, 1, hour) for hour in range(5)], pa.timestamp("s", "UTC")),
            "ok": pa.array([True, False, None, True, True]),
            "d": pa.array([decimal.Decimal("1.10"), decimal.Decimal("3.00"), None, None, decimal.Decimal("2.50")]),
        }
    )


def text_table() -> pa.Table:
    return texts(
        {
            "id": ["1", "2.0", "?", " 2", "5"],
            "n": ["11", "25", "38", "NA", "-4"],
            "x": ["1", "2.5", "", "99.75", "1000.0"],
            "day": [f"2024-01-0{day}" for day in range(1, 6)],
            "at": [f"2024-01-01T0{hour}:00:00Z" for hour in range(5)],
            "ok": ["1", "0", None, "1", "1"],
            "d": ["1.1", "3", "", None, "2.5"],
        }
    )


def as_texts(table: pa.Table) -> list[tuple[str | None, ...]]:
    """The rows, numbers and truth values as data.md writes them."""

    def text(value: object) -> str | None:
        match value:
            case None:
                return None
            case bool():
                return str(int(value))
            case float():
                return repr(value).removesuffix(".0")
            case _:
                return str(value)

    return [tuple(text(value) for value in row.values()) for row in table.to_pylist()]


def test_typed_columns_and_texts_give_the_same() -> None:
    typed, plain = masked(EVERY, typed_table()), masked(EVERY, text_table())
    assert as_texts(typed.table) == as_texts(plain.table)
    assert [entry.json() for entry in typed.noise] == [entry.json() for entry in plain.noise]
    assert typed.report.json() == plain.report.json()


def test_types_that_come_out() -> None:
    found = masked(EVERY, typed_table()).table.schema
    types = {name: str(found.field(name).type) for name in found.names}
    assert types == {
        "id": "string",
        "n": "double",
        "x": "double",
        "day": "string",
        "at": "string",
        "ok": "bool",
        "d": "double",
    }
    assert {str(one) for one in masked(EVERY, text_table()).table.schema.types} == {"string"}


def test_dictionaries_large_texts_and_chunks_give_the_same() -> None:
    plain = text_table()
    wanted = as_texts(masked(EVERY, plain).table)
    chunked = pa.concat_tables([plain.slice(0, 2), plain.slice(2, 0), plain.slice(2)])
    large = pa.table({name: plain.column(name).cast(pa.large_string()) for name in plain.column_names})
    coded = pa.table({name: plain.column(name).dictionary_encode() for name in plain.column_names})
    for other in (chunked, large, coded):
        assert as_texts(masked(EVERY, other).table) == wanted


def test_order_of_rows_and_columns_does_not_matter() -> None:
    plain = text_table()
    wanted = Counter(as_texts(masked(EVERY, plain).table))
    turned = plain.take([3, 0, 4, 2, 1]).select(["d", "ok", "x", "id", "n", "at", "day"])
    found = masked(EVERY, turned).table.select(plain.column_names)
    assert Counter(as_texts(found)) == wanted


def test_the_same_table_is_masked_the_same_again_and_other_keys_otherwise() -> None:
    first, again = masked(EVERY, text_table()), masked(EVERY, text_table(), seed=9)
    assert first.table.equals(again.table)
    other = masked(EVERY, text_table(), key=OTHER_KEY)
    assert not set(first.table.column("id").to_pylist()) & (set(other.table.column("id").to_pylist()) - {None})
    said = json.loads(first.table.schema.metadata[METADATA])
    assert said == {
        "dataset": "visits",
        "masking_digest": rules(EVERY).digest.hex(),
        "key_id": KEY.key_id,
    }


def test_missing_cells_stay_missing_in_every_operator() -> None:
    operators = [
        "do: keep",
        "do: redact, patterns: [all]",
        "do: pseudonym",
        "do: surrogate",
        "do: truncate, keep: 2",
        "do: mask",
        "do: generalise, width: 5",
        "do: clamp, min: 0",
        "do: suppress, below: 0",
        "do: microaggregate, k: 2",
        "do: noise, discrete_laplace: {scale: 1, grid: 1}",
        "do: fpe, alphabet: digits",
    ]
    for operator in operators:
        found = masked(
            {"a": f"class: sensitive, {operator}"}, texts({"a": ["?", "1234567", None, "7654321", "NA", " "]})
        )
        assert [value is None for value in found.table.column("a").to_pylist()] == [
            True,
            False,
            True,
            False,
            True,
            True,
        ]


# --- noise ------------------------------------------------------------------------------------------------------------


def column_x(values: Sequence[str], beside: Sequence[str] = (), rule: str = NOISE) -> list[float]:
    table = texts({"x": values, "b": list(beside) or ["same"] * len(values)})
    found = masked({"x": rule, "b": "class: feature, do: keep"}, table).table.column("x").to_pylist()
    return [float(value) for value in found]


def test_noise_is_on_the_grid_and_has_its_distribution() -> None:
    """2000 rows: mean and variance of the difference within five standard errors of the exact ones."""
    values = [str(row % 100) for row in range(2000)]
    found = np.array(column_x(values, [str(row) for row in range(2000)]))
    steps = (found - np.array([float(value) for value in values])) / 0.5
    assert np.array_equal(steps, np.rint(steps))
    q = float(np.exp(-1 / 6))  # scale 3 on a grid of 0.5: six steps
    variance = 2 * q / (1 - q) ** 2
    assert abs(steps.mean()) < 5 * np.sqrt(variance / 2000)
    assert abs(steps.var() / variance - 1) < 5 * np.sqrt(5 / 2000)
    zero = (1 - q) / (1 + q)
    assert abs((steps == 0).mean() - zero) < 5 * np.sqrt(zero / 2000)


def test_noise_is_that_of_the_exact_sampler_in_the_order_of_the_rows_digests() -> None:
    """The derivation once more: version and digests from `canonical_row`, a draw for each place in their order."""
    rows = [{"x": str(value), "b": f"r{value}"} for value in range(40)]
    table = texts({name: [row[name] for row in rows] for name in ("x", "b")})
    done = masked({"x": NOISE, "b": "class: feature, do: keep"}, table)
    row_key = KEY.derive("row", "", "visits")
    version = VersionDigest(row_key)
    for row in rows:
        version.add(canonical_row(row))
    assert done.noise[0].version == version.digest().hex()
    digests = [hmac.new(row_key, canonical_row(row), hashlib.sha256).digest() for row in rows]
    places = [sorted(digests).index(one) for one in digests]
    found = [(float(v) - value) * 2 for value, v in enumerate(done.table.column("x").to_pylist())]
    sampler = laplace.table(Fraction(6))
    purpose = b'["x",1,[0],[{"clamp":{"max":100,"min":0}},{"noise":{"grid":0.5,"scale":3}}]]'
    key = KEY.derive("noise", version.digest().hex(), f"visits/{hashlib.sha256(purpose).hexdigest()}")
    drawn = sampler.draw(key, 0, 40).tolist()
    assert found == [drawn[place] for place in places]


def test_noise_changes_with_every_row_and_every_rule() -> None:
    """Two outputs with the same noise on different values would show their difference exactly."""
    values, beside = [str(value) for value in range(60)], [str(value) for value in range(60)]
    base = np.array(column_x(values, beside))
    assert np.array_equal(base, column_x(values, beside))
    one_row = np.array(column_x(values, [*beside[:-1], "changed"]))
    wider = np.array(column_x(values, beside, NOISE.replace("scale: 3", "scale: 4")))
    clamped = np.array(column_x(values, beside, NOISE.replace("max: 100", "max: 101")))
    for other in (one_row, wider, clamped):
        assert np.mean(base == other) < 0.5


def test_the_ledger_says_what_a_cell_is_protected_by() -> None:
    done = masked({"x": NOISE}, texts({"x": ["1", None, "3"]}))
    entry = done.noise[0].json()
    assert (entry["cells"], entry["cell_epsilon_per_grid_step"]) == (2, 0.5 / 3)
    assert entry["cell_epsilon_of_any_change"] == pytest.approx(100.5 / 3)
    assert entry["in_the_epsilon_of_runs"] is False
    unbounded = masked({"x": "class: feature, do: noise, discrete_laplace: {scale: 1, grid: 1}"}, texts({"x": ["1"]}))
    assert unbounded.noise[0].whole_width is None
    assert masked({"x": "class: feature, do: keep"}, texts({"x": ["1"]})).noise == ()


def test_numbers_beyond_the_grid_are_refused() -> None:
    error = refused({"x": "class: feature, do: noise, discrete_laplace: {scale: 1, grid: 1}"}, texts({"x": ["1e300"]}))
    assert isinstance(error, BadCellsError)
    assert error.problems[0].code == "beyond_grid"


# --- rows left out, groups --------------------------------------------------------------------------------------------


def test_rows_that_match_go_and_nothing_else_is_made_of_them() -> None:
    columns = {
        "a": "class: quasi, do: [{suppress: {values: [x], what: row}}, {truncate: {keep: 1}}]",
        "b": "class: feature, do: microaggregate, k: 2",
    }
    done = masked(columns, texts({"a": ["x", "yy", "zz"], "b": ["1000", "1", "3"]}))
    assert done.table.to_pydict() == {"a": ["y", "z"], "b": ["2", "2"]}
    assert (done.report.rows_read, done.report.rows, done.report.suppressed_by_rules) == (3, 2, 1)
    assert [step.rows for step in done.counts["a"]] == [1, 0]


def test_a_bad_cell_in_a_later_row_keeps_its_number() -> None:
    columns = {"a": "class: quasi, do: suppress, values: [x], what: row", "b": "class: feature, do: clamp, min: 0"}
    error = refused(columns, texts({"a": ["x", "y", "y"], "b": ["bad", "1", "bad"]}))
    assert isinstance(error, BadCellsError)
    assert [p.row for p in error.problems] == [3]


def test_counts_of_what_was_done() -> None:
    columns = {
        "a": "class: quasi, do: [{suppress: {values: [x]}}, {truncate: {keep: 1}}]",
        "b": "class: identifier, do: drop",
    }
    done = masked(columns, texts({"a": ["x", "yy", "z", None, "yy"], "b": ["1"] * 5}))
    assert [(s.step, s.changed, s.emptied) for s in done.counts["a"]] == [("suppress", 0, 1), ("truncate", 2, 0)]
    figures = {one.name: one for one in done.report.columns}
    assert (figures["a"].distinct, figures["a"].missing, figures["b"].dropped) == (2, 2, True)


GROUPED = {
    "ward": "class: quasi, do: keep",
    "age": "class: feature, do: keep",
    "name": "class: identifier, do: drop",
}


def test_groups() -> None:
    table = texts(
        {
            "ward": ["b", "a", "b", "a", "a", "c", None, None, None],
            "age": ["10", "20", "30", "40", "", "99", "1", "2", "3"],
            "name": list("abcdefghi"),
        }
    )
    further = "aggregate: {by: [ward], k: 2, count: n, columns: {age: mean}}"
    done = masked(GROUPED, table, further)
    assert done.table.to_pydict() == {"ward": [None, "a", "b"], "n": [3, 3, 2], "age": [2.0, 30.0, 20.0]}
    assert (done.report.k, done.report.rows, done.report.suppressed_for_release) == (2, 3, 1)
    larger = masked(GROUPED, table, further.replace("k: 2", "k: 3"))
    assert larger.table.to_pydict() == {"ward": [None, "a"], "n": [3, 3], "age": [2.0, None]}
    for measure, wanted in (("sum", [6.0, 60.0, 40.0]), ("min", [1.0, 20.0, 10.0]), ("max", [3.0, 40.0, 30.0])):
        found = masked(GROUPED, table, further.replace("mean", measure)).table.column("age").to_pylist()
        assert found == wanted


def test_a_measure_of_texts_is_refused() -> None:
    table = texts({"ward": ["a", "a"], "age": ["old", "3"], "name": ["x", "y"]})
    error = refused(GROUPED, table, further="aggregate: {by: [ward], k: 2, columns: {age: mean}}")
    assert isinstance(error, BadCellsError)
    assert [(p.row, p.column, p.code) for p in error.problems] == [(1, "age", "not_a_number")]
