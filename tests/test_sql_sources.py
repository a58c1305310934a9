"""Addresses of databases and SQLite as a source: no password in a URL, nothing but reading, the texts of Parquet."""

import io
import pathlib
import sqlite3

import pytest
from fedveil_cli.world import SystemClock
from fedveil_common.errors import ConfigError
from fedveil_participant.data import sqlite
from fedveil_participant.data.csv_source import Source, read_source, read_table
from fedveil_participant.data.problems import DataError, Problems
from fedveil_participant.data.sql_address import is_address, is_local, read_address
from fedveil_participant.data.sql_records import STATEMENT_S, Selected
from fedveil_participant.data.sqlite import sqlite_table
from test_csv_source import KEY, TWO, plan_with

PLAN = plan_with(TWO)
HERE = pathlib.Path("/srv/data")


class Clock:
    """Goes on by `step` at every look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def monotonic_s(self) -> float:
        self.now += self.step
        return self.now

    def wall_s(self) -> float:
        return 0.0


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "a b?#.db"
    with sqlite3.connect(made) as connection:
        connection.executescript(
            "CREATE TABLE visits (a, c TEXT, y INTEGER);"
            "INSERT INTO visits VALUES (1.5, 'F', 1), (2, 'M', 0), (0.5, 'F', 1);"
        )
    connection.close()
    return made


def read(path: pathlib.Path, table: str = "visits", query: str = "", clock: Clock | None = None) -> Source:
    selected = Selected(query=query) if query else Selected(table=table)
    return read_table([sqlite_table(path, selected, clock or SystemClock())], "visits", PLAN, KEY)


def change(path: pathlib.Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


# --- addresses --------------------------------------------------------------------------------------------------------


def test_addresses_are_absolute_and_without_secrets() -> None:
    found = read_address("sqlite:///clinic.db", HERE)
    assert (found.dialect, found.url) == ("sqlite", "sqlite:////srv/data/clinic.db")
    found = read_address("postgresql://reader@localhost:5433/clinic?sslmode=disable", HERE)
    assert found.url == "postgresql+psycopg://reader@localhost:5433/clinic?sslmode=disable"
    assert found.shown == "postgresql://localhost/clinic"
    verified = "postgresql://reader@db.example.org/clinic?sslmode=verify-full&sslrootcert=ca.pem"
    assert read_address(verified, HERE).url.endswith("sslrootcert=ca.pem")
    assert (
        read_address("postgresql://reader@/clinic?host=/run/postgresql", HERE).shown
        == "postgresql:///run/postgresql/clinic"
    )
    assert [is_address(text) for text in ("mysql://x", "C:/x", "folder/x.csv")] == [True, False, False]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://reader:hunter2@localhost/clinic", "source_password"),
        ("postgresql://reader@localhost/clinic?password=hunter2", "source_password"),
        ("postgresql://reader@localhost/clinic?passfile=hunter2", "bad_source_url"),
        ("postgresql://reader@localhost/clinic?options=hunter2", "bad_source_url"),
        ("postgresql://reader@localhost/clinic?service=hunter2", "bad_source_url"),
        ("postgresql://reader@localhost/clinic?host=/x&host=/y", "bad_source_url"),
        ("postgresql://reader@localhost/clinic?host=/x", "bad_source_url"),
        ("postgresql://reader@a,b/clinic", "bad_source_url"),
        ("postgresql://localhost/clinic", "bad_source_url"),
        ("postgresql://reader@localhost", "bad_source_url"),
        ("postgresql://reader@/clinic", "bad_source_url"),
        ("postgresql://reader@localhost/clinic?sslmode=hunter2", "bad_source_url"),
        ("postgresql://reader@10.1.2.3/clinic", "source_unprotected"),
        ("postgresql://reader@localhost.example.org/clinic", "source_unprotected"),
        ("postgresql://reader@db.example.org/clinic?sslmode=require", "source_unprotected"),
        ("postgresql://reader@db.example.org/clinic?sslmode=verify-ca", "source_unprotected"),
        ("postgresql+asyncpg://reader@localhost/clinic", "bad_source_url"),
        ("mysql://reader@localhost/clinic", "bad_source_url"),
        ("sqlite://", "bad_source_url"),
        ("sqlite:///:memory:", "bad_source_url"),
        ("sqlite:///file:x?mode=rw&uri=true", "bad_source_url"),
        ("postgresql://reader@local host:hunter2/x", "bad_source_url"),
        ("://", "bad_source_url"),
    ],
)
def test_addresses_that_are_refused(url: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_address(url, HERE)
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)
    assert "not" in caught.value.not_done or "nothing" in caught.value.not_done


def test_which_hosts_are_this_machine() -> None:
    assert all(map(is_local, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "/run/postgresql")))
    assert not any(map(is_local, ("10.0.0.1", "localhost.localdomain", "0.0.0.0", "db", "")))


def test_a_selection_is_a_table_or_a_query() -> None:
    for wrong in ({}, {"table": "a", "query": "b"}):
        with pytest.raises(ConfigError) as caught:
            Selected(**wrong)
        assert caught.value.code == "source_selection"
    assert Selected(table="icu.stays").statement == 'SELECT * FROM "icu"."stays"'
    assert Selected(table='x"; DROP TABLE y; --').statement == 'SELECT * FROM "x""; DROP TABLE y; --"'
    assert Selected(query=" SELECT 1 ;; ").statement == "SELECT 1"
    assert "PatientName" not in Selected(query="SELECT 'PatientName'").shown
    for wrong in ("a.b.c", ".a", "a.", "a\x00b"):
        with pytest.raises(ConfigError) as caught:
            _ = Selected(table=wrong).statement
        assert caught.value.code == "source_selection"


# --- SQLite -----------------------------------------------------------------------------------------------------------


def test_a_table_has_the_version_of_the_same_csv(path: pathlib.Path) -> None:
    same = read_source(io.BytesIO(b"y,c,a\n1,F,1.50\n0,M,2e0\n1,F,.5\n"), "t.csv", PLAN, KEY)
    assert read(path).version == same.version
    assert read(path, query="SELECT y, a, c FROM visits ORDER BY a DESC;").version == same.version
    assert (
        read(path, query="WITH v AS (SELECT * FROM visits) SELECT y, abs(a) AS a, upper(c) AS c FROM v").version
        == same.version
    )
    change(path, "INSERT INTO visits VALUES (NULL, 'F', 1)")
    with pytest.raises(DataError) as caught:
        read(path)
    assert [(p.line, p.column, p.code) for p in caught.value.problems] == [(4, "a", "missing")]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM visits",
        "INSERT INTO visits VALUES (1, 'F', 1) RETURNING a, c, y",
        "UPDATE visits SET a = 1 RETURNING a, c, y",
        "DROP TABLE visits",
        "CREATE TEMP TABLE t AS SELECT 1",
        "ATTACH DATABASE '{other}' AS other",
        "VACUUM INTO '{other}'",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "SELECT name AS a, 'F' AS c, 1 AS y FROM pragma_table_info('visits')",
        "SELECT load_extension('/lib/x.so')",
        "SELECT 1 AS a, 'F' AS c, 1 AS y; DELETE FROM visits",
        "COMMIT",
        "SELECT a, c, y FROM nowhere",
        "not SQL",
    ],
)
def test_what_does_more_than_read_is_refused(path: pathlib.Path, tmp_path: pathlib.Path, query: str) -> None:
    before, other = path.read_bytes(), tmp_path / "other.db"
    with pytest.raises(ConfigError) as caught:
        read(path, query=query.format(other=other))
    assert caught.value.code == "database_query"
    assert "nowhere" not in caught.value.what
    assert path.read_bytes() == before
    assert not other.exists()


def test_the_authorizer_stands_though_the_file_may_be_written(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-only mode alone stops the write; so does the authorizer alone."""
    opened = sqlite3.connect
    monkeypatch.setattr(sqlite.sqlite3, "connect", lambda url, **how: opened(url.replace("mode=ro", "mode=rw"), **how))
    with pytest.raises(ConfigError) as caught:
        read(path, query="DELETE FROM visits")
    assert "SQLITE_AUTH" in caught.value.what
    monkeypatch.undo()
    monkeypatch.setattr(sqlite, "_authorize", lambda *asked: sqlite3.SQLITE_OK)
    with pytest.raises(ConfigError) as caught:
        read(path, query="DELETE FROM visits")
    assert "SQLITE_READONLY" in caught.value.what
    assert read(path).table.rows == 3


