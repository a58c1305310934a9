"""`fedveil data mask|preview|check|masking-key`: what is written and printed, what is refused, and with which code."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from fedveil_cli import main
from fedveil_participant.masking import METADATA, MaskingKey

from tests.masked_tables import masked

Capture = pytest.CaptureFixture[str]

RULES = """
version: 1
dataset: visits
key_ref: file:masking.key
columns:
  id: {class: identifier, do: pseudonym}
  name: {class: identifier, do: drop}
  age: {class: quasi, do: generalise, width: 10}
  x: {class: feature, do: noise, discrete_laplace: {scale: 2, grid: 1}}
  s: {class: sensitive, do: keep}
release: {k: 2, l: 2}
"""
COLUMNS = {
    "id": "class: identifier, do: pseudonym",
    "name": "class: identifier, do: drop",
    "age": "class: quasi, do: generalise, width: 10",
    "x": "class: feature, do: noise, discrete_laplace: {scale: 2, grid: 1}",
    "s": "class: sensitive, do: keep",
}
ROWS = [(f"p{row}", f"Jane {row}", str(20 + row), str(row), ("flu", "cold")[row % 2]) for row in range(20)]
CSV = "id,name,age,x,s\n" + "".join(",".join(row) + "\n" for row in ROWS)


def run(capsys: Capture, *words: object) -> tuple[int, str, str]:
    code = main.main(["data", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def value(capsys: Capture, *words: object) -> dict[str, Any]:
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def refused(capsys: Capture, *words: object) -> tuple[int, str]:
    code, out, err = run(capsys, *words, "--json")
    assert out == ""
    return code, str(json.loads(err.splitlines()[-1])["error"]["code"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "visits.csv").write_text(CSV)
    (tmp_path / "masking.yaml").write_text(RULES)
    assert run(capsys, "masking-key", "--out", "masking.key")[0] == 0
    return tmp_path


def key_of(place: Path) -> MaskingKey:
    return MaskingKey((place / "masking.key").read_bytes().strip())


def wanted(place: Path) -> pa.Table:
    """What the engine makes of the same table."""
    columns = dict(zip(COLUMNS, zip(*ROWS, strict=True), strict=True))
    table = pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()})
    return masked(COLUMNS, table, key=key_of(place)).table


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


RULED = ("--rules", "masking.yaml")


def test_a_csv_file_is_masked_into_parquet_and_csv(place: Path, capsys: Capture) -> None:
    made = value(capsys, "mask", "visits.csv", *RULED, "--out", "out.parquet", "--report", "risk.json")
    found = pq.read_table("out.parquet")
    assert found.to_pydict() == wanted(place).to_pydict()
    said = json.loads(found.schema.metadata[METADATA])
    assert (said["key_id"], said["dataset"]) == (key_of(place).key_id, "visits")
    assert made["report"] == json.loads((place / "risk.json").read_text())
    assert made["report"]["noise"][0]["column"] == "x"
    value(capsys, "mask", "visits.csv", *RULED, "--out", "out.csv")
    again = pc.read_csv(
        "out.csv", convert_options=pc.ConvertOptions(column_types={"age": pa.string(), "x": pa.string()})
    )
    assert again.to_pydict() == wanted(place).to_pydict()
    assert {mode(place / name) for name in ("out.parquet", "out.csv", "risk.json")} == {0o600}
    assert "Jane" not in (place / "out.csv").read_text()


def test_formats_are_chosen_by_name_or_option(place: Path, capsys: Capture) -> None:
    value(capsys, "mask", "visits.csv", *RULED, "--out", "out.csv", "--format", "parquet")
    assert pq.read_table("out.csv").num_rows == 20
    assert refused(capsys, "mask", "visits.csv", *RULED, "--out", "o", "--format", "xlsx") == (2, "bad_format")


def test_a_parquet_file_keeps_the_types_of_what_is_kept(place: Path, capsys: Capture) -> None:
    table = pc.read_csv("visits.csv")
    pq.write_table(table, "visits.parquet")
    value(capsys, "mask", "visits.parquet", *RULED, "--out", "typed.parquet")
    value(capsys, "mask", "visits.csv", *RULED, "--out", "texts.parquet")
    typed, texts = pq.read_table("typed.parquet"), pq.read_table("texts.parquet")
    assert [str(one) for one in typed.schema.types] == ["string", "double", "double", "string"]
    assert typed.cast(pa.schema([(name, pa.string()) for name in typed.column_names])).to_pydict() == texts.to_pydict()


def test_a_folder_is_one_table(place: Path, capsys: Capture) -> None:
    lines = CSV.splitlines(keepends=True)
    for kind in ("csv", "parquet"):
        folder = place / kind
        folder.mkdir()
        (folder / "1.csv").write_text("".join(lines[:8]))
        (folder / "2.csv").write_text("".join([lines[0], *lines[8:]]))
        if kind == "parquet":
            for name in ("1", "2"):
                pq.write_table(pc.read_csv(folder / f"{name}.csv").select(sorted(COLUMNS)), folder / f"{name}.parquet")
                (folder / f"{name}.csv").unlink()
        value(capsys, "mask", kind, *RULED, "--out", "out.csv")
        found = pc.read_csv("out.csv").select(["id", "age", "x", "s"]).to_pydict()
        assert {name: [str(one) for one in values] for name, values in found.items()} == wanted(place).to_pydict()


def test_preview_shows_five_masked_rows_and_writes_nothing(place: Path, capsys: Capture) -> None:
    before = sorted(os.listdir())
    shown = value(capsys, "preview", "visits.csv", *RULED)
    table = wanted(place)
    assert shown["columns"] == ["id", "age", "x", "s"]
    assert shown["rows"] == [list(row.values()) for row in table.slice(0, 5).to_pylist()]
    assert (shown["dropped"], shown["rows_masked"]) == (["name"], 20)
    code, out, err = run(capsys, "preview", "visits.csv", *RULED)
    assert (code, err) == (0, "")
    assert str(table.column("id")[4].as_py()) in out
    assert "p4" not in out
    assert "Jane" not in out
    assert sorted(os.listdir()) == before


def test_check_says_the_report_and_refuses_below_the_thresholds(place: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "check", "visits.csv", *RULED)
    assert (code, err) == (0, "")
    assert "k = 10" in out
    assert "the thresholds for release are met" in out
    (place / "masking.yaml").write_text(RULES.replace("k: 2", "k: 11"))
    code, out, err = run(capsys, "check", "visits.csv", *RULED, "--report", "risk.json")
    assert (code, out) == (4, "")
    assert "k is 10, at least 11 is wanted" in err
    assert "[release_below_thresholds]" in err
    report = json.loads((place / "risk.json").read_text())
    assert report["release"] == {"passed": False, "below": [{"measure": "k", "wanted": 11, "found": 10}]}
    assert refused(capsys, "check", "visits.csv", *RULED) == (4, "release_below_thresholds")


def test_nothing_is_written_below_the_thresholds(place: Path, capsys: Capture) -> None:
    (place / "masking.yaml").write_text(RULES.replace("k: 2", "k: 11"))
    (place / "out.csv").write_text("before")
    assert refused(capsys, "mask", "visits.csv", *RULED, "--out", "out.csv") == (4, "release_below_thresholds")
    assert (place / "out.csv").read_text() == "before"
    assert not [name for name in os.listdir() if name.startswith(".")]
    assert len(value(capsys, "preview", "visits.csv", *RULED)["rows"]) == 5


@pytest.mark.parametrize(
    ("csv", "code", "error"),
    [
        ("id,name,age,x,s,extra\n1,2,3,4,5,6\n", 4, "column_unlisted"),
        ("id,name,age,x\n1,2,3,4\n", 2, "column_absent"),
        ("id,name,age,x,s\n1,2,Jane,4,5\n", 2, "bad_cells"),
        ("id,name,age,x,s\n1,2,3\n", 2, "bad_data"),
        ("id,name,age,x,s\n", 2, "bad_data"),
        ("id,id,age,x,s\n1,2,3,4,5\n", 2, "bad_data"),
        ("id;name;age;x;s\n1;2;3;4;5\n", 2, "bad_data"),
        ("id,name,age,x,s\n1,\xff,3,4,5\n", 2, "bad_data"),
    ],
)
def test_tables_that_are_refused(place: Path, capsys: Capture, csv: str, code: int, error: str) -> None:
    (place / "visits.csv").write_bytes(csv.encode("latin-1"))
    for command in (("mask", "--out", "out.csv"), ("preview",), ("check",)):
        assert refused(capsys, command[0], "visits.csv", *RULED, *command[1:]) == (code, error)
    _, _, err = run(capsys, "check", "visits.csv", *RULED)
    assert "Jane" not in err
    assert not (place / "out.csv").exists()


def test_files_that_are_not_there_or_not_what_they_are_called(place: Path, capsys: Capture) -> None:
    assert refused(capsys, "check", "absent.csv", *RULED) == (2, "data_unreadable")
    assert refused(capsys, "check", "visits.csv", "--rules", "absent.yaml") == (2, "file_unreadable")
    (place / "masking.yaml").write_text(RULES + "salt: abc\n")
    assert refused(capsys, "check", "visits.csv", *RULED) == (2, "bad_masking_rules")
    (place / "masking.yaml").write_text(RULES)
    for content in (b"", b"PAR1", b"PAR1" + bytes(40) + b"PAR1", CSV.encode()):
        (place / "visits.parquet").write_bytes(content)
        assert refused(capsys, "check", "visits.parquet", *RULED) == (2, "bad_data")


def test_parquet_files_of_a_folder_that_differ(place: Path, capsys: Capture) -> None:
    (place / "folder").mkdir()
    table = pc.read_csv("visits.csv")
    pq.write_table(table, "folder/1.parquet")
    for other in (table.drop_columns(["s"]), table.set_column(2, "age", table.column("age").cast(pa.string()))):
        pq.write_table(other, "folder/2.parquet")
        assert refused(capsys, "check", "folder", *RULED) == (2, "bad_data")


@pytest.mark.parametrize(
    "out", ["visits.csv", "./visits.csv", "linked.csv", "masking.yaml", "folder", "absent/out.csv"]
)
def test_places_that_are_not_written(place: Path, capsys: Capture, out: str) -> None:
    (place / "folder").mkdir()
    (place / "linked.csv").symlink_to("visits.csv")
    assert refused(capsys, "mask", "visits.csv", *RULED, "--out", out) == (2, "output_refused")
    assert refused(capsys, "check", "visits.csv", *RULED, "--report", out) == (2, "output_refused")
    assert (place / "visits.csv").read_text() == CSV
    assert (place / "masking.yaml").read_text() == RULES


def test_hierarchies_lie_beside_the_rules(place: Path, capsys: Capture) -> None:
    (place / "rules").mkdir()
    rules = RULES.replace("do: generalise, width: 10", "do: hierarchy, file: age.csv, level: 1")
    (place / "rules" / "masking.yaml").write_text(rules.replace("file:masking.key", "file:../masking.key"))
    (place / "rules" / "age.csv").write_text("".join(f"{age},all\n" for age in range(20, 40)))
    shown = value(capsys, "preview", "visits.csv", "--rules", "rules/masking.yaml")
    assert [row[1] for row in shown["rows"]] == ["all"] * 5
    (place / "rules" / "age.csv").unlink()
    assert refused(capsys, "preview", "visits.csv", "--rules", "rules/masking.yaml") == (2, "bad_masking_rules")


def test_sealed_tables_are_read_with_their_key(place: Path, capsys: Capture) -> None:
    for words in (("key", "--out", "ann"), ("seal", "visits.csv", "--to", "ann.pub", "--out", "visits.csv.sealed")):
        assert run(capsys, *words)[0] == 0
    pq.write_table(pc.read_csv("visits.csv"), "visits.parquet")
    assert run(capsys, "seal", "visits.parquet", "--to", "ann.pub", "--out", "visits.parquet.sealed")[0] == 0
    assert refused(capsys, "check", "visits.csv.sealed", *RULED) == (3, "data_key_missing")
    for name in ("visits.csv.sealed", "visits.parquet.sealed"):
        shown = value(capsys, "preview", name, *RULED, "--data-key", "ann.key")
        assert shown["rows"] == [list(row.values()) for row in wanted(place).slice(0, 5).to_pylist()]


def test_text_of_a_table_obeys_no_terminal(place: Path, capsys: Capture) -> None:
    (place / "visits.csv").write_text(CSV.replace("flu", "\x1b[31mflu\u202e"))
    _, out, _ = run(capsys, "preview", "visits.csv", *RULED)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "flu" in out


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_masking_key_is_made_once_for_its_owner_alone(place: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "masking-key", "--out", "new.key")
    assert (code, err) == (0, "")
    text = (place / "new.key").read_text()
    assert mode(place / "new.key") == 0o600
    assert len(bytes.fromhex(text)) == 32
    assert text.strip() not in out
    assert key_id_of(text) in out
    assert refused(capsys, "masking-key", "--out", "new.key") == (2, "file_exists")
    assert (place / "new.key").read_text() == text
    assert refused(capsys, "masking-key", "--out", "absent/new.key") == (74, "file_unwritable")
    assert text != (place / "masking.key").read_text()


def key_id_of(text: str) -> str:
    return MaskingKey(text.strip().encode()).key_id


def test_the_same_secret_is_the_same_key_wherever_it_lies(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = (place / "masking.key").read_text()
    from_file = value(capsys, "check", "visits.csv", *RULED)
    (place / "credentials").mkdir()
    (place / "credentials" / "mask").write_text(secret)
    (place / "credentials" / "mask").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(place / "credentials"))
    monkeypatch.setenv("FL_MASK_KEY", secret.strip())
    rows = value(capsys, "preview", "visits.csv", *RULED)["rows"]
    (place / "masking.yaml").write_text(RULES.replace("file:masking.key", "credential:mask"))
    assert value(capsys, "preview", "visits.csv", *RULED)["rows"] == rows
    (place / "masking.yaml").write_text(RULES.replace("file:masking.key", "env:FL_MASK_KEY"))
    code, out, err = run(capsys, "check", "visits.csv", *RULED, "--json")
    assert code == 0
    assert json.loads(out)["key_id"] == from_file["key_id"] == key_id_of(secret)
    assert "FL_MASK_KEY" in err
    assert "warning" in err
    assert secret.strip() not in err + out
    assert "FL_MASK_KEY" not in os.environ
    assert refused(capsys, "check", "visits.csv", *RULED) == (2, "masking_key_missing")


def test_keys_that_are_refused(place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for bits in (0o640, 0o604, 0o620):
        (place / "masking.key").chmod(bits)
        assert refused(capsys, "check", "visits.csv", *RULED) == (2, "masking_key_exposed")
    (place / "masking.key").chmod(0o600)
    (place / "masking.key").write_bytes(b"short\n")
    assert refused(capsys, "check", "visits.csv", *RULED) == (2, "masking_key_short")
    (place / "masking.key").write_bytes(b"ab" * 40)
    assert refused(capsys, "check", "visits.csv", *RULED) == (2, "masking_key_weak")
    (place / "masking.key").write_bytes(bytes(range(10)) * 1000)
    assert refused(capsys, "check", "visits.csv", *RULED) == (2, "file_too_large")
    (place / "masking.key").unlink()
    assert refused(capsys, "check", "visits.csv", *RULED) == (2, "file_unreadable")
    (place / "masking.yaml").write_text(RULES.replace("file:masking.key", "credential:mask"))
    assert refused(capsys, "check", "visits.csv", *RULED) == (2, "masking_key_missing")


def test_random_bytes_that_end_in_a_line_end_are_a_whole_key(place: Path, capsys: Capture) -> None:
    raw = bytes(range(200, 231)) + b"\n"
    (place / "masking.key").write_bytes(raw)
    assert value(capsys, "check", "visits.csv", *RULED)["key_id"] == MaskingKey(raw).key_id


def test_rules_without_keyed_steps_need_no_key(place: Path, capsys: Capture) -> None:
    rules = RULES.replace("key_ref: file:masking.key\n", "").replace("do: pseudonym", "do: surrogate")
    (place / "masking.yaml").write_text(rules.replace("do: noise, discrete_laplace: {scale: 2, grid: 1}", "do: keep"))
    first, again = (value(capsys, "preview", "visits.csv", *RULED)["rows"] for _ in range(2))
    assert not {row[0] for row in first} & {row[0] for row in again}
    assert value(capsys, "check", "visits.csv", *RULED)["key_id"] is None


# --- unmask -----------------------------------------------------------------------------------------------------------

ENCRYPTED = RULES.replace(
    "name: {class: identifier, do: drop}",
    "name: {class: identifier, do: fpe, alphabet: letters, separators: ' 0123456789'}",
)


def test_encryption_is_undone_with_the_key_and_with_no_other(place: Path, capsys: Capture) -> None:
    (place / "masking.yaml").write_text(ENCRYPTED)
    (place / "visits.csv").write_text(CSV.replace("Jane ", "Marie-").replace("-", " "))
    value(capsys, "mask", "visits.csv", *RULED, "--out", "out.parquet")
    hidden = pq.read_table("out.parquet")
    assert not {"Marie" in name for name in hidden.column("name").to_pylist()} - {False}
    made = value(capsys, "unmask", "out.parquet", *RULED, "--out", "clear.parquet")
    assert (made["columns"], made["rows"], mode(place / "clear.parquet")) == (["name"], 20, 0o600)
    clear = pq.read_table("clear.parquet")
    assert clear.column("name").to_pylist() == [f"Marie {row}" for row in range(20)]
    assert clear.drop_columns(["name"]).to_pydict() == hidden.drop_columns(["name"]).to_pydict()
    (place / "masking.key").unlink()
    assert run(capsys, "masking-key", "--out", "masking.key")[0] == 0
    assert refused(capsys, "unmask", "out.parquet", *RULED, "--out", "o.csv") == (4, "masking_key_differs")
    assert not (place / "o.csv").exists()


def test_what_cannot_be_unmasked(place: Path, capsys: Capture) -> None:
    assert refused(capsys, "unmask", "visits.csv", *RULED, "--out", "o.csv") == (2, "nothing_to_unmask")
    (place / "masking.yaml").write_text(ENCRYPTED)
    (place / "visits.csv").write_text(CSV.replace("Jane 3", "J_ne 3"))
    assert refused(capsys, "unmask", "visits.csv", *RULED, "--out", "o.csv") == (2, "bad_cells")
    assert refused(capsys, "unmask", "visits.csv", *RULED, "--out", "visits.csv") == (2, "output_refused")
    keyless = "version: 1\ndataset: v\ncolumns: {a: {class: quasi, do: keep}}\n"
    (place / "masking.yaml").write_text(keyless)
    assert refused(capsys, "unmask", "visits.csv", *RULED, "--out", "o.csv") == (2, "masking_key_missing")
