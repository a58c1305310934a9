"""CSV under a plan: one meaning per cell, all problems at once, a version that is blind to order, the holdout rule."""

import hashlib
import io
import itertools

import numpy as np
import pytest
from fedveil_common.errors import PolicyRefusal
from fedveil_common.plan import Plan, parse_plan
from fedveil_participant.data import holdout
from fedveil_participant.data.csv_source import Source, read_features, read_source
from fedveil_participant.data.prepare import check_rows
from fedveil_participant.data.problems import MAX_PROBLEMS, DataError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CALM = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

KEY = bytes(range(32))


def plan_with(
    features: str, target: str = "{column: y, type: binary}", extra: str = "", kind: str = "logistic"
) -> Plan:
    text = f"""\
version: 1
name: p
kind: train
data:
  dataset: d
  features: {features}
  target: {target}
  min_rows: 3
  standardise: range
  {extra}
model: {{kind: {kind}}}
training: {{rounds: 2, learning_rate: 0.1, seed: 7, weight_cap: 100}}
evaluation: {{holdout: 0.25}}
cohort: {{min_participants: 3}}
protection: {{kind: masked, update_norm: 5}}
privacy: none
"""
    return parse_plan(text.encode(), "plan.yaml")


TWO = "{a: {type: float, range: [0, 10]}, c: {type: category, values: [F, M]}}"


def read(text: str | bytes, plan: Plan | None = None, key: bytes = KEY) -> Source:
    data = text if isinstance(text, bytes) else text.encode()
    return read_source(io.BytesIO(data), "rows.csv", plan or plan_with(TWO), key)


def problems(text: str | bytes, plan: Plan | None = None) -> list[tuple[int, str, str]]:
    with pytest.raises(DataError) as caught:
        read(text, plan)
    assert caught.value.code == "bad_data"
    assert caught.value.exit_code == 2
    return [(p.line, p.column, p.code) for p in caught.value.problems]


def test_typed_columns_in_any_column_order_with_others_ignored() -> None:
    source = read('\ufeffc,zz,y,"a"\r\n F ,x,1,"1.5"\r\nM,"b,\n c",0,2e0\r\n\r\nF,,1.0,+.5\r\n')
    assert source.table.rows == 3
    assert source.table.numbers["a"].tolist() == [1.5, 2.0, 0.5]
    assert source.table.codes["c"].tolist() == [0, 1, 0]
    assert source.table.target is not None
    assert source.table.target.tolist() == [1.0, 0.0, 1.0]


def test_every_problem_is_named_with_the_line_where_its_record_begins() -> None:
    text = 'a,c,y\n11,F,1\n"1\n2",X,0\n,F,\n1,F\nnan,NA,?\n1_0,F,0\n1e999,F,0\n'
    assert problems(text) == [
        (2, "a", "out_of_range"),
        (3, "a", "not_a_number"),
        (3, "c", "unknown_category"),
        (5, "a", "missing"),
        (5, "y", "missing"),
        (6, "", "field_count"),
        (7, "a", "not_a_number"),
        (7, "c", "missing"),
        (7, "y", "missing"),
        (8, "a", "not_a_number"),
        (9, "a", "not_a_number"),
    ]


def test_no_value_of_the_file_is_in_the_message() -> None:
    with pytest.raises(DataError) as caught:
        read("a,c,y\n987654,PatientName,1\n")
    assert "987654" not in str(caught.value)
    assert "PatientName" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [(1, "", "empty_file")]),
        ("a;c;y\n1;F;0\n", [(1, "", "separator")]),
        ("a\tc\ty\n1\tF\t0\n", [(1, "", "separator")]),
        ("a,c\n1,F\n", [(1, "y", "column_missing")]),
        ("a,c,y,a\n1,F,1,2\n", [(1, "a", "column_twice")]),
        ("a,c,y\n", [(1, "", "no_rows")]),
        (b"a,c,y\n1,F,1\n\xff,F,1\n", [(3, "", "not_utf8"), (3, "a", "missing")]),
        ('a,c,y\n1,F,1\n1,"F,1\n', [(3, "", "csv_syntax")]),
        ('a,c,y\n1,"F"x,1\n', [(2, "", "csv_syntax")]),
    ],
)
def test_files_that_are_no_table(text: str | bytes, expected: list[tuple[int, str, str]]) -> None:
    found = problems(text)
    assert [p for p in found if p[2] != "no_rows" or p in expected] == expected


def test_names_in_a_header_are_escaped_before_they_are_shown() -> None:
    with pytest.raises(DataError) as caught:
        read("a,c,y,\u202ez,\u202ez\n1,F,1,1,1\n")
    assert "\u202e" not in str(caught.value)


