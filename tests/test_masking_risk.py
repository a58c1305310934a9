"""The risk report and the thresholds: against pycanon, against exact fractions, and what passes below them: nothing."""

import json
import math
import pathlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fedveil_common.errors import PolicyRefusal
from fedveil_participant.masking import Masked, ReleaseRefused, RiskReport
from fedveil_participant.masking.cells import Cells, encode
from fedveil_participant.masking.classes import classes_of, spread_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.masked_tables import masked, texts
from tests.reference import disclosure

VECTORS = json.loads((pathlib.Path(__file__).parent / "vectors" / "pycanon.json").read_text(encoding="ascii"))
steady = settings(derandomize=True, deadline=None, max_examples=80)


def cells(values: Sequence[str | None]) -> Cells:
    return encode(pa.chunked_array([pa.array(list(values), pa.string())]), "c")


@pytest.mark.parametrize("case", VECTORS["cases"], ids=[case["name"] for case in VECTORS["cases"]])
def test_measures_are_those_of_pycanon(case: dict[str, Any]) -> None:
    columns = {name: cells(values) for name, values in case["columns"].items()}
    rows = len(next(iter(case["columns"].values())))
    classes = classes_of([columns[name] for name in case["quasi"]], rows)
    assert classes.k == case["out"]["k"]
    for name in case["sensitive"]:
        wanted, found = case["out"][name], spread_of(name, columns[name], classes)
        assert found.ordered is (name in case["ordered"])
        assert found.l == wanted["l"]
        rounded = {math.floor(found.entropy_l + nudge) for nudge in (-1e-9, 1e-9)}  # pycanon rounds 2 - 1e-16 to 1
        assert wanted["entropy_l_rounded_down"] in rounded
        assert found.t == pytest.approx(wanted["t"], rel=1e-12, abs=1e-14)
        assert found.alpha == pytest.approx(wanted["alpha"], rel=1e-14)
        assert found.delta == pytest.approx(wanted["delta"], rel=1e-12, abs=1e-14)


def test_the_second_implementation_agrees_with_pycanon() -> None:
    for case in VECTORS["cases"]:
        names = list(case["columns"])
        rows = [dict(zip(names, row, strict=True)) for row in zip(*case["columns"].values(), strict=True)]
        for name in case["sensitive"]:
            found = disclosure.measures(rows, case["quasi"], name, ordered=name in case["ordered"])
            for measure in ("t", "alpha", "delta", "l"):
                assert found[measure] == pytest.approx(case["out"][name][measure], rel=1e-12, abs=1e-14)


QUASI = st.sampled_from(["a", "b", None])


@steady
@given(
    st.lists(st.tuples(QUASI, QUASI, st.sampled_from(["1", "2.0", "2", "30", "-4", "7"])), min_size=1, max_size=40),
    st.booleans(),
)
def test_measures_are_those_of_the_definitions(rows: list[tuple[str | None, str | None, str]], ordered: bool) -> None:
    """Ordered: numbers, of which two texts are one. Equal distance: the same values as words."""
    sensitive = [text if ordered else f"v{text}" for *_, text in rows]
    columns = [cells([row[0] for row in rows]), cells([row[1] for row in rows])]
    classes = classes_of(columns, len(rows))
    found = spread_of("s", cells(sensitive), classes)
    plain = [
        {"p": row[0], "q": row[1], "s": str(float(text)) if ordered else text}
        for row, text in zip(rows, sensitive, strict=True)
    ]
    wanted = disclosure.measures(plain, ["p", "q"], "s", ordered=ordered)
    assert found.ordered is ordered
    assert (classes.k, found.l) == (wanted["k"], wanted["l"])
    for measure in ("entropy_l", "t", "alpha", "delta"):
        assert getattr(found, measure) == pytest.approx(wanted[measure], rel=1e-12, abs=1e-12), measure


def test_a_missing_sensitive_value_makes_the_distance_equal() -> None:
    found = spread_of("s", cells(["1", "2", None]), classes_of([cells(["a", "a", "b"])], 3))
    assert not found.ordered
    wanted = disclosure.measures(
        [{"q": q, "s": s} for q, s in (("a", "1"), ("a", "2"), ("b", None))], ["q"], "s", ordered=False
    )
    assert (found.l, found.t) == (wanted["l"], pytest.approx(wanted["t"]))


