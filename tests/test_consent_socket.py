"""The consent socket: who speaks is what the kernel says, one bounded request a connection, typed errors come back."""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fedveil_cli.world import SystemClock
from fedveil_common.errors import ConfigError, FedveilError, PolicyRefusal
from fedveil_participant.approval import frames, service
from fedveil_participant.approval.decisions import Person
from fedveil_participant.approval.people import Caller

from tests.consent_house import ALICE, BOB, OWNER, STEWARD, ConsentHouse, Live, digest
from tests.patience import LIMIT_S
from tests.test_consent import TWO, house

# --- the socket -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(home: ConsentHouse, path: Path, uid: int = 990) -> Iterator[service.ConsentService]:
    class Accounts:
        def caller(self, number: int) -> Caller:
            known = {one.person.uid: one for one in (OWNER, ALICE, BOB, STEWARD)}
            return known.get(number, Caller(Person(number, "somebody")))

    defects: list[BaseException] = []
    made = service.ConsentService(path, home.orders, Accounts(), SystemClock(), defects.append, uid_of=lambda _: uid)
    made.start()
    try:
        yield made
    finally:
        made.close()
        assert defects == []


def raw(path: Path, data: bytes) -> dict[str, dict[str, str]]:
    """What is answered to these bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT_S)
        with service._short(path) as short:
            connection.connect(short)
        with contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    assert int.from_bytes(answer[:4], "big") == len(answer) - 4, "one frame"
    found: dict[str, dict[str, str]] = json.loads(answer[4:])
    return found


def frame(value: object) -> bytes:
    body = json.dumps(value).encode() if not isinstance(value, bytes) else value
    return len(body).to_bytes(4, "big") + body


def test_orders_over_the_socket_and_their_errors_come_back_typed(tmp_path: Path) -> None:
    path = tmp_path / ("deep-" * 18) / ("deeper-" * 8) / "consent.sock"
    path.parent.mkdir(parents=True)
    assert len(str(path)) > 108, "longer than a socket's name may be"
    with house(tmp_path, live=Live()) as home, listening(home, path):
        home.offer("r1")
        assert oct(path.stat().st_mode & 0o777) == "0o600"
        found = service.ask(path, {"order": "pending"}, SystemClock(), 20)
        assert found is not None
        assert len(found["pending"]) == 1  # type: ignore[arg-type]
        with pytest.raises(ConfigError) as caught:
            service.ask(path, {"order": "show", "plan_hash": "0" * 64}, SystemClock(), 20)
        assert caught.value.code == "unknown_plan"
        approved = service.ask(path, {"order": "approve", "plan_hash": digest()}, SystemClock(), 20)
        assert approved is not None
        assert approved["approvers"] == ["owner"]
    assert not path.exists()
    assert service.ask(path, {"order": "pending"}, SystemClock(), 20) is None, "nobody listens"


@pytest.mark.parametrize("uid", [1003, 0])
def test_another_account_is_refused_by_what_the_kernel_says(tmp_path: Path, uid: int) -> None:
    path = tmp_path / "consent.sock"
    with house(tmp_path, TWO, Live()) as home, listening(home, path, uid):
        home.offer("r1")
        with pytest.raises(PolicyRefusal) as caught:
            service.ask(path, {"order": "approve", "plan_hash": digest()}, SystemClock(), 20)
        assert (caught.value.code, caught.value.exit_code) == ("not_an_approver", 4)
        found = raw(path, frame({"order": "approve", "plan_hash": digest(), "uid": 1001, "name": "alice"}))
        assert found["error"]["code"] == "bad_request", "a name in the request means nothing"
        assert home.store.standing_consents().approvals == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_frame"),
        (b"\0\0", "bad_frame"),
        (b"GET / HTTP/1.1\r\n\r\n", "bad_frame"),
        (frame(b""), "bad_frame"),
        (frame(b"[]"), "bad_frame"),
        (frame(b"\xff\xfe"), "bad_frame"),
        (frame(b'{"order":"pending","order":"show"}'), "bad_frame"),
        (frame(b'{"order":' + b"[" * 5000 + b"}"), "bad_frame"),
        (frame({"order": "pending"})[:-1], "bad_frame"),
        ((frames.MAX_REQUEST + 1).to_bytes(4, "big") + b"x" * 64, "bad_frame"),
        (b"\xff\xff\xff\xff", "bad_frame"),
        (frame({}), "bad_request"),
        (frame({"order": ["pending"]}), "bad_request"),
        (frame({"order": "__init__"}), "bad_request"),
        (frame({"order": "pending", "caller": 0}), "bad_request"),
        (frame({"order": "approve", "plan_hash": {"x": 1}}), "bad_plan_hash"),
        (frame({"order": "approve", "plan_hash": digest(), "run": 7}), "unknown_offer"),
        (frame({"order": "approve", "plan_hash": digest(), "runs": 1e300, "until_s": 1}), "bad_term"),
        (frame({"order": "approve", "plan_hash": digest(), "runs": 1, "until_s": 1e300}), "bad_term"),
        (frame({"order": "approve", "plan_hash": digest(), "runs": 1, "until_s": 253_402_300_800}), "bad_term"),
        (frame({"order": "deny", "plan_hash": digest(), "reason": "\ud800"}), "bad_frame"),
    ],
)
def test_garbage_is_answered_with_an_error_and_stops_nothing(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "consent.sock"
    with house(tmp_path, live=Live()) as home, listening(home, path):
        home.offer("r1")
        assert raw(path, data)["error"]["code"] == code
        assert service.ask(path, {"order": "pending"}, SystemClock(), 20) is not None
        assert home.store.standing_consents().approvals == ()


def test_a_frame_of_the_largest_size_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "consent.sock"
    empty = len(json.dumps({"order": ""}).encode())
    with house(tmp_path, live=Live()) as home, listening(home, path):
        assert raw(path, frame({"order": "x" * (frames.MAX_REQUEST - empty)}))["error"]["code"] == "bad_request"
        assert raw(path, frame({"order": "x" * (frames.MAX_REQUEST - empty + 1)}))["error"]["code"] == "bad_frame"


class LateClock:
    """Each look at it is a second later."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic_s(self) -> float:
        self.now += 1.0
        return self.now

    def wall_s(self) -> float:
        return self.now


