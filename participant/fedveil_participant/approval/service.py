"""The consent socket of a participant that runs: a Unix socket, on which its people's commands speak to it.

Promise: who speaks is what the kernel says of the other end; one request a connection, bounded in size and time; what
goes wrong with one connection ends that connection. Nothing but the orders of `orders` can be asked here.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from fedveil_common.errors import ConfigError, FedveilError, Unreachable
from fedveil_common.ids import RunId
from fedveil_common.jcs import Json
from fedveil_common.ports import Clock

from fedveil_participant.approval import frames
from fedveil_participant.approval.orders import Orders
from fedveil_participant.approval.people import Accounts
from fedveil_participant.driver import Driver

FILE = "consent.sock"
REQUEST_S = 5.0
"""How long a request may take to arrive."""

DRIVER_S = 60.0
"""How long the driver may take to hear of an order: it may be writing to a slow disk."""

_CREDENTIALS = struct.Struct("3i")

T = TypeVar("T")

UidOf = Callable[[socket.socket], int]


def peer_uid(connection: socket.socket) -> int:
    """The account at the other end, by the kernel. OSError."""
    size = _CREDENTIALS.size
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


class LiveDriver:
    """`orders.Live` of a driver that serves."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def reconsider(self, plan_hash: bytes) -> None:
        """Answered again before this returns."""
        self._ask(lambda: self._driver.answers.reconsider(plan_hash))

    def withdraw(self, plan_hash: bytes, code: str) -> Mapping[RunId, int]:
        """No input of it is made once this returned."""
        return self._ask(lambda: self._driver.answers.withdraw(plan_hash, code))

    def hold_changed(self) -> None:
        """No input is made once this returned, if inputs are held back."""
        self._ask(self._driver.answers.refresh_hold)

    def leave(self) -> None:
        """The driver ends when its attempt has."""
        self._ask(self._driver.answers.leave)

    def _ask(self, work: Callable[[], T]) -> T:
        """`work` on the driver's thread. Unreachable `participant_stopping`."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except FedveilError as error:
                done.set_exception(error)

        self._driver.call(run)
        try:
            return done.result(timeout=DRIVER_S)
        except TimeoutError:
            raise Unreachable(
                "participant_stopping",
                "the participant did not take the order in: it ends, or its disk is slow",
                not_done="what was written counts from its next start",
                next_step="fedveil pending",
            ) from None


class ConsentService:
    """The socket and its thread. `gid`: the group that may connect besides the owner; None: the owner alone."""

    def __init__(
        self,
        path: Path,
        orders: Orders,
        accounts: Accounts,
        clock: Clock,
        on_defect: Callable[[BaseException], None],
        gid: int | None = None,
        uid_of: UidOf = peer_uid,
    ) -> None:
        self._orders = orders
        self._accounts = accounts
        self._clock = clock
        self._on_defect = on_defect
        self._uid_of = uid_of
        self._path = path
        self._listener = _listen(path, gid)
        self._thread = threading.Thread(target=self._serve, name="fedveil-consent", daemon=True)

    def start(self) -> None:
        """Requests are answered from now on."""
        self._thread.start()

    def close(self) -> None:
        """No further request is taken; the socket is gone."""
        with contextlib.suppress(OSError):  # of a listener that nobody ever connected to
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(REQUEST_S)
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        try:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return  # closed
                with frames.closing(connection):
                    self._answer(connection)
        except BaseException as error:  # noqa: BLE001 - the last resort of this thread
            self._on_defect(error)

    def _answer(self, connection: socket.socket) -> None:
        try:
            found: dict[str, Json]
            try:
                caller = self._accounts.caller(self._uid_of(connection))
                request = frames.receive(connection, frames.MAX_REQUEST, REQUEST_S, self._clock)
                found = {"ok": self._orders.carry_out(request, caller)}
            except FedveilError as error:
                found = frames.error_value(error)
            connection.settimeout(REQUEST_S)
            frames.send(connection, found)
            if "error" in found:
                frames.drop_rest(connection, REQUEST_S, self._clock)
        except OSError:
            return  # who asked is gone: the order is carried out, its answer is lost


def _listen(path: Path, gid: int | None) -> socket.socket:
    """A socket that only its owner, and the group `gid`, may connect to. Hold the `FolderLock` of the home: a socket
    that is there was left by a process that is gone. ConfigError `socket_unusable`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        _remove_left_over(path)
        with _short(path) as short:
            listener.bind(short)
        if gid is not None:
            os.chown(path, -1, gid)
            path.chmod(0o660)
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise ConfigError(
            "socket_unusable",
            f"{path} cannot be made: {error.strerror or type(error).__name__}",
            not_done="the participant was not started",
            next_step="--consent-socket PATH names another place; the approvers' group must be one of the account's",
        ) from error
    finally:
        os.umask(before)
    return listener


def _remove_left_over(path: Path) -> None:
    """OSError for what is no socket: that is somebody's file."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
        path.unlink()


def ask(path: Path, request: Mapping[str, Json], clock: Clock, limit_s: float) -> dict[str, Json] | None:
    """The answer of the participant whose socket is at `path`; None if nobody listens there. Raises what it answers;
    ConfigError `socket_forbidden`, `bad_frame`.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with frames.closing(connection):
        try:
            with _short(path) as short:
                connection.connect(short)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise ConfigError(
                "socket_forbidden",
                f"this account may not speak to the participant at {path}",
                next_step="who may approve stands in the policy; its group must be the socket's",
            ) from error
        frames.send(connection, request)
        return frames.answer_of(frames.receive(connection, frames.MAX_ANSWER, limit_s, clock))


class _short:
    """A path for `bind` and `connect`, which take 107 bytes at most: by the folder's descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)