def test_bytes_and_text_that_is_none(path: pathlib.Path) -> None:
    change(path, "INSERT INTO visits VALUES (1, x'00ff', 1)", "INSERT INTO visits VALUES (1, CAST(x'ff' AS TEXT), 1)")
    with pytest.raises(DataError) as caught:
        read(path)
    assert [(p.line, p.column, p.code) for p in caught.value.problems] == [
        (4, "c", "column_type"),
        (5, "c", "not_utf8"),
    ]


def test_a_file_that_is_no_database_or_is_not_there(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path.write_bytes(b"PatientName" * 1000)
    for wrong in (path, tmp_path / "nothing.db", tmp_path):
        with pytest.raises(ConfigError) as caught:
            read(wrong)
        assert caught.value.code in {"database_query", "database_unreachable"}
        assert "PatientName" not in str(caught.value)
    assert not (tmp_path / "nothing.db").exists()


def test_a_statement_has_an_end(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS a, 'F' AS c, 1 AS y FROM n"
    )
    with pytest.raises(ConfigError) as caught:
        read(path, query=endless, clock=Clock(STATEMENT_S / 5))
    assert caught.value.code in {"database_query", "database_lost"}
    assert f"more than {STATEMENT_S} s" in caught.value.what


def test_all_rows_are_of_one_moment(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedveil_participant.data import sql_records

    change(path, "PRAGMA journal_mode = WAL")
    monkeypatch.setattr(sql_records, "BATCH_ROWS", 1)
    problems, seen = Problems("t"), []
    with sqlite_table(path, Selected(table="visits"), SystemClock()).open(()) as records:
        records.header(problems)
        for _, cells in records.records(problems):
            if not seen:
                change(path, "UPDATE visits SET a = 9", "INSERT INTO visits VALUES (7, 'F', 1)")
            seen.append(cells[0])
    assert seen == ["1.5", "2", "0.5"]
    assert len(read(path).table.numbers["a"]) == 4
