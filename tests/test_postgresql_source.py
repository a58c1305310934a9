"""PostgreSQL as a source, against a real server: who may read, one snapshot, the texts of types, errors without values.

The server is one for the module; each test has a schema and a role of its own in it.
"""

import datetime
import decimal
import io
import itertools
import pathlib
from collections.abc import Iterator

import psycopg
import pyarrow as pa
import pytest
from fedveil_common.errors import ConfigError, FedveilError
from fedveil_common.plan import Plan
from fedveil_common.secret import Passphrase
from fedveil_participant.data import sql_records
from fedveil_participant.data.csv_source import Source, read_source, read_table
from fedveil_participant.data.folder import table_files
from fedveil_participant.data.postgresql import postgresql_table
from fedveil_participant.data.problems import DataError, Problems
from fedveil_participant.data.sql_address import read_address
from fedveil_participant.data.sql_records import Selected
from postgres_server import PASSWORD, USER, Server, server
from pyarrow import parquet
from test_csv_source import KEY, TWO, plan_with

PLAN = plan_with(TWO)
READER_PASSWORD = "the reader's password"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server() as made:
        yield made


class Clinic:
    """A schema with a table `visits`, and a role that may read it and finds it first."""

    def __init__(self, running: Server) -> None:
        number = next(NUMBERS)
        self.server, self.name, self.role = running, f"clinic{number}", f"reader{number}"
        self.do(
            f"CREATE SCHEMA {self.name}",
            f"CREATE ROLE {self.role} LOGIN PASSWORD $${READER_PASSWORD}$$",
            f"ALTER ROLE {self.role} SET search_path = {self.name}",
            f"GRANT USAGE ON SCHEMA {self.name} TO {self.role}",
            "CREATE TABLE visits (a float8, c text, y int)",
            "INSERT INTO visits VALUES (1.5, 'F', 1), (2, 'M', 0), (0.5, 'F', 1)",
            f"GRANT SELECT ON visits TO {self.role}",
        )

    def do(self, *statements: str) -> None:
        with self.server.admin() as admin:
            admin.execute(f"SET search_path = {self.name}")
            for statement in statements:
                admin.execute(statement)

    def ask(self, query: str) -> object:
        with self.server.admin() as admin:
            admin.execute(f"SET search_path = {self.name}")
            found = admin.execute(query).fetchone()
        assert found is not None
        return found[0]

    def leave(self) -> None:
        """What was granted to everybody must not be there for the next test."""
        self.do(f"DROP SCHEMA {self.name} CASCADE", f"DROP OWNED BY {self.role}", f"DROP ROLE {self.role}")

    def file(self, table: str = "visits", query: str = "", *, tcp: bool = False, role: str = "", password: str = ""):
        url = self.server.url(role or self.role, USER, tcp=tcp)
        selected = Selected(query=query) if query else Selected(table=table)
        secret = Passphrase((password or READER_PASSWORD).encode())
        return postgresql_table(read_address(url, pathlib.Path("/")), selected, secret)

    def read(self, table: str = "visits", query: str = "", plan: Plan = PLAN, **how: object) -> Source:
        return read_table([self.file(table, query, **how)], "visits", plan, KEY)

    def rows(self, query: str) -> list[list[str]]:
        problems = Problems("visits")
        with self.file(query=query).open(()) as records:
            assert records.header(problems), problems.kept
            found = [cells for _, cells in records.records(problems)]
        problems.stop_if_any()
        return found

    def refused(self, query: str = "", **how: object) -> FedveilError:
        with pytest.raises(FedveilError) as caught:
            self.read(query=query, **how)
        return caught.value


@pytest.fixture
def clinic(running: Server) -> Iterator[Clinic]:
    made = Clinic(running)
    yield made
    made.leave()


def test_a_role_that_only_reads_gives_the_version_of_the_same_csv(clinic: Clinic) -> None:
    same = read_source(io.BytesIO(b"y,c,a\n1,F,1.50\n0,M,2e0\n1,F,.5\n"), "t.csv", PLAN, KEY)
    for how in ({}, {"tcp": True}, {"query": "SELECT y, c AS c, a FROM visits ORDER BY a;"}):
        found = clinic.read(**how)
        assert found.version == same.version
        assert sorted(found.table.numbers["a"].tolist()) == [0.5, 1.5, 2.0]


