"""A folder of files as one table: their order, what is passed over, and everything that refuses the folder."""

import os
import pathlib
from collections.abc import Callable

import pytest
from fedveil_common.errors import ConfigError
from fedveil_common.secret import Seed
from fedveil_participant.bench import TableBench
from fedveil_participant.data.csv_source import Source, read_table
from fedveil_participant.data.folder import table_files
from fedveil_participant.data.problems import DataError
from test_csv_source import KEY, TWO, plan_with
from test_parquet_source import write

PLAN = plan_with(TWO)


def read(folder: pathlib.Path) -> Source:
    return read_table(table_files(folder), str(folder), PLAN, KEY)


def parts(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    (folder / "b.csv").write_text("a,c,y\n3,F,1\n")
    (folder / "a.csv").write_text("y,a,c\n0,1,M\n1,2,F\n")
    (folder / "B.CSV").write_text("a,c,y\n0,F,0\n")
    return folder


def test_files_are_one_table_in_the_byte_order_of_their_names(tmp_path: pathlib.Path) -> None:
    source = read(parts(tmp_path / "d"))
    assert source.table.numbers["a"].tolist() == [0.0, 1.0, 2.0, 3.0]
    whole = tmp_path / "whole.csv"
    whole.write_text("a,c,y\n3,F,1\n2,F,1\n1,M,0\n0,F,0\n")
    assert read(whole).version == source.version
    folder = tmp_path / "parquet"
    folder.mkdir()
    write(folder / "2.parquet", {"a": [3.0, 0.0], "c": ["F", "F"], "y": [1, 0]})
    write(folder / "10.pq", {"c": ["M", "F"], "y": [0, 1], "a": [1, 2]})
    found = read(folder)
    assert found.version == source.version
    assert found.table.numbers["a"].tolist() == [1.0, 2.0, 3.0, 0.0]  # "10" before "2"


def test_the_bench_takes_a_folder(tmp_path: pathlib.Path) -> None:
    assert len(TableBench({"d": parts(tmp_path / "d")}, Seed(KEY)).accept(PLAN)) == 32


def test_hidden_files_and_the_marks_of_other_tools_are_passed_over(tmp_path: pathlib.Path) -> None:
    folder = parts(tmp_path / "d")
    before = read(folder).version
    (folder / ".hidden.csv").write_text("a,c,y\n9,F,1\n")
    (folder / ".part").mkdir()
    (folder / "_SUCCESS").touch()
    assert read(folder).version == before
    (folder / ".hidden.csv").rename(folder / "shown.csv")
    assert read(folder).version != before


def code(folder: pathlib.Path) -> str:
    with pytest.raises(ConfigError) as caught:
        table_files(folder)
    return caught.value.code


def a_sub_folder(folder: pathlib.Path) -> None:
    (folder / "more").mkdir()


def a_sub_folder_named_like_a_file(folder: pathlib.Path) -> None:
    (folder / "more.csv").mkdir()


def another_kind_of_file(folder: pathlib.Path) -> None:
    (folder / "notes.txt").write_text("n")


def a_pipe(folder: pathlib.Path) -> None:
    os.mkfifo(folder / "pipe.csv")


def a_parquet_file(folder: pathlib.Path) -> None:
    write(folder / "z.parquet", {"a": [1.0], "c": ["F"], "y": [1]})


def a_link_out(folder: pathlib.Path) -> None:
    (folder.parent / "out.csv").write_text("a,c,y\n9,F,1\n")
    (folder / "z.csv").symlink_to(folder.parent / "out.csv")


def a_link_up_and_out(folder: pathlib.Path) -> None:
    (folder.parent / "out.csv").write_text("a,c,y\n9,F,1\n")
    (folder / "z.csv").symlink_to("../out.csv")


def a_link_to_a_file_that_counts_already(folder: pathlib.Path) -> None:
    (folder / "z.csv").symlink_to("a.csv")


def a_second_name_of_a_file(folder: pathlib.Path) -> None:
    (folder / "z.csv").hardlink_to(folder / "a.csv")


def a_broken_link(folder: pathlib.Path) -> None:
    (folder / "z.csv").symlink_to("nowhere.csv")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (a_sub_folder, "folder_entry"),
        (a_sub_folder_named_like_a_file, "folder_entry"),
        (another_kind_of_file, "folder_entry"),
        (a_pipe, "folder_entry"),
        (a_parquet_file, "folder_mixed"),
        (a_link_out, "folder_link"),
        (a_link_up_and_out, "folder_link"),
        (a_link_to_a_file_that_counts_already, "folder_twice"),
        (a_second_name_of_a_file, "folder_twice"),
        (a_broken_link, "data_unreadable"),
    ],
)
def test_one_entry_too_many_refuses_the_folder(
    tmp_path: pathlib.Path, spoil: Callable[[pathlib.Path], None], expected: str
) -> None:
    folder = parts(tmp_path / "d")
    assert len(table_files(folder)) == 3
    spoil(folder)
    assert code(folder) == expected


def test_a_link_within_the_folder_is_a_file(tmp_path: pathlib.Path) -> None:
    """As the volumes of container platforms lay files: NAME -> ..data/NAME."""
    folder = tmp_path / "d"
    (folder / "..data").mkdir(parents=True)
    (folder / "..data" / "a.csv").write_text("a,c,y\n1,F,1\n")
    (folder / "a.csv").symlink_to("..data/a.csv")
    assert read(folder).table.rows == 1


def test_a_link_that_appears_after_the_look_is_not_followed(tmp_path: pathlib.Path) -> None:
    folder = parts(tmp_path / "d")
    files = table_files(folder)
    assert read_table(files, "d", PLAN, KEY).table.rows == 4
    a_link_out(folder)
    (folder / "z.csv").rename(folder / "a.csv")
    with pytest.raises(OSError, match="symbolic links"):
        read_table(files, "d", PLAN, KEY)
    bench = TableBench({"d": folder}, Seed(KEY), lambda path: files)
    with pytest.raises(ConfigError) as caught:
        bench.accept(PLAN)
    assert caught.value.code == "data_unreadable"


def test_a_folder_without_files(tmp_path: pathlib.Path) -> None:
    assert code(tmp_path) == "folder_empty"


def test_the_files_have_the_same_columns_and_each_problem_its_file(tmp_path: pathlib.Path) -> None:
    folder = parts(tmp_path / "d")
    (folder / "a.csv").write_text("a,c,y,more\n1,F,1,2\n")
    (folder / "b.csv").write_text("a,c,y\n11,F,1\n1,F,1\nx,F,1\n")
    (folder / "c.csv").write_text("a,c\n1,F\n")
    (folder / "d.csv").write_text("")
    with pytest.raises(DataError) as caught:
        read(folder)
    found = [(pathlib.Path(p.file).name, p.line, p.column, p.code) for p in caught.value.problems]
    assert found == [
        ("a.csv", 1, "", "columns_differ"),
        ("b.csv", 2, "a", "out_of_range"),
        ("b.csv", 4, "a", "not_a_number"),
        ("c.csv", 1, "y", "column_missing"),
        ("c.csv", 1, "", "columns_differ"),
        ("d.csv", 1, "", "empty_file"),
    ]
    assert caught.value.total == 6