def test_many_wide_columns_do_not_run_over() -> None:
    """Codes of fourteen columns of 1024 values each do not fit into 64 bits: a shift would lose the first ones."""
    values = cells([str(value) for value in range(1023)]).values
    rows = np.arange(8184)
    constant = np.zeros(8184, dtype=np.int32)
    first = [Cells((rows // 8).astype(np.int32), values), Cells((rows % 8).astype(np.int32), values)]
    classes = classes_of([*first, *[Cells(constant, values)] * 12], 8184)
    assert (classes.k, len(classes.sizes)) == (1, 8184)
    doubled = [Cells(np.concatenate([one.codes, one.codes]), one.values) for one in first]
    assert set(classes_of(doubled, 2 * 8184).sizes.tolist()) == {2}


def test_rows_that_rules_left_out_are_no_room_for_the_release() -> None:
    """A tenth may go; the rules took it, so the class of one row must not go too."""
    columns = {"q": "class: quasi, do: suppress, values: [x], what: row"}
    table = texts({"q": ["x", *["a"] * 8, "b"]})
    release = "release: {k: 2, max_suppression: 0.1, on_fail: suppress}"
    error = refused(release, table, columns)
    assert [one.measure for one in error.report.release or ()] == ["k"]
    assert masked(columns, table, release.replace("0.1", "0.2"), release=True).report.suppression == 0.2


# --- report -----------------------------------------------------------------------------------------------------------

RULES = {
    "id": "class: identifier, do: pseudonym",
    "zip": "class: quasi, do: truncate, keep: 1",
    "age": "class: quasi, do: generalise, width: 10",
    "disease": "class: sensitive, do: keep",
    "pay": "class: sensitive, do: keep",
}


def people(count: int = 120, seed: int = 1) -> pa.Table:
    draw = np.random.Generator(np.random.PCG64(seed)).integers
    return texts(
        {
            "id": [f"p{row}" for row in range(count)],
            "zip": [str(10 * draw(1, 4) + draw(0, 10)) for _ in range(count)],
            "age": [str(20 + draw(0, 40)) for _ in range(count)],
            "disease": [["flu", "cold", "asthma"][draw(0, 3)] for _ in range(count)],
            "pay": [str(draw(1, 30) * 100) for _ in range(count)],
        }
    )


def checked(done: Masked, quasi: Sequence[str]) -> RiskReport:
    """The report of a masked table is what the second implementation says of the table itself."""
    rows, report = done.table.to_pylist(), done.report
    risk = disclosure.prosecutor(rows, quasi, Fraction(1, 5))
    assert (report.rows, report.quasi) == (len(rows), tuple(quasi))
    assert (report.uniques, report.at_risk) == (risk["uniques"], risk["at_risk"])
    assert report.highest == pytest.approx(risk["highest"])
    assert report.success == pytest.approx(risk["success"])
    for spread in report.spreads:
        wanted = disclosure.measures(rows, quasi, spread.name, ordered=spread.ordered)
        assert (report.k, spread.l) == (wanted["k"], wanted["l"])
        assert spread.t == pytest.approx(wanted["t"])
        assert spread.entropy_l == pytest.approx(wanted["entropy_l"])
    return report


def test_the_report_is_that_of_the_masked_table() -> None:
    report = checked(masked(RULES, people()), ["zip", "age"])
    assert [(one.name, one.ordered) for one in report.spreads] == [("disease", False), ("pay", True)]
    assert report.classes == 12
    assert report.release is None


def test_the_report_has_no_value_of_a_row() -> None:
    done = masked(RULES, people())
    text = json.dumps(done.report.json()) + "\n".join(done.report.lines())
    table = {*people().column("id").to_pylist(), *done.table.column("id").to_pylist(), "flu", "cold", "asthma"}
    assert not [value for value in table if str(value) in text]


def test_what_is_not_protected_is_said() -> None:
    def said(rule: str, values: Sequence[str]) -> set[str]:
        return {note.code for note in masked({"a": rule}, texts({"a": values})).report.notes}

    always = {"not_differential_privacy"}
    assert said("class: quasi, do: keep", ["1"]) == always
    assert said("class: identifier, do: pseudonym", ["1"]) == always | {
        "frequencies_identify",
        "linkable",
        "no_quasi_identifiers",
    }
    many = [str(value) for value in range(10_000)]
    assert "frequencies_identify" not in said("class: identifier, do: pseudonym", many)
    assert "frequencies_identify" in said("class: identifier, do: pseudonym", many[1:])
    assert "linkable" not in said("class: identifier, do: surrogate", ["1"])
    assert "free_text_kept" in said("class: free_text, do: keep", ["1"])
    assert "patterns_only" in said("class: free_text, do: redact, patterns: [email]", ["1"])
    both = masked(
        {"q": "class: quasi, do: keep", "s": "class: sensitive, do: keep"}, texts({"q": ["1", "1"], "s": ["x", "x"]})
    )
    assert {"class_of_one_value", "features_identify"} <= {note.code for note in both.report.notes}


# --- thresholds -------------------------------------------------------------------------------------------------------


def refused(further: str, table: pa.Table, columns: dict[str, str] | None = None) -> ReleaseRefused:
    with pytest.raises(ReleaseRefused) as caught:
        masked(columns or RULES, table, further, release=True)
    assert (caught.value.code, caught.value.exit_code) == ("release_below_thresholds", 4)
    return caught.value


def test_each_threshold_refuses_by_itself_and_passes_at_its_value() -> None:
    table = people()
    report = masked(RULES, table).report
    t = max(one.t for one in report.spreads)
    least = min(one.l for one in report.spreads)
    assert report.k > 1
    for wanted, measure in (
        (f"k: {report.k + 1}", "k"),
        (f"l: {least + 1}", "l"),
        (f"t: {t - 1e-6:.9f}", "t"),
    ):
        error = refused(f"release: {{{wanted}}}", table)
        assert [one.measure for one in error.report.release or ()] == [measure]
    passed = f"release: {{k: {report.k}, l: {least}, t: {t + 1e-9:.12f}}}"
    assert masked(RULES, table, passed, release=True).report.release == ()


def test_thresholds_apply_where_they_are_asked_for() -> None:
    """A preview, and training without `training_release`, are not refused."""
    assert masked(RULES, people(), "release: {k: 1000}").report.rows == 120


def test_rows_left_out_by_rules_count_against_max_suppression() -> None:
    columns = RULES | {"zip": "class: quasi, do: [{suppress: {values: [10], what: row}}, {truncate: {keep: 1}}]"}
    table = texts({name: people().column(name).to_pylist() for name in people().column_names})
    zips = ["10" if row < 12 else "20" for row in range(120)]
    table = table.set_column(1, "zip", pa.array(zips))
    assert masked(columns, table, "release: {k: 1, max_suppression: 0.1}", release=True).report.suppression == 0.1
    error = refused("release: {k: 1, max_suppression: 0.09}", table, columns)
    assert [one.measure for one in error.report.release or ()] == ["max_suppression"]


def test_suppress_leaves_out_small_classes_and_no_more() -> None:
    table = people(100, seed=3)
    before = masked(RULES, table)
    sizes: dict[tuple[object, object], int] = {}
    for row in before.table.to_pylist():
        sizes[row["zip"], row["age"]] = sizes.get((row["zip"], row["age"]), 0) + 1
    k = sorted(sizes.values())[2] + 1
    small = sum(size for size in sizes.values() if size < k)
    release = f"release: {{k: {k}, max_suppression: {small / 100}, on_fail: suppress}}"
    done = masked(RULES, table, release, release=True)
    report = checked(done, ["zip", "age"])
    assert report.k >= k
    assert (report.suppressed_for_release, report.rows) == (small, 100 - small)
    ids = before.table.column("id").to_pylist()
    stayed = [row["id"] for row in before.table.to_pylist() if sizes[row["zip"], row["age"]] >= k]
    assert done.table.column("id").to_pylist() == [one for one in ids if one in set(stayed)]
    assert refused(release.replace(f"{small / 100}", f"{(small - 1) / 100}"), table).report.rows == 100


def test_suppress_repeats_until_t_holds_on_what_is_left() -> None:
    """Without the class of x the table is another, from which the class of y is too far away in turn."""
    columns = {"q": "class: quasi, do: keep", "s": "class: sensitive, do: keep"}
    rows = [("x", "9")] * 4 + [("y", "1")] * 4 + [(q, s) for q in "uvw" for s in "5555123456"]
    table = texts({"q": [q for q, _ in rows], "s": [s for _, s in rows]})
    done = masked(columns, table, "release: {t: 0.2, max_suppression: 0.5, on_fail: suppress}", release=True)
    report = checked(done, ["q"])
    assert report.spreads[0].t <= 0.2
    assert 0 < report.suppressed_for_release < len(rows)


def test_a_table_of_which_nothing_would_be_left_is_refused() -> None:
    table = people(20)
    error = refused("release: {k: 21, max_suppression: 1, on_fail: suppress}", table)
    assert error.report.rows == 20


LEVELS = RULES | {
    "zip": "class: quasi, do: hierarchy, file: zip.csv, level: 1, then: [2]",
    "age": "class: quasi, do: generalise, width: 1, then: [10, 100]",
}
ZIPS = "".join(f"{ten}{one},{ten}*,**\n" for ten in range(1, 4) for one in range(10)).encode()


def test_generalise_goes_up_the_levels_that_are_declared() -> None:
    table = people(120)
    release = "release: {k: 5, on_fail: generalise}"
    done = masked(LEVELS, table, release, lambda name: ZIPS, release=True)
    report = checked(done, ["zip", "age"])
    assert report.k >= 5
    assert dict(report.levels)["age"] == 1
    assert set(done.table.column("age").to_pylist()) == {"20", "30", "40", "50"}
    further = masked(LEVELS, table, release.replace("k: 5", "k: 120"), lambda name: ZIPS, release=True)
    assert (further.report.k, dict(further.report.levels)) == (120, {"age": 2, "zip": 1})
    assert set(further.table.column("age").to_pylist()) == {"0"}
    assert set(further.table.column("zip").to_pylist()) == {"**"}


def test_generalise_refuses_when_no_level_is_left() -> None:
    with pytest.raises(ReleaseRefused) as caught:
        masked(LEVELS, people(120), "release: {k: 121, on_fail: generalise}", lambda name: ZIPS, release=True)
    assert dict(caught.value.report.levels) == {"age": 2, "zip": 1}


def test_generalise_leaves_out_a_few_rows_before_it_goes_further_up() -> None:
    table = people(120)
    outlier = table.to_pylist()
    outlier[0]["age"] = "119"
    table = texts({name: [row[name] for row in outlier] for name in table.column_names})
    columns = RULES | {"age": "class: quasi, do: generalise, width: 10, then: [200]"}
    strict = masked(columns, table, "release: {k: 2, on_fail: generalise}", release=True).report
    lenient = masked(columns, table, "release: {k: 2, max_suppression: 0.01, on_fail: generalise}", release=True).report
    assert (dict(strict.levels), strict.suppressed_for_release) == ({"age": 1}, 0)
    assert (dict(lenient.levels), lenient.suppressed_for_release) == ({}, 1)


def test_groups_have_thresholds_too() -> None:
    columns = {"zip": "class: quasi, do: keep", "pay": "class: feature, do: keep"}
    table = texts({"zip": ["a"] * 6 + ["b"] * 3 + ["c"], "pay": ["1"] * 10})
    grouping = "aggregate: {by: [zip], k: 2, columns: {pay: mean}}\n"
    done = masked(columns, table, grouping + "release: {k: 3, max_suppression: 0.1}", release=True)
    assert (done.report.k, done.report.suppression) == (3, 0.1)
    for release in ("{k: 4, max_suppression: 0.1}", "{k: 3}"):
        refused(grouping + f"release: {release}", table, columns)


# --- the rival --------------------------------------------------------------------------------------------------------


def test_rival_R17_records_are_masked_by_rules_with_default_deny_and_refused_below_k_l_t() -> None:
    """No other system masks local records or refuses a table below k, l or t. First the honest table, which passes;
    then one that each rule alone stops.
    """
    table = people(120)
    release = "release: {k: 5, l: 2, t: 0.6}"
    done = masked(RULES, table, release, release=True)
    assert checked(done, ["zip", "age"]).k >= 5
    assert not set(done.table.column("id").to_pylist()) & set(table.column("id").to_pylist())
    leaking = table.append_column("name", pa.array([f"n{row}" for row in range(120)]))
    with pytest.raises(PolicyRefusal) as caught:
        masked(RULES, leaking, release, release=True)
    assert caught.value.code == "column_unlisted"
    fine = RULES | {"age": "class: quasi, do: keep"}
    assert {one.measure for one in refused(release, table, fine).report.release or ()} >= {"k", "l"}
    for stricter in ("{k: 100}", "{l: 4}", "{t: 0.01}"):
        assert len(refused(f"release: {stricter}", table).report.release or ()) == 1