def test_an_update_that_changes_nothing_reorders_rows_and_keeps_the_version(clinic: Clinic) -> None:
    before = clinic.read()
    clinic.do("UPDATE visits SET a = a WHERE c = 'F'")
    after = clinic.read()
    assert before.table.numbers["a"].tolist() != after.table.numbers["a"].tolist(), "the update moved the rows"
    assert after.version == before.version
    clinic.do("UPDATE visits SET a = 1.25 WHERE c = 'M'")
    assert clinic.read().version != before.version


def test_every_type_reads_as_in_parquet(clinic: Clinic, tmp_path: pathlib.Path) -> None:
    moment = datetime.datetime(2024, 2, 3, 4, 5, 6, 250_000)
    odd = "quotes \" ' \\ %s :x ;-- $1\nand a line, é e\u0301 \U0001f600"
    clinic.do(
        "CREATE TYPE ward AS ENUM ('north', 'south')",
        "CREATE DOMAIN code AS varchar(3)",
        "CREATE TABLE kinds (i2 int2, i8 int8, f4 float4, f8 float8, n numeric(9,2), b bool, t text, k char(4), "
        "d date, h time, s timestamp, z timestamptz, u uuid, w ward, o code)",
        "SET timezone = 'Asia/Kolkata'",
    )
    with clinic.server.admin() as admin:
        admin.execute(f"SET search_path = {clinic.name}")
        place = ", ".join(["%s"] * 15)
        admin.execute(
            f"INSERT INTO kinds VALUES ({place})",
            [
                -3, 2**62, 0.1, 1e300, decimal.Decimal("1.50"), True, odd, "ab", moment.date(),
                moment.time(), moment, moment.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
                "0b0e7e1c-0000-4000-8000-00000000000a", "north", "xyz",
            ],
        )  # fmt: skip
        admin.execute("INSERT INTO kinds (b, n) VALUES (false, -200)")
        admin.execute(f"GRANT SELECT ON kinds TO {clinic.role}")
    utc = moment.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    columns = {
        "i2": pa.array([-3, None], pa.int16()),
        "i8": pa.array([2**62, None], pa.int64()),
        "f4": pa.array([0.1, None], pa.float32()),
        "f8": pa.array([1e300, None]),
        "n": pa.array([decimal.Decimal("1.50"), decimal.Decimal("-200.00")], pa.decimal128(9, 2)),
        "b": pa.array([True, False]),
        "t": pa.array([odd, None]),
        "k": pa.array(["ab", None]),
        "d": pa.array([moment.date(), None]),
        "h": pa.array([moment.time(), None], pa.time64("us")),
        "s": pa.array([moment, None], pa.timestamp("us")),
        "z": pa.array([utc, None], pa.timestamp("ns", "Europe/Berlin")),
        "u": pa.array(["0b0e7e1c-0000-4000-8000-00000000000a", None]),
        "w": pa.array(["north", None]).dictionary_encode(),
        "o": pa.array(["xyz", None]),
    }
    path = tmp_path / "kinds.parquet"
    parquet.write_table(pa.table(columns), path)
    problems, found = Problems("t"), []
    for file in (clinic.file("kinds"), table_files(path)[0]):
        with file.open(()) as records:
            names = records.header(problems)
            found.append((names, [[cell.strip() for cell in cells] for _, cells in records.records(problems)]))
    assert not problems.total
    assert found[0] == found[1]
    assert found[0][1][0][10:12] == ["2024-02-03T04:05:06.25", "2024-02-03T02:05:06.25Z"]


def test_values_that_python_lacks_are_texts_and_no_errors(clinic: Clinic) -> None:
    query = "SELECT 'infinity'::date, '0044-03-15 BC'::date, 'NaN'::numeric, '-inf'::float8, '15000-01-01'::timestamp"
    assert clinic.rows(query) == [["infinity", "0044-03-15 BC", "NaN", "-inf", "15000-01-01 00:00:00"]]


@pytest.mark.parametrize("kind", ["bytea", "int[]", "json", "jsonb", "interval", "point", "money", "timetz", "xml"])
def test_a_type_without_a_meaning_is_refused_by_the_name_of_its_column(clinic: Clinic, kind: str) -> None:
    clinic.do(
        f"CREATE TABLE odd AS SELECT a, c, y, NULL::{kind} AS blob FROM visits", f"GRANT SELECT ON odd TO {clinic.role}"
    )
    with pytest.raises(DataError) as caught:
        clinic.read("odd")
    assert [(p.column, p.code) for p in caught.value.problems] == [("blob", "column_type")]


