"""Parquet under a plan: the version and rows of the same CSV, problems with places, hostile files within bounds."""

import csv
import datetime
import decimal
import io
import os
import pathlib
import random
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from fedveil_cli.simulating import play_in_memory, read_tables
from fedveil_cli.world import SystemClock
from fedveil_common.errors import ConfigError
from fedveil_common.plan import Plan, canonical, parse_plan
from fedveil_common.secret import Seed
from fedveil_participant.bench import TableBench
from fedveil_participant.data import csv_source, parquet_records
from fedveil_participant.data.csv_source import Source, read_feature_table, read_source, read_table
from fedveil_participant.data.folder import table_files
from fedveil_participant.data.problems import DataError, Problems
from processes import NAMES, plan_text
from processes import table as table_text
from pyarrow import parquet
from test_csv_source import KEY, TWO, plan_with

PLAN = plan_with(TWO)
GOOD = {"a": [1.5, 2.0, 0.5], "c": ["F", "M", "F"], "y": [1, 0, 1]}
BASELINE = 1024 * 1024 * 1024
"""Address space of the reader with its libraries loaded and little else."""


def write(path: pathlib.Path, columns: object, **options: object) -> pathlib.Path:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    parquet.write_table(table, path, **options)
    return path


def read(path: pathlib.Path, plan: Plan = PLAN) -> Source:
    return read_table(table_files(path), str(path), plan, KEY)


def problems(path: pathlib.Path, plan: Plan = PLAN) -> list[tuple[int, int, str, str]]:
    with pytest.raises(DataError) as caught:
        read(path, plan)
    assert all(p.file == str(path) for p in caught.value.problems)
    return [(p.group, p.line, p.column, p.code) for p in caught.value.problems]


def children() -> set[int]:
    found = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(text) for text in found.split()}


# --- the same cells mean the same ------------------------------------------------


def test_the_same_cells_have_the_version_rows_and_holdout_of_csv(tmp_path: pathlib.Path) -> None:
    moment = datetime.datetime(2024, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "text": pa.array(['x "quoted", and\r\nbroken', None, " padded é "]),
            "whole": pa.array([7, None, -3], pa.int16()),
            "kept": pa.array([True, False, None]),
            "money": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-200")], pa.decimal128(9, 2)),
            "day": pa.array([datetime.date(2024, 2, 3), None, None]),
            "at": pa.array([moment, None, None], pa.timestamp("us", "Europe/Berlin")),
            "code": pa.array(["p", "p", None]).dictionary_encode(),
            "nothing": pa.nulls(3),
            **GOOD,
        }
    )
    text = (
        "nothing,y,c,a,whole,text,kept,money,day,at,code\r\n"
        ',1,F,1.50,7,"x ""quoted"", and\r\nbroken",1,1.5,2024-02-03,2024-02-03T04:05:06Z,p\r\n'
        ",0,M,2e0,,,0,NA,,,p\r\n"
        "?,1,F,.5,-3,padded e\u0301,,-200,,,\r\n"
    )
    found = read(write(tmp_path / "t.parquet", table))
    same = read_source(io.BytesIO(text.encode()), "t.csv", PLAN, KEY)
    assert found.version == same.version
    assert (found.positions == same.positions).all()
    assert found.table.numbers["a"].tolist() == same.table.numbers["a"].tolist() == [1.5, 2.0, 0.5]
    assert found.table.codes["c"].tolist() == [0, 1, 0]
    assert found.table.target is not None
    assert found.table.target.tolist() == [1.0, 0.0, 1.0]
    other = read_source(io.BytesIO(text.replace("-200", "-201").encode()), "t.csv", PLAN, KEY)
    assert other.version != found.version


def test_row_groups_pages_encodings_and_compression_do_not_matter(tmp_path: pathlib.Path) -> None:
    draw = np.random.default_rng(3)
    table = pa.table(
        {
            "a": draw.uniform(0, 10, 9000),
            "c": draw.choice(["F", "M"], 9000),
            "y": draw.integers(0, 2, 9000),
            "id": [f"person {i}" for i in range(9000)],
        }
    )
    first = read(write(tmp_path / "1.parquet", table, row_group_size=700, compression="zstd"))
    second = read(write(tmp_path / "2.pq", table, use_dictionary=False, compression="none", data_page_version="2.0"))
    third = read(write(tmp_path / "3.parquet", table.take(pa.array(draw.permutation(9000)))))
    assert first.version == second.version == third.version
    assert first.table.rows == 9000
    assert first.table.numbers["a"].tolist() == table["a"].to_pylist()


def test_whole_numbers_booleans_and_doubles_serve_as_categories_and_targets(tmp_path: pathlib.Path) -> None:
    plan = plan_with("{a: {type: float, range: [0, 10]}, c: {type: category, values: ['1', '2']}}")
    path = write(tmp_path / "t.parquet", {"a": [1, 2, 3], "c": [1.0, 2.0, 1.0], "y": [True, False, True]})
    source = read(path, plan)
    assert source.table.codes["c"].tolist() == [0, 1, 0]
    assert source.table.target is not None
    assert source.table.target.tolist() == [1.0, 0.0, 1.0]