def test_the_list_of_problems_is_bounded_and_says_so() -> None:
    with pytest.raises(DataError) as caught:
        read("a,c,y\n" + "x,F,1\n" * 1000)
    assert caught.value.total == 1000
    assert len(caught.value.problems) == MAX_PROBLEMS


def test_missing_rules() -> None:
    plan = plan_with(
        "{m: {type: float, range: [0, 4], missing: mean}, d: {type: float, range: [0, 4], missing: drop},"
        " v: {type: float, range: [0, 4], missing: 3}, c: {type: category, values: [F, M], missing: M}}"
    )
    source = read("m,d,v,c,y\n?,1,NA,,1\n1,,1,F,0\n1,1,1,F,0\n", plan)
    assert np.isnan(source.table.numbers["m"][0])
    assert source.table.rows == 2  # the row without d is gone
    assert source.table.numbers["v"].tolist() == [3.0, 1.0]
    assert source.table.codes["c"].tolist() == [1, 0]
    assert problems("m,d,v,c,y\n1,1,1,F,\n", plan) == [(2, "y", "missing")]


def test_out_of_range_is_clamped_only_where_the_plan_says_so() -> None:
    plan = plan_with("{a: {type: float, range: [0, 10], clamp: true}}")
    source = read("a,y\n-5,1\n50,0\n", plan)
    assert source.table.numbers["a"].tolist() == [0.0, 10.0]


@pytest.mark.parametrize(
    ("positive", "cells", "expected"),
    [
        ("1", ["1", "1.0", "1e0", "01", "0", "yes"], [1, 1, 1, 1, 0, 0]),
        ("malignant", ["malignant", "Malignant", "benign", "1"], [1, 0, 0, 0]),
        ("'yes'", ["yes", "no", "YES"], [1, 0, 0]),
    ],
)
def test_binary_targets_compare_as_numbers_where_both_are(positive: str, cells: list[str], expected: list[int]) -> None:
    plan = plan_with(TWO, f"{{column: y, type: binary, positive: {positive}}}")
    source = read("a,c,y\n" + "".join(f"1,F,{cell}\n" for cell in cells), plan)
    assert source.table.target is not None
    assert source.table.target.tolist() == expected


def test_float_targets_are_numbers_within_their_range() -> None:
    plan = plan_with(TWO, "{column: y, type: float, range: [-1, 1]}", kind="linear")
    assert problems("a,c,y\n1,F,x\n1,F,2\n1,F,\n", plan) == [
        (2, "y", "not_a_number"),
        (3, "y", "out_of_range"),
        (4, "y", "missing"),
    ]
    source = read("a,c,y\n1,F,-0.5\n", plan)
    assert source.table.target is not None
    assert source.table.target.tolist() == [-0.5]


def test_a_row_names_its_person_and_lines_have_a_limit() -> None:
    plan = plan_with(TWO, extra="person: who")
    assert problems("a,c,y,who\n1,F,1,\n", plan) == [(2, "who", "missing")]
    assert (2, "", "line_too_long") in problems("a,c,y\n" + "1" * 5_000_000 + ",F,1\n")


def test_the_version_key_is_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        read("a,c,y\n1,F,1\n", key=b"short")


def test_min_rows_is_a_refusal_not_a_problem_of_the_file() -> None:
    source = read("a,c,y\n1,F,1\n2,M,0\n")
    with pytest.raises(PolicyRefusal) as caught:
        check_rows(plan_with(TWO), source)
    assert caught.value.code == "too_few_rows"


rows = st.lists(st.tuples(st.integers(0, 10), st.sampled_from("FM"), st.integers(0, 1)), min_size=1, max_size=8)


@CALM
@given(rows, st.randoms(use_true_random=False), st.permutations(["a", "c", "y"]))
def test_the_version_is_blind_to_row_and_column_order_and_to_format(rows, random, columns) -> None:  # type: ignore[no-untyped-def]
    def csv(rows, columns, number=str, quote="{}") -> str:  # type: ignore[no-untyped-def]
        cells = [{"a": number(a), "c": c, "y": str(y)} for a, c, y in rows]
        return ",".join(columns) + "\n" + "".join(",".join(quote.format(r[k]) for k in columns) + "\n" for r in cells)

    version = read(csv(rows, ["a", "c", "y"])).version
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert read(csv(shuffled, columns)).version == version
    assert read(csv(shuffled, columns, lambda a: f" {a:.3e} ", '"{}"')).version == version
    # and to nothing else: a changed, a doubled and a missing row, another key
    a, c, y = rows[0]
    assert read(csv([((a + 1) % 11, c, y), *rows[1:]], ["a", "c", "y"])).version != version
    assert read(csv([*rows, rows[0]], ["a", "c", "y"])).version != version
    assert read(csv(rows, ["a", "c", "y"]), key=bytes(32)).version != version