def test_problems_have_rows_and_no_values(clinic: Clinic) -> None:
    clinic.do("INSERT INTO visits VALUES (987654, 'F', 1), (NULL, 'PatientName', 1)")
    with pytest.raises(DataError) as caught:
        clinic.read()
    assert [(p.line, p.column, p.code) for p in caught.value.problems] == [
        (4, "a", "out_of_range"),
        (5, "a", "missing"),
        (5, "c", "unknown_category"),
    ]
    assert "987654" not in str(caught.value)
    assert "PatientName" not in str(caught.value)
    with pytest.raises(DataError) as caught:
        clinic.read(query="SELECT a, a, y, c FROM visits WHERE false")
    assert [(p.column, p.code) for p in caught.value.problems] == [("a", "column_twice")]
    with pytest.raises(DataError) as caught:
        clinic.read(query="SELECT a, c, y FROM visits WHERE false")
    assert [p.code for p in caught.value.problems] == ["no_rows"]


def test_a_column_that_disappears_and_a_cell_that_is_too_long(clinic: Clinic) -> None:
    clinic.do("ALTER TABLE visits ADD note text", "UPDATE visits SET note = repeat('x', 131073) WHERE c = 'M'")
    with pytest.raises(DataError) as caught:
        clinic.read()
    assert [(p.column, p.code) for p in caught.value.problems] == [("note", "cell_too_long")]
    clinic.do("ALTER TABLE visits DROP note", "ALTER TABLE visits DROP c")
    with pytest.raises(DataError) as caught:
        clinic.read()
    assert [(p.column, p.code) for p in caught.value.problems] == [("c", "column_missing")]


# --- who may read -----------------------------------------------------------------------------------------------------

UNSAFE = [
    ("is a superuser", "ALTER ROLE {role} SUPERUSER"),
    ("may make roles", "ALTER ROLE {role} CREATEROLE"),
    ("row security", "ALTER ROLE {role} BYPASSRLS"),
    ("files, programs", "GRANT pg_read_server_files TO {role}"),
    ("files, programs", "GRANT pg_write_server_files TO {role}"),
    ("files, programs", "GRANT pg_execute_server_program TO {role}"),
    ("write everywhere", "GRANT pg_write_all_data TO {role}"),
    (".visits", "GRANT INSERT ON visits TO {role}"),
    (".visits", "GRANT UPDATE ON visits TO {role}"),
    (".visits", "GRANT DELETE ON visits TO {role}"),
    (".visits", "GRANT TRUNCATE ON visits TO {role}"),
    (".visits", "GRANT UPDATE (a) ON visits TO {role}"),
    (".visits", "GRANT INSERT ON visits TO PUBLIC"),
    (".other", "CREATE TABLE other (x int); GRANT INSERT ON other TO {role}"),
    (
        ".visits",
        "ALTER TABLE visits OWNER TO {role}; REVOKE ALL ON visits FROM {role}; GRANT SELECT ON visits TO {role}",
    ),
    ("the schema clinic", "GRANT CREATE ON SCHEMA {name} TO {role}"),
    ("database", "GRANT CREATE ON DATABASE postgres TO {role}"),
    ("files, programs or settings, lo_import", "GRANT EXECUTE ON FUNCTION lo_import(text) TO {role}"),
    ("files, programs or settings, pg_read_file", "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {role}"),
    ("rights of a superuser", "CREATE FUNCTION leap() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'"),
]


@pytest.mark.parametrize(("said", "grant"), UNSAFE)
def test_a_role_that_may_do_more_than_read_is_refused(clinic: Clinic, said: str, grant: str) -> None:
    for statement in grant.format(role=clinic.role, name=clinic.name).split("; "):
        clinic.do(statement)
    error = clinic.refused()
    assert (error.code, error.exit_code) == ("database_role", 2)
    assert said in error.what


def test_a_role_that_can_become_one_that_writes_is_refused(clinic: Clinic) -> None:
    """Without INHERIT it has no right to write until it says SET ROLE, which a query could have done."""
    clinic.do(
        f"CREATE ROLE {clinic.role}_writer",
        f"GRANT INSERT ON visits TO {clinic.role}_writer",
        f"ALTER ROLE {clinic.role} NOINHERIT",
        f"GRANT {clinic.role}_writer TO {clinic.role}",
    )
    assert ".visits" in clinic.refused().what
    clinic.do(f"DROP OWNED BY {clinic.role}_writer", f"DROP ROLE {clinic.role}_writer")