def test_a_prediction_reads_the_features_and_no_other_column(tmp_path: pathlib.Path) -> None:
    nested = pa.array([[1], [2], [3]])
    path = write(tmp_path / "t.parquet", pa.table({"n": nested, " a": GOOD["a"], "c": GOOD["c"]}))
    table = read_feature_table(table_files(path), str(path), PLAN)
    assert table.numbers["a"].tolist() == [1.5, 2.0, 0.5]
    assert problems(path) == [(0, 0, "n", "column_type")] or problems(path)[0][3] == "column_missing"


# --- problems have places and no values ------------------------------------------------


def test_every_problem_is_named_with_row_group_row_and_column(tmp_path: pathlib.Path) -> None:
    bad = {"a": [1.0, 11.0, None, float("nan"), 2.0], "c": ["F", "F", "X", "M", None], "y": [1, 0, 1, 0, None]}
    path = write(tmp_path / "t.parquet", bad, row_group_size=2)
    assert problems(path) == [
        (0, 2, "a", "out_of_range"),
        (1, 3, "a", "missing"),
        (1, 3, "c", "unknown_category"),
        (1, 4, "a", "not_a_number"),
        (2, 5, "c", "missing"),
        (2, 5, "y", "missing"),
    ]
    with pytest.raises(DataError) as caught:
        read(write(path, {"a": [987654.0], "c": ["PatientName"], "y": [1]}))
    assert "row group 0, row 1: a" in str(caught.value)
    assert "987654" not in str(caught.value)
    assert "PatientName" not in str(caught.value)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_a_page(data: bytes) -> bytes:
    return data[:4] + bytes(60) + data[64:]


def footer_of_two_gibibytes(data: bytes) -> bytes:
    return data[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda data: b"", "not_parquet"),
        (lambda data: b"PAR1", "not_parquet"),
        (lambda data: b"a,c,y\n1,F,1\n2,M,0\n", "not_parquet"),
        (cut, "not_parquet"),
        (lambda data: cut(data) + b"PAR1", "parquet_damaged"),
        (without_a_page, "parquet_damaged"),
        (footer_of_two_gibibytes, "parquet_damaged"),
    ],
)
def test_files_that_are_not_whole(tmp_path: pathlib.Path, spoil: Callable[[bytes], bytes], code: str) -> None:
    path = write(tmp_path / "t.parquet", GOOD)
    assert read(path).table.rows == 3
    path.write_bytes(spoil(path.read_bytes()))
    assert [problem[3] for problem in problems(path)] == [code]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1], [2], None]),
        pa.array([{"k": 1}, None, {"k": 2}]),
        pa.array([b"\xff", b"", None]),
        pa.array([datetime.timedelta(1)] * 3),
    ],
)
def test_columns_without_a_meaning_as_text_are_refused_by_name(tmp_path: pathlib.Path, column: pa.Array) -> None:
    path = write(tmp_path / "t.parquet", {"odd": column, **GOOD})
    assert problems(path) == [(0, 0, "odd", "column_type")]


def test_headers_are_those_of_csv(tmp_path: pathlib.Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0]), pa.array(["F"])], names=["a", " a ", "c"])
    assert problems(write(tmp_path / "t.parquet", twice)) == [
        (-1, 1, "a", "column_twice"),
        (-1, 1, "y", "column_missing"),
    ]
    assert problems(write(tmp_path / "t.parquet", pa.table({**GOOD}).slice(0, 0))) == [(-1, 1, "", "no_rows")]


def test_a_text_that_is_not_utf8(tmp_path: pathlib.Path) -> None:
    texts = pa.array([b"F\xff", b"M", b"F"]).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    path = write(tmp_path / "t.parquet", {**GOOD, "c": broken})
    assert problems(path) == [(0, 0, "c", "not_utf8")]


# --- hostile files stay within bounds ------------------------------------------------


