"""A PostgreSQL server of the tests' own: a new cluster in a temporary folder, on a loopback address, ended by its id.

It runs as an ordinary user, because PostgreSQL refuses to run as root: this one, or `postgres` (of Debian's package)
where the tests are root. Durability is turned off; nothing in it outlives the test.
"""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from berths import free_port

USER, PASSWORD = "postgres", "server's own password"
LIMIT_S = 180


@dataclass
class Server:
    """A running server. `admin` connects as its superuser."""

    folder: pathlib.Path
    port: int
    process: "subprocess.Popen[bytes]"

    def admin(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(
            host=str(self.folder), port=self.port, user=USER, dbname=USER, password=PASSWORD, autocommit=True
        )

    def url(self, role: str, database: str, *, tcp: bool = False) -> str:
        """Without a password, as a person would write it."""
        if tcp:
            return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"
        return f"postgresql://{role}@/{database}?host={self.folder}&port={self.port}"

    def stop(self) -> None:
        """At once, as when the power goes: its sessions end too."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(timeout=LIMIT_S)


def programs() -> pathlib.Path:
    """Where Debian keeps the server's programs, or where PATH has them."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    named = shutil.which("initdb")
    assert named is not None, "PostgreSQL is not installed: .ci/run installs Debian's package"
    return pathlib.Path(named).resolve().parent


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server that is gone afterwards, with its folder."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pg-"))
    account = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    os.chown(folder, account.pw_uid, account.pw_gid)
    as_user = {"user": account.pw_uid, "group": account.pw_gid} if os.getuid() == 0 else {}
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    password = folder / "password"
    password.write_text(PASSWORD)
    os.chown(password, account.pw_uid, account.pw_gid)
    made: Server | None = None
    try:
        subprocess.run(
            [programs() / "initdb", "-D", folder / "data", "-U", USER, "-A", "scram-sha-256", "--no-sync",
             "--pwfile", password, "-E", "UTF8"],
            check=True, capture_output=True, timeout=LIMIT_S, env=environment, cwd=folder, **as_user,
        )  # fmt: skip
        port = free_port()
        settings = {
            "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off",
            "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "16MB", "max_connections": 20,
            "autovacuum": "off", "wal_level": "minimal", "max_wal_senders": 0,
        }  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs() / "postgres", "-D", folder / "data",
                 *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True,
                **as_user,
            )  # fmt: skip
        made = Server(folder, port, process)
        done = subprocess.run(
            [programs() / "pg_isready", "-q", "-h", folder, "-p", str(port), "-t", str(LIMIT_S)],
            check=False,
            timeout=LIMIT_S,
        )
        while done.returncode != 0:
            assert process.poll() is None, (folder / "log").read_text()
            done = subprocess.run(
                [programs() / "pg_isready", "-q", "-h", folder, "-p", str(port), "-t", str(LIMIT_S)],
                check=False,
                timeout=LIMIT_S,
            )
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)
