"""A table or query of a PostgreSQL database, read by a role that can do nothing but read.

Promise: the role is looked at before the organisation's query runs, because a read-only transaction does not bind a
superuser (COPY ... TO PROGRAM runs in one): a role that may write, that may become one that may, or that reaches the
server's files or programs, also by a function that it may run, is refused. All rows come from one snapshot (REPEATABLE
READ, READ ONLY), fetched by a cursor of the server, a bounded number at a time, and the transaction is rolled back. One
statement is sent, by the extended protocol, in which a second one after a semicolon is an error. Without TLS the other
end is on this machine. Nothing that the server says of an error is repeated but the class of its SQLSTATE.

Every value comes as the server's text: a date that Python lacks (infinity, years before 1) is no error, and no driver
decides what a cell reads as.
"""

import contextlib
import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import sqlalchemy as sa
from fedveil_common.errors import ConfigError, FedveilError
from fedveil_common.secret import Passphrase

from fedveil_participant.data import sql_records
from fedveil_participant.data.records import Records, TableFile
from fedveil_participant.data.sql_address import SqlAddress, is_local
from fedveil_participant.data.sql_records import STATEMENT_S, Cell, Selected, SqlColumn, SqlRecords

CONNECT_S = 10

_SETTINGS = (
    f"statement_timeout = '{STATEMENT_S}s'",
    f"idle_in_transaction_session_timeout = '{STATEMENT_S}s'",
    "lock_timeout = '30s'",
    "timezone = 'UTC'",
    "datestyle = 'ISO, YMD'",
    "intervalstyle = 'iso_8601'",
    "extra_float_digits = 1",
)

_FUNCTION = (
    "SELECT n.nspname || '.' || p.proname FROM pg_roles r, pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
    "WHERE pg_has_role(session_user, r.oid, 'MEMBER') AND n.nspname NOT IN ('pg_catalog', 'information_schema') "
    "AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) "
    "AND has_schema_privilege(r.oid, n.oid, 'USAGE') AND has_function_privilege(r.oid, p.oid, 'EXECUTE') AND"
)
"""The functions that the database has beside the server's own, and that the role may call."""

_FUNCTIONS: tuple[tuple[str, str], ...] = (
    (
        "may run, with the rights of a superuser or of one who reaches the server's files, the function",
        "p.prosecdef AND EXISTS (SELECT FROM pg_roles o WHERE pg_has_role(p.proowner, o.oid, 'MEMBER') AND (o.rolsuper "
        "OR o.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')))",
    ),
    (
        "may run, in a language that no transaction and no right holds back, the function",
        "EXISTS (SELECT FROM pg_language l WHERE l.oid = p.prolang AND NOT l.lanpltrusted "
        "AND l.lanname NOT IN ('c', 'internal'))",
    ),
    (
        "may open sessions or connections that its transaction does not undo, by the function",
        "EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid "
        "WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_extension'::regclass "
        "AND d.deptype = 'e' AND e.extname IN ('dblink', 'http', 'pg_background', 'pg_net', 'plproxy'))",
    ),
)
"""(What is wrong with one of them, when it is.)"""

_CHECKS: tuple[tuple[str, str], ...] = (
    (
        "is a superuser, may make roles, databases or replication, or passes by row security, itself or by way of",
        "SELECT r.rolname FROM pg_roles r WHERE pg_has_role(session_user, r.oid, 'MEMBER') "
        "AND (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls) LIMIT 1",
    ),
    (
        "reaches files, programs or other sessions of the server, or may write everywhere, by way of",
        "SELECT r.rolname FROM pg_roles r WHERE pg_has_role(session_user, r.oid, 'MEMBER') AND r.rolname IN ("
        "'pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files', 'pg_write_all_data', "
        "'pg_signal_backend', 'pg_checkpoint', 'pg_maintain', 'pg_create_subscription') LIMIT 1",
    ),
    (
        "owns or may write into the table",
        "SELECT n.nspname || '.' || c.relname FROM pg_roles r, pg_class c JOIN pg_namespace n ON n.oid = "
        "c.relnamespace WHERE pg_has_role(session_user, r.oid, 'MEMBER') AND c.relkind IN ('r', 'p', 'v', 'm', 'f') "
        "AND n.nspname !~ '^pg_(toast|temp)' AND (n.nspname, c.relname) <> ('pg_catalog', 'pg_settings') "
        "AND (c.relowner = r.oid OR has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') "
        "OR has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE')) LIMIT 1",
    ),
    (
        "owns or may create objects in the schema",
        "SELECT n.nspname FROM pg_roles r, pg_namespace n WHERE pg_has_role(session_user, r.oid, 'MEMBER') "
        "AND n.nspname !~ '^pg_(toast|temp)' AND (n.nspowner = r.oid OR has_schema_privilege(r.oid, n.oid, 'CREATE')) "
        "LIMIT 1",
    ),
    (
        "owns or may create schemas in the database",
        "SELECT d.datname FROM pg_roles r, pg_database d WHERE pg_has_role(session_user, r.oid, 'MEMBER') "
        "AND d.datname = current_database() AND (d.datdba = r.oid OR has_database_privilege(r.oid, d.oid, 'CREATE')) "
        "LIMIT 1",
    ),
    (
        "may run a function that a server gives to nobody, because it reaches its files, programs or settings,",
        "SELECT p.proname FROM pg_proc p, aclexplode(p.proacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee "
        "WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.provolatile = 'v' AND a.privilege_type = 'EXECUTE' "
        "AND a.grantee <> p.proowner AND (a.grantee = 0 OR r.rolname !~ '^pg_' "
        "AND pg_has_role(session_user, r.oid, 'MEMBER')) LIMIT 1",
    ),
    *((what, f"{_FUNCTION} {when} LIMIT 1") for what, when in _FUNCTIONS),
)
"""(What is wrong with the role, a query that names the thing or gives no row.) Each role counts that
the session is, or can become by SET ROLE. UPDATE on pg_settings is everybody's. A function that runs with the rights of
its caller does no more than the caller may, in a transaction that only reads. Of pg_catalog's own, those with a list of
who may run them are those that not everybody may; what the roles pg_monitor and the like may run only looks.
"""

_MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?(\+00)?\Z")

_SAID = {
    "08": "the connection failed",
    "0A": "it is not a feature of this server",
    "22": "a value in it cannot be computed or shown",
    "25": "it would write, which a read-only transaction does not",
    "28": "the login was refused",
    "34": "its cursor is gone",
    "3D": "there is no such database",
    "40": "the server rolled it back",
    "42": "it has an error, or names what is not there or may not be read",
    "53": "the server lacks memory, disk or connections",
    "54": "it is too large for the server",
    "55": "something it needs is locked or in use",
    "57": f"the server ended it, or it took more than {STATEMENT_S} s",
    "58": "the server's system failed",
    "XX": "the server has an internal error",
}


def postgresql_table(address: SqlAddress, selected: Selected, password: Passphrase | None) -> TableFile:
    """The table as the one file of a data set. ConfigError `source_selection`, `driver_missing`, and as it is read
    `database_role`, `source_unprotected` and the other `database_*`.
    """
    shown, statement = f"{address.shown}, {selected.shown}", selected.statement
    return TableFile(shown, lambda names: _opened(address, statement, shown, password))


@contextmanager
def _opened(address: SqlAddress, statement: str, shown: str, password: Passphrase | None) -> Iterator[Records]:
    driver = _driver()
    engine = _engine(address, password)
    try:
        try:
            connection = engine.connect()
        except (sa.exc.DBAPIError, driver.Error) as error:
            raise sql_records.unreachable(shown, _why(error)) from None
        with connection:
            try:
                _check_peer(connection, shown)
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True, no_parameters=True
                )
                _prepare(connection)
                check_role(connection, shown)
                kinds = _kinds(connection)
                result = connection.exec_driver_sql(statement, execution_options={"stream_results": True})
                columns = _columns(result, kinds)
            except (sa.exc.SQLAlchemyError, driver.Error) as error:
                raise sql_records.refused(shown, _why(error)) from None
            with contextlib.closing(result):
                yield SqlRecords(columns, _batches(result, sql_records.batch_rows(len(columns)), shown, driver))
            connection.rollback()
    except (sa.exc.SQLAlchemyError, driver.Error) as error:
        raise sql_records.lost(shown, _why(error)) from None
    finally:
        engine.dispose()


def _driver() -> ModuleType:
    try:
        return importlib.import_module("psycopg")
    except ImportError:
        raise ConfigError(
            "driver_missing",
            "the driver for PostgreSQL is not installed",
            not_done="nothing was connected to",
            next_step="pip install 'fedveil[postgresql]'",
        ) from None


def _engine(address: SqlAddress, password: Passphrase | None) -> sa.Engine:
    given = {"password": password.expose().decode()} if password is not None else {}
    return sa.create_engine(
        address.url,
        poolclass=sa.pool.NullPool,
        hide_parameters=True,
        use_native_hstore=False,
        connect_args={
            "connect_timeout": CONNECT_S,
            "application_name": "fedveil",
            "client_encoding": "utf8",
            "gssencmode": "disable",
            **given,
        },
    )


def _check_peer(connection: sa.Connection, shown: str) -> None:
    """What the library really connected to, whatever its environment and its configuration files say (PGHOSTADDR)."""
    found = connection.connection.driver_connection
    assert found is not None, "it was just opened"
    where = found.info.hostaddr or found.info.host
    if not found.pgconn.ssl_in_use and not is_local(where):
        raise ConfigError(
            "source_unprotected",
            f"{shown}: the connection to {where} has no TLS",
            not_done="no row was read",
            next_step="add ?sslmode=verify-full&sslrootcert=CA.pem to the URL; look for PGHOSTADDR in the environment",
        )