def test_the_version_is_taken_before_clamping_filling_and_dropping() -> None:
    plan = plan_with(
        "{a: {type: float, range: [0, 10], clamp: true, missing: 5}, d: {type: float, range: [0, 1], missing: drop}}"
    )
    tables = ["a,d,y\n11,1,1\n", "a,d,y\n10,1,1\n", "a,d,y\n,1,1\n", "a,d,y\n5,1,1\n", "a,d,y\n5,1,1\n1,,1\n"]
    assert len({read(table, plan).version for table in tables}) == len(tables)


def test_no_choice_of_columns_makes_the_same_data_look_new() -> None:
    table = "a,c,y,who\n1,F,1,x\n2,M,0,y\n"
    plans = [plan_with(TWO), plan_with(TWO, extra="person: who"), plan_with("{a: {type: float, range: [0, 10]}}")]
    assert len({read(table, plan).version for plan in plans}) == 1
    assert read("a,c,y,who\n1,F,1,x\n2,M,0,z\n").version != read(table).version


def test_doubling_rows_is_not_cancelled_by_the_sum() -> None:
    # an XOR of row digests would give the same version for these
    versions = {read("a,c,y\n" + "1,F,1\n" * n).version for n in (1, 2, 3, 4)}
    assert len(versions) == 4


def test_the_holdout_rule_is_the_documented_one() -> None:
    source = read("a,c,y\n1.50,F,1\n2,M,0\n")
    for position, row in zip(source.positions, (b'[1.5,"F",1]', b'[2,"M",0]'), strict=True):
        digest = hashlib.sha256((7).to_bytes(8, "big") + row).digest()
        assert int(position) == int.from_bytes(digest[:8], "big")
    out = holdout.held_out(source.positions, 0.25)
    assert out.tolist() == [int(p) / 2**64 < 0.25 for p in source.positions]


def test_the_holdout_takes_its_share_and_whole_persons() -> None:
    plan = plan_with("{a: {type: float, range: [0, 100000]}}", extra="person: who")
    text = "a,y,who\n" + "".join(f"{i},{i % 2},{i % 4000}\n" for i in range(12_000))
    source = read(text, plan)
    out = holdout.held_out(source.positions, 0.25).reshape(3, 4000)
    assert (out[0] == out[1]).all()
    assert (out[0] == out[2]).all()
    assert abs(out[0].mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)  # false alarm below 1e-6
    who = hashlib.sha256((7).to_bytes(8, "big") + b'["17"]').digest()
    assert int(source.positions[17]) == int.from_bytes(who[:8], "big")


def test_missing_values_are_null_in_the_holdout_rule() -> None:
    plan = plan_with("{m: {type: float, range: [0, 4], missing: 3}}")
    source = read("m,y\n,1\n", plan)
    digest = hashlib.sha256((7).to_bytes(8, "big") + b"[null,1]").digest()
    assert int(source.positions[0]) == int.from_bytes(digest[:8], "big")


def test_prediction_reads_no_target_and_keeps_every_row() -> None:
    plan = plan_with("{a: {type: float, range: [0, 10], missing: drop}, c: {type: category, values: [F, M]}}")
    table = read_features(io.BytesIO(b"c,a\nF,1\nM,\n"), "new.csv", plan)
    assert table.rows == 2
    assert table.target is None
    assert np.isnan(table.numbers["a"][1])
    with pytest.raises(DataError):
        read_features(io.BytesIO(b"c,a\nX,1\n"), "new.csv", plan)


@CALM
@given(st.binary(max_size=200), st.sampled_from([b"", b"a,c,y\n", b"a,c,y\n1,F,1\n"]))
def test_no_bytes_raise_anything_but_data_errors(tail: bytes, head: bytes) -> None:
    try:
        source = read(head + tail)
    except DataError:
        return
    assert source.table.rows >= 1


def test_memory_is_that_of_the_columns() -> None:
    # 100,000 rows of one column in a generator-backed file: the table is 8 bytes a cell
    plan = plan_with("{a: {type: float, range: [0, 10]}}")
    lines = itertools.chain([b"a,note,y\n"], itertools.repeat(b"1," + b"x" * 100 + b",1\n", 20_000))
    source = read(b"".join(lines), plan)
    assert source.table.numbers["a"].nbytes == 8 * 20_000