def test_functions_that_do_no_more_than_the_role_may_are_no_reason(clinic: Clinic) -> None:
    """Those of the server that only look, those that run as their caller, and as somebody who has no power either."""
    author = f"{clinic.role}_author"
    clinic.do(
        f"GRANT pg_monitor TO {clinic.role}",
        f"GRANT EXECUTE ON FUNCTION lower(text) TO {clinic.role}",
        f"CREATE ROLE {author}",
        "CREATE FUNCTION plain() RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN 1; END$$",
        "CREATE FUNCTION careful() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        f"ALTER FUNCTION careful() OWNER TO {author}",
        "CREATE FUNCTION own() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "REVOKE EXECUTE ON FUNCTION own() FROM PUBLIC",
        "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN RETURN NULL; END$$",
    )
    assert len(clinic.read().table.numbers["a"]) == 3
    clinic.do(f"GRANT EXECUTE ON FUNCTION own() TO {clinic.role}")
    error = clinic.refused()
    assert (error.code, f"{clinic.name}.own" in error.what) == ("database_role", True)
    clinic.do(f"GRANT pg_read_server_files TO {author}", "DROP FUNCTION own()")
    assert f"{clinic.name}.careful" in clinic.refused().what
    clinic.do(
        "DROP FUNCTION careful()", f"DROP ROLE {author}", f"REVOKE ALL ON FUNCTION lower(text) FROM {clinic.role}"
    )


def test_a_function_that_works_in_another_session_is_refused(clinic: Clinic) -> None:
    clinic.do(f"CREATE EXTENSION dblink SCHEMA {clinic.name}")
    error = clinic.refused()
    assert (error.code, f"{clinic.name}.dblink" in error.what) == ("database_role", True)


def test_the_role_is_refused_before_the_query_runs(clinic: Clinic, tmp_path: pathlib.Path) -> None:
    """A superuser's read-only transaction runs programs: what the query would have done has not happened."""
    clinic.do(f"ALTER ROLE {clinic.role} SUPERUSER", "CREATE SEQUENCE ran")
    mark = clinic.server.folder / "mark"
    for query in (
        "SELECT nextval('ran')",
        f"SELECT pg_catalog.pg_read_file('{mark}')",
        f"SELECT a, c, y FROM visits, LATERAL (SELECT lo_export(1, '{mark}')) o",
    ):
        assert clinic.refused(query).code == "database_role"
    assert not mark.exists()


# --- what a query may do ----------------------------------------------------------------------------------------------


def test_a_query_that_writes_is_refused_and_nothing_of_it_stays(clinic: Clinic) -> None:
    author = f"{clinic.role}_author"
    clinic.do(
        "CREATE TABLE log (x int)",
        "CREATE FUNCTION leave() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$BEGIN INSERT INTO log VALUES (1); RETURN 1; END$$",
        "CREATE SEQUENCE counter",
        f"GRANT USAGE ON SEQUENCE counter TO {clinic.role}",
        f"CREATE ROLE {author}",  # of a superuser's function the role would be refused
        f"GRANT USAGE ON SCHEMA {clinic.name} TO {author}",
        f"ALTER TABLE log OWNER TO {author}",
        f"ALTER FUNCTION leave() OWNER TO {author}",
    )
    for query in (
        "SELECT a, c, leave() AS y FROM visits",
        "SELECT a, c, nextval('counter')::int AS y FROM visits",
        "WITH gone AS (DELETE FROM visits RETURNING a, c, y) SELECT * FROM gone",
        "DELETE FROM visits RETURNING a, c, y",
        "SELECT a, c, y FROM visits FOR UPDATE",
        "SELECT a, c, y FROM visits; DELETE FROM visits",
        "SELECT 1; COMMIT; DROP TABLE visits",
        "COPY visits TO PROGRAM 'cat'",
        "SELECT a, c, y FROM nowhere",
    ):
        error = clinic.refused(query)
        assert error.code == "database_query", query
        assert "SQLSTATE class" in error.what
    assert clinic.ask("SELECT count(*) FROM log") == 0
    assert clinic.ask("SELECT is_called FROM counter") is False
    assert clinic.ask("SELECT count(*) FROM visits") == 3
    clinic.do(f"DROP OWNED BY {author}", f"DROP ROLE {author}")