def _prepare(connection: sa.Connection) -> None:
    """Settings for this transaction; every type reads as text. Begins the snapshot's transaction."""
    loader = importlib.import_module("psycopg.types.string").TextLoader
    found = connection.connection.driver_connection
    assert found is not None, "it is open"
    for kind in found.adapters.types:
        for oid in (kind.oid, kind.array_oid):
            if oid:
                found.adapters.register_loader(oid, loader)
    for setting in _SETTINGS:
        connection.exec_driver_sql(f"SET LOCAL {setting}")


def check_role(connection: sa.Connection, shown: str) -> None:
    """ConfigError `database_role` for a role that could do more than read."""
    connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
    (name,) = connection.exec_driver_sql("SELECT session_user::text").one()
    for what, query in _CHECKS:
        found = connection.exec_driver_sql(query).first()
        if found is not None:
            raise ConfigError(
                "database_role",
                f"{shown}: the role {name} {what} {found[0]}",
                not_done="no row was read and the query was not run",
                next_step="make a role for this alone: CREATE ROLE fedveil_reader LOGIN; GRANT SELECT ON TABLE ... TO "
                "fedveil_reader; before PostgreSQL 15 also REVOKE CREATE ON SCHEMA public FROM PUBLIC; of a function "
                "REVOKE EXECUTE ON FUNCTION ... FROM PUBLIC",
            )
    connection.exec_driver_sql("SET LOCAL search_path TO DEFAULT")


def _kinds(connection: sa.Connection) -> dict[int, Cell]:
    """How the types of this database read as text, by their number: those that have a meaning."""
    rows = connection.exec_driver_sql(
        "SELECT oid, typname, typcategory, typtype, typnamespace = 'pg_catalog'::regnamespace FROM pg_catalog.pg_type"
    )
    found: dict[int, Cell] = {}
    for oid, name, category, kind, own in rows:
        cell = _NAMED.get(name) if own == "t" else None
        if cell is None and (kind == "e" or (category == "S" and kind == "b")):
            cell = _text
        if cell is not None:
            found[int(oid)] = cell
    return found


def _columns(result: sa.CursorResult[tuple[object, ...]], kinds: dict[int, Cell]) -> list[SqlColumn]:
    assert result.cursor is not None, "it gives rows"
    return [SqlColumn(str(one[0]), kinds.get(int(str(one[1])))) for one in result.cursor.description or ()]


def _batches(
    result: sa.CursorResult[tuple[object, ...]], rows: int, shown: str, driver: ModuleType
) -> Iterator[Sequence[Sequence[object]]]:
    while True:
        try:
            batch = result.fetchmany(rows)
        except (sa.exc.SQLAlchemyError, driver.Error) as error:
            raise sql_records.lost(shown, _why(error)) from None
        except UnicodeDecodeError:
            raise sql_records.lost(shown, "bytes that are not UTF-8 text") from None
        if not batch:
            return
        yield batch


def _why(error: Exception) -> str:
    """The class of the SQLSTATE and what it means: a closed list. The rest of what the server says may hold values."""
    if isinstance(error, FedveilError):
        raise error
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    if not state:
        return "the connection failed or ended"
    known = state[:2] if state[:2] in _SAID else "other"
    return f"{_SAID.get(known, 'the server refused it')} (SQLSTATE class {known})"


# --- what a cell reads as ---------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    return str(value)


def _boolean(value: object) -> str:
    return "1" if value == "t" else "0"


def _double(value: object) -> str:
    return repr(float(str(value))).removesuffix(".0")


def _single(value: object) -> str:
    """The double that is the same number as the float4, as for a float32 in Parquet."""
    return repr(float(np.float32(str(value)))).removesuffix(".0")


def _moment(value: object) -> str:
    """ISO 8601; an instant ends in Z. What lies outside of years 1 to 9999 stays as the server writes it."""
    match = _MOMENT.match(str(value))
    if match is None:
        return str(value)
    day, time, fraction, utc = match.groups()
    return f"{day}T{time}{fraction or ''}{'Z' if utc else ''}"


_NAMED: dict[str, Cell] = {
    "bool": _boolean,
    "int2": _text,
    "int4": _text,
    "int8": _text,
    "numeric": _text,
    "float4": _single,
    "float8": _double,
    "text": _text,
    "varchar": _text,
    "bpchar": _text,
    "name": _text,
    "char": _text,
    "unknown": _text,
    "uuid": _text,
    "date": _text,
    "time": _text,
    "timestamp": _moment,
    "timestamptz": _moment,
}
"""Types of the server's own that have a meaning as a number, text, date or time."""

__all__ = ["check_role", "postgresql_table"]
