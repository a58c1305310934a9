"""What passes over the consent socket: one request, one answer, each a u32 length (big-endian) and so much JSON.

Promise: nothing is read beyond its bound or its time, and whatever is not exactly one JSON object is refused with a
typed error. Neither side sends a second frame.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping

from fedveil_common import jcs
from fedveil_common.errors import (
    ConfigError,
    FedveilError,
    IntegrityError,
    PolicyRefusal,
    StorageError,
    Unreachable,
)
from fedveil_common.jcs import Json
from fedveil_common.ports import Clock

MAX_REQUEST = 16_384
MAX_ANSWER = 16 * 1024 * 1024
_HEADER = 4

_CLASSES: Mapping[int, type[FedveilError]] = {
    cls.exit_code: cls for cls in (ConfigError, PolicyRefusal, Unreachable, StorageError, IntegrityError)
}


def send(connection: socket.socket, value: Mapping[str, Json]) -> None:
    """One frame. OSError."""
    body = jcs.dumps(value)
    connection.sendall(len(body).to_bytes(_HEADER, "big") + body)


def receive(connection: socket.socket, most: int, limit_s: float, clock: Clock) -> dict[str, Json]:
    """One frame of at most `most` bytes within `limit_s` seconds. ConfigError `bad_frame`; OSError."""
    end = clock.monotonic_s() + limit_s
    size = int.from_bytes(_exactly(connection, _HEADER, end, clock), "big")
    if not 0 < size <= most:
        raise _bad_frame(f"a frame of {size} bytes; 1 to {most} are possible")
    body = _exactly(connection, size, end, clock)
    try:
        value = jcs.loads(body)
        jcs.dumps(value)  # a text that has no UTF-8 form could be stored nowhere
    except ValueError:
        raise _bad_frame("what came is not JSON") from None
    if not isinstance(value, dict):
        raise _bad_frame("what came is no JSON object")
    return value


def drop_rest(connection: socket.socket, limit_s: float, clock: Clock) -> None:
    """Reads on what nobody wants, for `limit_s` seconds in all: what is unread when a socket is closed takes the answer
    with it. OSError.
    """
    connection.shutdown(socket.SHUT_WR)
    end = clock.monotonic_s() + limit_s
    left = 2 * MAX_REQUEST
    while left > 0 and (wait_s := end - clock.monotonic_s()) > 0:
        connection.settimeout(wait_s)
        part = connection.recv(left)
        if not part:
            return
        left -= len(part)


def error_value(error: FedveilError) -> dict[str, Json]:
    """An error as an answer."""
    return {
        "error": {
            "code": error.code,
            "what": error.what,
            "not_done": error.not_done,
            "next": error.next_step,
            "exit": error.exit_code,
        }
    }


def answer_of(value: Mapping[str, Json]) -> dict[str, Json]:
    """The result in an answer; raises the error that stands there instead. ConfigError `bad_frame` for neither."""
    found = value.get("ok")
    if isinstance(found, dict):
        return found
    error = value.get("error")
    if isinstance(error, dict):
        code, what, not_done, following = (str(error.get(key, "")) for key in ("code", "what", "not_done", "next"))
        exit_code = error.get("exit")
        cls = _CLASSES.get(exit_code if isinstance(exit_code, int) else 0, IntegrityError)
        raise cls(code, what, not_done=not_done, next_step=following)
    raise _bad_frame("the participant's answer is neither a result nor an error")


def _exactly(connection: socket.socket, size: int, end: float, clock: Clock) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        left = end - clock.monotonic_s()
        if left <= 0:
            raise _bad_frame("the rest of a frame did not come in time")
        connection.settimeout(left)
        try:
            part = connection.recv(min(size - len(parts), 65_536))
        except TimeoutError:
            raise _bad_frame("the rest of a frame did not come in time") from None
        if not part:
            raise _bad_frame("a frame ends in the middle")
        parts += part
    return bytes(parts)


@contextlib.contextmanager
def closing(connection: socket.socket) -> Iterator[socket.socket]:
    """The connection, closed at the end."""
    try:
        yield connection
    finally:
        connection.close()


def _bad_frame(what: str) -> ConfigError:
    return ConfigError("bad_frame", what, next_step="use the `fedveil` of the same version as the participant")