def test_a_long_text_repeated_often_is_held_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4096 times 100,000 characters in one batch: 400 MB as plain texts, a few hundred kilobytes as it is read. The
    reader has room for half of that, and comes as far as the limit on what it may say.
    """
    rows = 4096
    long = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 100_000]))
    path = write(tmp_path / "t.parquet", {"z": long, "a": [1.0] * rows, "c": ["F"] * rows, "y": [1] * rows})
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(parquet_records, "MEMORY_BYTES", BASELINE + 200_000_000)
    monkeypatch.setattr(parquet_records, "MAX_TEXT", 100_000 * rows)  # the batch is decoded whole, then counted
    assert problems(path) == [(0, 0, "", "too_much_text")]


def test_a_page_that_unpacks_to_more_than_the_memory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, and only the reader's memory was at stake: with more of it the same file is read as far as its cell."""
    path = write(
        tmp_path / "t.parquet",
        {"z": ["x" * 300_000_000], "a": [1.0], "c": ["F"], "y": [1]},
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(parquet_records, "MEMORY_BYTES", BASELINE + 100_000_000)
    assert problems(path) == [(0, 0, "", "too_much_memory")]
    monkeypatch.setattr(parquet_records, "MEMORY_BYTES", BASELINE + 2_000_000_000)
    assert problems(path) == [(0, 0, "z", "cell_too_long")]


def test_more_rows_or_columns_than_anyone_has(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet", GOOD)
    monkeypatch.setattr(parquet_records, "MAX_ROWS", 2)
    assert problems(path) == [(0, 0, "", "too_many_rows")]
    monkeypatch.setattr(parquet_records, "MAX_ROWS", 3)
    monkeypatch.setattr(parquet_records, "MAX_COLUMNS", 2)
    assert problems(path) == [(0, 0, "", "too_many_columns")]


def test_a_table_of_more_values_than_fit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet", GOOD)
    monkeypatch.setattr(csv_source, "MAX_VALUES", 8)
    assert problems(path) == [(0, 3, "", "too_many_rows")]


def test_a_footer_that_promises_more_rows_than_there_are(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "t.parquet", {"a": [1.0] * 100, "c": ["F"] * 100, "y": [1] * 100})
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8]
    assert footer.count(b"\xc8\x01") >= 2  # 100 as a zigzag varint: rows of the file and of its row group
    path.write_bytes(data[: -8 - size] + footer.replace(b"\xc8\x01", b"\xfe\x7f") + data[-8:])
    assert [problem[3] for problem in problems(path)] == ["parquet_damaged"]


def test_any_damage_is_a_typed_error_and_leaves_no_process(tmp_path: pathlib.Path) -> None:
    draw = random.Random(11)
    whole = write(tmp_path / "t.parquet", GOOD).read_bytes()
    expected = read(tmp_path / "t.parquet").version
    before = children()
    outcomes = set()
    for number in range(8):
        data = bytearray(whole)
        for _ in range(1 + number % 4):
            data[draw.randrange(4, len(data) - 4)] = draw.randrange(256)
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(data)
        try:
            outcomes.add("same" if read(path).version == expected else "other")
        except DataError:
            outcomes.add("refused")
    assert "refused" in outcomes
    assert children() == before


def test_a_reading_that_is_given_up_leaves_no_process(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "t.parquet", {"a": [1.0] * 50_000, "c": ["F"] * 50_000, "y": [1] * 50_000})
    before = children()
    (file,) = table_files(path)
    with file.open(()) as records:
        assert children() - before
        assert records.header(Problems("")) == ["a", "c", "y"]
        assert next(records.records(Problems("")))[1] == ["1", "F", "1"]
    assert children() == before


def test_the_reader_gets_no_environment_and_no_descriptor(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDVEIL_PASSPHRASE_TEST", "hush")
    path = write(tmp_path / "t.parquet", {"a": [1.0] * 50_000, "c": ["F"] * 50_000, "y": [1] * 50_000})
    (file,) = table_files(path)
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    before = children()
    try:
        with file.open(()) as records:
            records.header(Problems(""))
            (child,) = children() - before
            seen = pathlib.Path(f"/proc/{child}/environ").read_bytes()
            held = {os.readlink(link) for link in pathlib.Path(f"/proc/{child}/fd").iterdir()}
    finally:
        os.close(kept)
    assert b"LC_ALL" in seen
    assert b"hush" not in seen
    assert str(path) in held
    assert str(tmp_path) not in held


# --- the bench ------------------------------------------------


def test_a_registered_parquet_file_is_read_by_the_bench(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "t.parquet", GOOD)
    assert len(TableBench({"d": path}, Seed(KEY)).accept(PLAN)) == 32
    path.write_bytes(b"no")
    with pytest.raises(DataError):
        TableBench({"d": path}, Seed(KEY)).accept(PLAN)


# --- the commands ------------------------------------------------


def test_a_simulation_over_parquet_is_that_over_csv(tmp_path: pathlib.Path) -> None:
    text = plan_text(rounds=1).encode()
    plan = parse_plan(text, "plan.yaml")
    texts = {name: table_text(name).encode() for name in NAMES}
    for name, data in texts.items():
        names, *rows = csv.reader(io.StringIO(data.decode()))
        columns = {column: pa.array([row[i] for row in rows]) for i, column in enumerate(names)}
        write(tmp_path / f"{name}.parquet", columns)
    tables = read_tables(tmp_path, None)
    assert set(tables) == set(NAMES)
    models = [play_in_memory(plan, canonical(plan), one, 5, SystemClock()).model_file for one in (texts, tables)]
    assert models[0] == models[1] != b""
    (tmp_path / f"{NAMES[0]}.csv").write_bytes(texts[NAMES[0]])
    with pytest.raises(ConfigError) as caught:
        read_tables(tmp_path, None)
    assert caught.value.code == "table_twice"
