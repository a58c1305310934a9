"""Which rows are used, and versions that differ in few rows: against counting by hand, and attacks on both."""

import hashlib
import hmac
import io
import random
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from fedveil_common.errors import PolicyRefusal
from fedveil_common.messages import Purpose
from fedveil_common.secret import Seed
from fedveil_participant import checks
from fedveil_participant.data import difference
from fedveil_participant.data.csv_source import EVERY_ROW, csv_file, read_table
from fedveil_participant.data.difference import MOST_ROWS, SKETCH_BYTES, SketchSums, changed_rows, recurrence
from fedveil_participant.data.problems import DataError
from fedveil_participant.data.selection import PersonDigests, Selection
from fedveil_participant.events import SpentKey
from hypothesis import given
from hypothesis import strategies as st
from test_csv_source import CALM, KEY, TWO, plan_with

PLAN = plan_with(TWO)


def digest(row: object) -> bytes:
    return hmac.new(KEY, repr(row).encode(), hashlib.sha256).digest()


def sketch(rows: list[object]) -> bytes:
    sums = SketchSums()
    for row in rows:
        sums.add(digest(row))
    return sums.sketch()


def by_hand(one: list[object], other: list[object]) -> int:
    first, second = Counter(one), Counter(other)
    return max(sum((first - second).values()), sum((second - first).values()))


@pytest.mark.parametrize("gone", [0, 1, 2, 9, 10, 11, MOST_ROWS - 1, MOST_ROWS])
@pytest.mark.parametrize("come", [0, 1, 10, MOST_ROWS])
def test_single_rows_that_go_and_come_are_counted(gone: int, come: int) -> None:
    base = list(range(300))
    other = base[gone:] + [f"new {i}" for i in range(come)]
    assert changed_rows(sketch(base), sketch(other)) == min(MOST_ROWS, max(gone, come)) == by_hand(base, other)
    assert changed_rows(sketch(other), sketch(base)) == changed_rows(sketch(base), sketch(other))


@CALM
@given(st.lists(st.integers(0, 20), max_size=40), st.lists(st.integers(0, 20), max_size=40))
def test_never_more_than_the_rows_that_changed(one: list[object], other: list[object]) -> None:
    found = changed_rows(sketch(one), sketch(other))
    assert found <= by_hand(one, other)
    assert (found == 0) == (Counter(one) == Counter(other))


def test_other_data_is_as_different_as_can_be_said_and_order_does_not_matter() -> None:
    rows: list[object] = list(range(10_000))
    mixed = random.Random(3).sample(rows, len(rows))
    assert sketch(mixed) == sketch(rows)
    assert len(sketch(rows)) == SKETCH_BYTES
    assert changed_rows(sketch(rows), sketch([f"other {i}" for i in range(9_000)])) == MOST_ROWS
    assert changed_rows(sketch(rows), sketch(rows[5000:])) == MOST_ROWS
    assert changed_rows(sketch([]), sketch([])) == 0
    with pytest.raises(ValueError, match="no sketch"):
        changed_rows(b"", sketch(rows))


def test_the_recurrence_is_that_of_linear_algebra() -> None:
    """The rank of the Hankel matrix of the sums is the number of points: counted by elimination over the field."""
    draw = random.Random(5)
    for points in range(7):
        chosen = [(draw.randrange(1, difference.P), draw.randrange(1, difference.P)) for _ in range(points)]
        sums = [sum(m * pow(x, j, difference.P) for x, m in chosen) % difference.P for j in range(16)]
        assert recurrence(sums) == rank([sums[i : i + 8] for i in range(8)]) == points