def test_what_the_server_says_of_an_error_is_not_repeated(clinic: Clinic) -> None:
    clinic.do("CREATE TABLE secrets AS SELECT 'PatientName' AS who", f"GRANT SELECT ON secrets TO {clinic.role}")
    for query in ("SELECT who::int AS a, 'F' AS c, 1 AS y FROM secrets", "SELECT PatientName FROM visits"):
        error = clinic.refused(query)
        assert error.code in {"database_query", "database_lost"}
        assert "PatientName" not in str(error)
        assert (error.__cause__, error.__suppress_context__) == (None, True)
    clinic.do(
        "CREATE FUNCTION tell() RETURNS int LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'PatientName' USING ERRCODE = 'QZ123'; END$$"
    )
    error = clinic.refused("SELECT 1.0 AS a, 'F' AS c, tell() AS y")
    assert "class other" in error.what
    assert "QZ" not in str(error)


def test_one_snapshot_though_rows_change_while_they_are_read(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_records, "BATCH_ROWS", 2)
    clinic.do("INSERT INTO visits SELECT 1, 'F', 1 FROM generate_series(1, 7)")
    before = clinic.read().version
    problems, seen = Problems("t"), []
    with clinic.file().open(()) as records:
        records.header(problems)
        for _, cells in records.records(problems):
            if not seen:
                clinic.do(
                    "UPDATE visits SET a = 9", "INSERT INTO visits VALUES (3, 'M', 0)", "DELETE FROM visits WHERE y = 0"
                )
            seen.append(cells[0])
    assert sorted(seen) == sorted(["1.5", "2", "0.5", *["1"] * 7])
    assert clinic.read().version != before


def test_rows_are_fetched_a_bounded_number_at_a_time(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic.do("INSERT INTO visits SELECT 1, 'F', 1 FROM generate_series(1, 3000)")
    sizes: list[int] = []
    fetch = psycopg.ServerCursor.fetchmany

    def fetching(self: object, size: int = 0) -> list[object]:
        found = fetch(self, size)  # type: ignore[arg-type, type-var]
        sizes.append(len(found))
        return found

    monkeypatch.setattr(psycopg.ServerCursor, "fetchmany", fetching)
    assert clinic.read().table.rows == 3003
    assert max(sizes) <= sql_records.BATCH_ROWS
    assert len(sizes) > 3


# --- the connection ---------------------------------------------------------------------------------------------------


def test_a_wrong_password_no_database_and_no_server(clinic: Clinic) -> None:
    error = clinic.refused(tcp=True, password="not the password")
    assert error.code == "database_unreachable"
    assert "not the password" not in str(error)
    url = f"postgresql://{clinic.role}@127.0.0.1:1/{USER}"
    with pytest.raises(ConfigError) as caught:
        read_table(
            [postgresql_table(read_address(url, pathlib.Path("/")), Selected(table="visits"), None)], "v", PLAN, KEY
        )
    assert caught.value.code == "database_unreachable"


def test_the_environment_does_not_lead_elsewhere(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq connects to PGHOSTADDR whatever the host's name is: a loopback name is then no promise."""
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    assert clinic.read(tcp=True).table.rows == 3
    from fedveil_participant.data import postgresql

    monkeypatch.setattr(postgresql, "is_local", lambda host: False)
    assert clinic.refused(tcp=True).code == "source_unprotected"


def test_a_server_that_goes_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_records, "BATCH_ROWS", 2)
    with server() as own:
        clinic = Clinic(own)
        clinic.do("INSERT INTO visits SELECT 1, 'F', 1 FROM generate_series(1, 50)")
        file, problems = clinic.file(), Problems("t")

        def reading() -> None:
            with file.open(()) as records:
                records.header(problems)
                for number, _ in enumerate(records.records(problems)):
                    if number == 3:
                        own.stop()

        with pytest.raises(ConfigError) as caught:
            reading()
        assert caught.value.code == "database_lost"
        assert clinic.refused().code == "database_unreachable"


def test_the_superuser_of_these_tests_is_refused_too(clinic: Clinic) -> None:
    assert clinic.refused(role=USER, password=PASSWORD).code == "database_role"