def test_a_request_that_trickles_in_ends() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"\0\0\0\x10" + b"{")
        with pytest.raises(ConfigError) as caught:
            frames.receive(here, 100, 2.5, LateClock())
        assert caught.value.code == "bad_frame"


def test_an_answer_that_is_none_is_an_error() -> None:
    for value in ({}, {"ok": 1}, {"error": "x"}):
        with pytest.raises(ConfigError) as caught:
            frames.answer_of(value)
        assert caught.value.code == "bad_frame"
    with pytest.raises(FedveilError) as strange:
        frames.answer_of({"error": {"code": "x", "exit": 99}})
    assert strange.value.exit_code == 70


def test_what_is_not_wanted_is_read_on_for_a_bounded_time() -> None:
    ours, theirs = socket.socketpair()
    with frames.closing(ours), frames.closing(theirs):
        theirs.sendall(b"x")
        frames.drop_rest(ours, 1.5, LateClock())
        theirs.sendall(b"y")
        ours.setblocking(False)
        assert ours.recv(2) == b"y", "a second of the 1.5 went by with each piece: no other was waited for"


def test_a_file_in_the_place_of_the_socket_is_not_removed(tmp_path: Path) -> None:
    file, link = tmp_path / "precious", tmp_path / "link"
    file.write_text("kept")
    link.symlink_to(file)
    for path in (file, link):
        with pytest.raises(ConfigError) as caught:
            service._listen(path, None)
        assert caught.value.code == "socket_unusable"
    assert (file.read_text(), link.is_symlink()) == ("kept", True)