def rank(matrix: list[list[int]]) -> int:
    rows, found = [list(row) for row in matrix], 0
    for column in range(len(rows[0])):
        pivot = next((row for row in rows[found:] if row[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        rows.insert(found, pivot)
        inverse = pow(pivot[column], -1, difference.P)
        for row in rows[found + 1 :]:
            factor = row[column] * inverse % difference.P
            row[:] = [(a - factor * b) % difference.P for a, b in zip(row, pivot, strict=True)]
        found += 1
    return found


# --- a second exact sum -----------------------------------------------------------------------------------------------


def spent(rows: list[object], subject: bytes = b"m" * 32, purpose: Purpose = Purpose.TRAIN) -> SpentKey:
    return SpentKey("d", hashlib.sha256(repr(sorted(map(repr, rows))).encode()).digest(), purpose, subject)


def code_of(asked: SpentKey, known: list[SpentKey], sketches: dict[bytes, bytes], least: int = 10) -> str:
    try:
        checks.not_spent([asked], known, sketches, least)
    except PolicyRefusal as error:
        return error.code
    return ""


def test_a_version_that_differs_in_few_rows_is_no_new_one() -> None:
    base: list[object] = list(range(200))
    versions = {changed: base[changed:] for changed in (0, 1, 9, 10, 60)}
    sketches = {spent(rows).version: sketch(rows) for rows in versions.values()}
    before = spent(base)
    codes = {changed: code_of(spent(rows), [before], sketches) for changed, rows in versions.items()}
    assert codes == {0: "model_spent", 1: "model_spent", 9: "model_spent", 10: "", 60: ""}
    assert code_of(spent(versions[10]), [before], sketches, 11) == "model_spent"
    one = spent(versions[1])
    assert code_of(replace(one, subject=b"n" * 32), [before], sketches) == ""
    assert code_of(replace(one, purpose=Purpose.STATISTICS), [before], sketches) == ""
    assert code_of(replace(one, dataset="another name"), [before], sketches) == "model_spent"
    assert code_of(one, [before], {}) == "", "without a sketch versions are compared by their labels"


def test_small_steps_do_not_lead_away_from_what_was_summed() -> None:
    """Each version is compared with every one that was summed, not with the last one alone."""
    base: list[object] = list(range(100))
    steps = [base[start:] for start in (0, 5, 10, 15)]
    sketches = {spent(rows).version: sketch(rows) for rows in steps}
    assert code_of(spent(steps[1]), [spent(steps[0])], sketches) == "model_spent"
    assert code_of(spent(steps[2]), [spent(steps[0])], sketches) == ""
    assert code_of(spent(steps[3]), [spent(steps[0]), spent(steps[2])], sketches) == "model_spent"


def test_the_least_that_an_organisation_asks_for() -> None:
    assert checks.Limits().min_changed_rows == checks.MIN_CHANGED_ROWS == 10 <= MOST_ROWS


# --- which rows are used ----------------------------------------------------------------------------------------------

TABLE = "a,c,y,id,ward\n" + "".join(f"{i},{'FM'[i % 2]},{i % 2},{i % 5:02},{'ns'[i % 3 == 0]}\n" for i in range(10))


def table(text: str, selection: Selection = EVERY_ROW, mask: object = None):
    return read_table([csv_file("t.csv", io.BytesIO(text.encode()))], "t.csv", PLAN, KEY, selection, mask)


def excluding(*ids: str, column: str = "id", key: bytes = KEY) -> Selection:
    digests = PersonDigests(Seed(key))
    return Selection(excluded={column: frozenset(digests.of(one) for one in ids)}, digests=PersonDigests(Seed(KEY)))


def without(*ids: int) -> str:
    lines = TABLE.splitlines(keepends=True)
    return "".join([lines[0], *(line for i, line in enumerate(lines[1:]) if i % 5 not in ids)])


def test_who_objected_is_as_if_never_there() -> None:
    for listed, ids in ((("3",), (3,)), ((" 03 ", "4.0"), (3, 4)), (("7",), ())):
        left, same = table(TABLE, excluding(*listed)), table(without(*ids))
        assert left.version == same.version
        assert left.sketch == same.sketch
        assert left.table.numbers["a"].tolist() == same.table.numbers["a"].tolist()
        assert left.positions.tolist() == same.positions.tolist()
    assert table(TABLE, excluding("3", key=bytes(32))).version == table(TABLE).version, "digests of another home"
    assert changed_rows(table(TABLE).sketch, table(TABLE, excluding("3")).sketch) == 2


def test_digests_of_ids() -> None:
    digests = PersonDigests(Seed(KEY))
    assert digests.of("é") == digests.of(" e\u0301 ")
    assert digests.of("7") == digests.of("7.0") == digests.of("07")
    assert digests.of("7") != digests.of("7a")
    assert len(digests.of("7")) == 32
    assert {digests.of(text) for text in ("", "?", "NA", "  ")} == {b""}
    assert PersonDigests(Seed(bytes(32))).of("7") != digests.of("7")


def test_filters_keep_rows_with_all_their_values() -> None:
    kept = table(TABLE, Selection(where=(("ward", "n"), ("c", "F"))))
    assert kept.table.numbers["a"].tolist() == [2, 4, 8]
    with_both = replace(excluding("3"), where=(("ward", "n"),))
    assert table(TABLE, with_both).table.numbers["a"].tolist() == [1, 2, 4, 5, 7]


def test_a_column_of_a_selection_that_went_away_refuses_the_table() -> None:
    for selection in (excluding("3", column="gone"), Selection(where=(("gone", "x"),))):
        with pytest.raises(DataError) as caught:
            table(TABLE, selection)
        assert [(p.column, p.code) for p in caught.value.problems] == [("gone", "column_missing")]


def test_a_mask_sees_the_rows_that_are_used_and_the_plan_what_it_gives() -> None:
    seen: list[pa.Table] = []

    def mask(rows: pa.Table) -> pa.Table:
        seen.append(rows)
        return rows.filter(pa.array([cell != "4" for cell in rows["a"].to_pylist()])).drop_columns(["ward", "id"])

    plain, masked = table(TABLE, excluding("3")), table(TABLE, excluding("3"), mask)
    assert masked.version == plain.version, "the version is of the rows before masking"
    assert masked.sketch == plain.sketch
    assert seen[0].column_names == ["a", "c", "y", "id", "ward"]
    assert seen[0]["a"].to_pylist() == ["0", "1", "2", "4", "5", "6", "7", "9"]
    assert masked.table.numbers["a"].tolist() == [0, 1, 2, 5, 6, 7, 9]
    with pytest.raises(DataError) as caught:
        table(TABLE, EVERY_ROW, lambda rows: rows.drop_columns(["c"]))
    assert [(p.column, p.code) for p in caught.value.problems] == [("c", "column_missing")]
    with pytest.raises(DataError) as caught:
        table(TABLE + "1,F\n", EVERY_ROW, mask)
    assert [p.code for p in caught.value.problems] == ["field_count"]
    with pytest.raises(DataError) as caught:
        table(TABLE, Selection(where=(("ward", "x"),)), mask)
    assert [p.code for p in caught.value.problems] == ["no_rows"]
