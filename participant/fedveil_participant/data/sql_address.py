"""Where a table in a database is: a URL that says so and holds no secret.

Promise: an address is understood completely or refused. A password never stands in it; of the options of a connection
those that say how it is protected are passed, and no other, so that nobody can turn a check off through it. A server
that is not on this machine is spoken to over TLS with its name verified (`sslmode=verify-full`), or not at all.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from fedveil_common.errors import ConfigError

SQLITE, POSTGRESQL = "sqlite", "postgresql"
_DIALECTS = {
    "sqlite": SQLITE,
    "sqlite+pysqlite": SQLITE,
    "postgresql": POSTGRESQL,
    "postgresql+psycopg": POSTGRESQL,
}
_OPTIONS = frozenset({"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey"})
_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})


@dataclass(frozen=True, slots=True)
class SqlAddress:
    """A database: its dialect and its URL as text, absolute and without a password."""

    dialect: str
    url: str

    @property
    def shown(self) -> str:
        """For messages: dialect, host and database, without user and options."""
        found = sa.make_url(self.url)
        return f"{self.dialect}://{found.host or _socket(found) or ''}/{found.database or ''}"


def is_address(text: str) -> bool:
    """Whether a person meant a URL rather than the path of a file."""
    return "://" in text


def read_address(text: str, folder: Path) -> SqlAddress:
    """The database that `text` names; a relative SQLite file is one below `folder`.

    ConfigError `bad_source_url`, `source_password`, `source_unprotected`. No message repeats the URL.
    """
    try:
        found = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise _bad("it cannot be read as one") from None
    dialect = _DIALECTS.get(found.drivername)
    if dialect is None:
        raise _bad(f"{found.drivername!r} is not one of {', '.join(sorted(_DIALECTS))}")
    if found.password is not None or "password" in found.query:
        raise ConfigError(
            "source_password",
            "the URL holds a password",
            not_done="nothing was registered and nothing was connected to",
            next_step="leave it out and give --password-file FILE; change that password, which was on a command line",
        )
    unknown = sorted(set(found.query) - (_OPTIONS if dialect == POSTGRESQL else frozenset()))
    if unknown:
        raise _bad(f"it has the option {unknown[0]!r}; possible are {', '.join(sorted(_OPTIONS))}, for PostgreSQL")
    if any(not isinstance(value, str) for value in found.query.values()):
        raise _bad("it gives an option twice")
    if dialect == SQLITE:
        if not found.database or found.database == ":memory:" or found.database.startswith("file:"):
            raise _bad("it names no SQLite file")
        found = found.set(drivername="sqlite", database=str((folder / found.database).absolute()))
    else:
        _check_server(found)
        found = found.set(drivername="postgresql+psycopg")
    return SqlAddress(dialect, found.render_as_string(hide_password=False))


def is_local(host: str) -> bool:
    """Whether a host is this machine by its very name: a socket's folder, `localhost`, or a loopback address."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_server(found: sa.URL) -> None:
    host, mode = found.host or _socket(found), found.query.get("sslmode", "")
    if not host or "," in host or not found.database or not found.username:
        raise _bad("it does not name a user, one host and a database: postgresql://USER@HOST/DATABASE")
    if found.host and "host" in found.query:
        raise _bad("it names two hosts")
    if mode and mode not in _MODES:
        raise _bad("its sslmode is none")
    if not is_local(host) and mode != "verify-full":
        raise ConfigError(
            "source_unprotected",
            f"{host} is not this machine, and its name would not be verified (sslmode is {mode or 'not given'})",
            not_done="nothing was connected to",
            next_step="add ?sslmode=verify-full&sslrootcert=CA.pem to the URL, or connect by a socket or a tunnel here",
        )


def _socket(found: sa.URL) -> str:
    host = found.query.get("host", "")
    return host if isinstance(host, str) else ""


def _bad(why: str) -> ConfigError:
    return ConfigError(
        "bad_source_url",
        f"this is no address of a table: {why}",
        not_done="nothing was connected to",
        next_step="postgresql://USER@HOST/DATABASE?sslmode=verify-full, or sqlite:///FILE",
    )
