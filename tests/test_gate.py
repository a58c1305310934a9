"""The gate: a closed list of what may leave, written down before it does; reasons in a closed list of codes."""

import ast
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from federation import RUN, THREE, federation, journal, parse, rebuilt, run
from fedveil.v1 import identity_pb2, rounds_pb2
from fedveil_common import gate, limits
from fedveil_common.errors import PeerError
from fedveil_common.gate import UNLABELLED, Bare, Gate, Label, Part, Passage, Whole
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.leafshape import RingShape
from fedveil_common.messages import (
    BlobType,
    PlanAnswer,
    Progress,
    ReceiptNotice,
    Refusal,
    SignedBlob,
)
from fedveil_common.rows import AppendOnlyTable
from fedveil_participant import labels, receipts, upload_frames
from fedveil_participant.reasons import REASONS, reasoned
from fedveil_participant.store import make_journal_key, open_store
from fedveil_participant.store.migrations.versions import checked_sums, first, privacy_ledger
from fedveil_simulation.cluster import Packet
from fedveil_simulation.ports import SeededEntropy, SimulatedClock
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parent.parent
ACME = THREE[0]
KEY = AttemptKey(RUN, 3, 2)


class Outbox:
    """Rows as the gate writes them, and amendments."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, bytes, Label]] = []
        self.amended: list[tuple[int, int]] = []

    def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
        self.rows.append((kind, size_bytes, digest, label))
        return len(self.rows)

    def amend(self, number: int, size_bytes: int) -> None:
        self.amended.append((number, size_bytes))


class Channel:
    """Stubs that hand back what their serialiser makes."""

    def unary_unary(self, path: str, serialise: Callable[[object], bytes], _: None) -> SimpleNamespace:
        return SimpleNamespace(path=path, serialise=serialise)

    stream_stream = unary_stream = unary_unary


def made() -> tuple[Gate, Outbox]:
    outbox = Outbox()
    return Gate(Channel(), outbox), outbox  # type: ignore[arg-type]


# --- the closed list --------------------------------------------------------------------------------------------------


def test_every_call_of_the_protocol_is_listed_and_no_other() -> None:
    """A call that is added to the protocol fails here until somebody decides that a participant makes it."""
    services = (rounds_pb2.DESCRIPTOR.services_by_name, identity_pb2.DESCRIPTOR.services_by_name)
    methods = {
        m.name: f"/{m.containing_service.full_name}/{m.name}"
        for one in services
        for s in one.values()
        for m in s.methods
    }
    assert set(methods) == gate.CALLS
    stubs, _ = made()
    assert {kind: stubs.unary_unary(kind).path for kind in gate.CALLS} == methods  # type: ignore[attr-defined]


def test_every_request_of_the_enrolment_port_is_listed_and_no_other() -> None:
    served = set()
    for name in ("enrollment_http", "renewal_http"):
        text = (ROOT / "coordinator" / "fedveil_coordinator" / f"{name}.py").read_text()
        served |= set(re.findall(r'Route\("(/[^"]+)"', text))
    assert {gate.https(Outbox(), kind, b"")[1] for kind in gate.REQUESTS} == served - {"/healthz", "/health"}
    assert gate.KINDS == gate.CALLS | gate.REQUESTS
    assert not gate.CALLS & gate.REQUESTS


NETWORK = {
    "grpc",
    "http",
    "urllib",
    "requests",
    "socket",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "asyncio",
    "websockets",
}
LINES_OUT = {
    "participant/fedveil_participant/line.py": {"grpc"},  # hands the channel to the gate
    "participant/fedveil_participant/client.py": {"grpc"},  # types and errors of calls
    "participant/fedveil_participant/enrolment_client.py": {"http"},  # `_answer` asks the gate
    "participant/fedveil_participant/enrolment.py": {"http"},  # the type of a connection
    "cli/fedveil_cli/renewing.py": {"grpc"},  # makes the channel that goes into the link
    "cli/fedveil_cli/verifying.py": {"grpc"},  # the same, for `verify`
    "participant/fedveil_participant/approval/service.py": {"socket"},  # AF_UNIX: this machine's people
    "participant/fedveil_participant/approval/frames.py": {"socket"},  # what they say
    "cli/fedveil_cli/doctor_network.py": {"socket"},  # looks whether a port answers, sends nothing over TLS
}
"""Where a participant's side touches the network, and with what."""

OPERATORS = {"admin_client", "certificate_desk", "local_federation", "operator_line", "service_commands", "serving"}
"""Modules that use the network for `serve`, for an operator's commands, for `health` and for the demo."""

STUBS = {"unary_unary", "unary_stream", "stream_unary", "stream_stream"}


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module not in {None, "urllib.parse"} and node.level == 0:
            assert node.module is not None
            found.add(node.module.partition(".")[0])
    return found & NETWORK


def test_nothing_else_of_a_participant_touches_the_network() -> None:
    for root in ("participant", "cli"):
        for path in sorted((ROOT / root).rglob("*.py")):
            name, tree = str(path.relative_to(ROOT)), ast.parse(path.read_text())
            if root == "cli" and path.stem in OPERATORS:
                continue
            assert imports(tree) <= LINES_OUT.get(name, set()), name
            called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            if name != "participant/fedveil_participant/line.py":
                assert not called & STUBS, f"{name} makes stubs of its own"
            if name != "participant/fedveil_participant/enrolment_client.py":
                assert not called & {"getresponse", "putrequest", "urlopen"}, name
    for name in ("service", "frames"):
        local = (ROOT / f"participant/fedveil_participant/approval/{name}.py").read_text()
        assert local.count("socket.socket(") == local.count("socket.socket(socket.AF_UNIX"), name
        assert "create_connection" not in local, name
    source = (ROOT / "participant/fedveil_participant/enrolment_client.py").read_text()
    assert source.count(".request(") == 1
    assert source.index("gate.https(") < source.index(".request("), "on record, then sent"


# --- messages and uploads ---------------------------------------------------------------------------------------------


def test_a_message_is_on_record_before_it_is_serialised() -> None:
    stubs, outbox = made()
    label = Label("vote", KEY)
    assert stubs.stream_stream("Session").serialise(Whole(b"abc", label)) == b"abc"  # type: ignore[attr-defined]
    ((kind, size, digest, said),) = outbox.rows
    assert (kind, size, said) == ("Session", 3, label)
    assert digest.hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2

    class Full(Outbox):
        def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
            raise OSError("the disk is full")

    refusing = Gate(Channel(), Full())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="full"):
        refusing.unary_unary("WhoAmI").serialise(Whole(b""))  # type: ignore[attr-defined]


def test_what_is_not_listed_cannot_be_called() -> None:
    stubs, outbox = made()
    for call in (lambda: stubs.unary_unary("Trust"), lambda: stubs.upload("Upload", b"", 1, UNLABELLED)):
        with pytest.raises(ValueError, match="not a call"):
            call()
    with pytest.raises(ValueError, match="not a request"):
        gate.https(outbox, "Session", b"")
    with pytest.raises(ValueError, match="without a body"):
        gate.https(outbox, "Trust", b"x")
    assert outbox.rows == []
    assert gate.https(outbox, "Join", b"xy") == ("POST", "/join")
    assert outbox.rows[0][:2] == ("Join", 2)


def test_without_an_outbox_only_questions_pass() -> None:
    assert gate.https(Bare(), "Authorities", b"") == ("GET", "/ca.pem")
    with pytest.raises(ValueError, match="no outbox"):
        gate.https(Bare(), "Join", b"x")
    with pytest.raises(ValueError, match="not amended"):
        Bare().amend(0, 1)


def upload(declared: int = 10) -> tuple[Callable[[object], bytes], Passage, Outbox]:
    stubs, outbox = made()
    passage = stubs.upload("SubmitInput", b"ab", declared, Label("input", KEY))
    return stubs.stream_stream("SubmitInput").serialise, passage, outbox  # type: ignore[attr-defined]


def test_an_upload_has_one_row_and_no_byte_more_than_it_says() -> None:
    serialise, passage, outbox = upload()
    assert [row[:2] for row in outbox.rows] == [("SubmitInput", 10)]
    assert serialise(Part(b"ab", passage)) == b"ab"
    assert serialise(Part(b"cdefghij", passage)) == b"cdefghij"
    with pytest.raises(ValueError, match="more than is on record"):
        serialise(Part(b"k", passage))
    passage.end()
    assert (len(outbox.rows), outbox.amended) == (1, [])
    with pytest.raises(ValueError, match="more than is on record"):
        serialise(Part(b"", passage))  # over


def test_an_upload_that_goes_on_or_breaks_off_is_amended() -> None:
    serialise, passage, outbox = upload()
    serialise(Part(b"ab", passage))
    passage.declare(10)
    assert outbox.amended == [], "nothing changed"
    passage.declare(6)
    assert outbox.amended == [(1, 6)], "on record before the first leaf"
    with pytest.raises(ValueError, match="more than is on record"):
        serialise(Part(b"cdefg", passage))
    serialise(Part(b"cd", passage))
    passage.end()
    passage.end()
    assert outbox.amended == [(1, 6), (1, 4)], "what really passed"
    assert len(outbox.rows) == 1


def test_a_frame_of_one_call_does_not_leave_as_another() -> None:
    _, passage, _ = upload()
    stubs, _ = made()
    with pytest.raises(ValueError, match="does not leave as"):
        stubs.stream_stream("Session").serialise(Part(b"a", passage))  # type: ignore[attr-defined]


class Zeros:
    """Leaves of the right size."""

    def __init__(self, shape: RingShape) -> None:
        self.shape, self.leaves = shape, shape.leaves

    def packed(self, index: int) -> bytes:
        return bytes(self.shape.size(index))

    def close(self) -> None: ...


@given(
    length=st.integers(1, 40 * 16_384), bits=st.sampled_from([8, 20, 32, 50]), part=st.floats(0, 1), full=st.booleans()
)
def test_the_size_of_an_upload_is_known_before_it_is_made(length: int, bits: int, part: float, full: bool) -> None:
    source = Zeros(RingShape(length, bits))
    first = source.leaves if full else int(part * source.leaves)
    frames = [upload_frames.leaves(source, *where) for where in upload_frames.ranges(first, source.leaves)]
    assert upload_frames.size(source.shape, first) == sum(map(len, frames))
    parsed = [rounds_pb2.SubmitInputRequest.FromString(frame).leaves for frame in frames]
    assert [one.first + index for one in parsed for index in range(len(one.leaves))] == list(
        range(first, source.leaves)
    )
    assert all(len(one.leaves) <= limits.LEAVES_PER_FRAME for one in parsed)


# --- what is said of a message ----------------------------------------------------------------------------------------


def test_labels_name_message_and_attempt() -> None:
    said = labels.label_of_session(Progress(KEY, _phase()), Label(key=AttemptKey(RUN, 9, 9)))
    assert (said.what, said.key) == ("progress", KEY)
    assert labels.label_of_session(PlanAnswer(bytes(32), True, ""), Label(key=KEY)) == Label("plan_answer")
    assert labels.label_of_round(RUN, 4).key == AttemptKey(RUN, 4, 0)


def _phase() -> Any:
    from fedveil_common.messages import Phase

    return next(iter(Phase))


# --- reasons ----------------------------------------------------------------------------------------------------------


def codes_of(classes: Sequence[str]) -> set[str]:
    """Codes that are made as errors of these classes on a participant's side."""
    found = set()
    for root in ("participant", "common"):
        for path in (ROOT / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                    if name in classes and isinstance(node.args[0].value, str):
                        found.add(node.args[0].value)
    return found


def test_reasons_are_codes_and_none_is_local() -> None:
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", code) for code in REASONS)
    assert not any(character.isdigit() for code in REASONS for character in code), "no counts"
    assert REASONS & codes_of(["LocalRefusal"]) == {"policy_refused"}, "said of a plan on purpose, of a round never"
    assert {"no_update", "consent_pending", "model_spent", "bad_data", "too_few_rows"} <= REASONS


@pytest.mark.parametrize("code", ["rows_83", "mrs_example", "trainer_failed", "Bad Data", "passphrase_wrong"])
def test_what_is_not_listed_is_said_as_no_update(code: str) -> None:
    assert reasoned(Refusal(KEY, code)) == Refusal(KEY, "no_update")
    assert reasoned(PlanAnswer(bytes(32), False, code)) == PlanAnswer(bytes(32), False, "no_update")
    assert reasoned(PlanAnswer(bytes(32), True, "")) == PlanAnswer(bytes(32), True, "")
    for listed in ("model_spent", "bad_data"):
        assert reasoned(Refusal(KEY, listed)) == Refusal(KEY, listed)


# --- receipts ---------------------------------------------------------------------------------------------------------


def test_receipts_of_inputs_and_reveals_are_kept_and_verify() -> None:
    cluster = federation(THREE)
    assert run(cluster) == "finished"
    key = cluster.charter.roster.coordinator_key
    for org in THREE:
        kept = journal(cluster, org).receipts
        assert len(kept) == 2 * 2, "an input and a reveal of each of two sums"
        for receipt, pinned, due in kept:
            assert pinned == key
            receipts.check(receipt, key, due)
        assert len({due for _, _, due in kept}) == len(kept)
        for broken in falsified(kept[0][0]):
            with pytest.raises(PeerError, match="receipt_false"):
                receipts.check(broken, key, kept[0][2])
        with pytest.raises(PeerError, match="receipt_false"):
            receipts.check(kept[0][0], key, kept[1][2])
        with pytest.raises(PeerError, match="receipt_false"):
            receipts.check(kept[0][0], cluster.charter.roster.key_of(org), kept[0][2])


def falsified(receipt: SignedBlob) -> list[SignedBlob]:
    sig = bytes([receipt.sig[0] ^ 1]) + receipt.sig[1:]
    return [
        SignedBlob(receipt.signer_id, receipt.type, receipt.body, sig),
        SignedBlob(ACME, receipt.type, receipt.body, receipt.sig),
        SignedBlob(receipt.signer_id, BlobType.RESULT, receipt.body, receipt.sig),
        SignedBlob(receipt.signer_id, receipt.type, receipt.body + b"\0", receipt.sig),
    ]


def test_a_false_receipt_is_kept_as_evidence_alarms_and_ends_nothing() -> None:
    cluster, told = federation(THREE), []

    def spoil(packet: Packet) -> list[Packet]:
        message = parse(packet)
        if packet.org_id == ACME and packet.outward and isinstance(message, ReceiptNotice):
            return [rebuilt(packet, ReceiptNotice(falsified(message.receipt)[0]))]
        return [packet]

    cluster.route = spoil
    driver = cluster.members[ACME].driver
    assert driver is not None
    driver.listeners.append(lambda kind, facts: told.append((kind, dict(facts).get("code"))))
    assert run(cluster) == "finished"
    assert told.count(("alarm", "receipt_false")) == 2
    assert len(journal(cluster, ACME).receipts) == 4


# --- the schema -------------------------------------------------------------------------------------------------------


def test_an_outbox_of_the_schema_before_is_taken_over(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    key = make_journal_key(home, None, SeededEntropy(1, "key"))
    path = home / "journal.db"
    path.touch(0o600)
    with sqlite3.connect(path) as connection:
        for revision in (first, checked_sums, privacy_ledger):
            for statement in revision.TABLES:
                connection.execute(statement)
        for table in first.APPEND_ONLY:
            for what in ("UPDATE", "DELETE"):
                connection.execute(
                    f"CREATE TRIGGER {table}_refuses_{what.lower()} BEFORE {what} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        connection.execute("CREATE TABLE alembic_version (version_num TEXT NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('0003')")
        connection.executemany(
            "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(seq, 1.5, "Session", 100 + seq, bytes([seq]) * 32, b"d" * 32, b"c" * 32) for seq in range(1, 4)],
        )
    connection.close()
    store = open_store(home, key, SimulatedClock(), SeededEntropy(1, "open"))
    kept = [(one.seq, one.wall_s, one.kind, one.size_bytes, one.digest[0]) for one in store.outbox()]
    assert kept == [(seq, 1.5, "Session", 100 + seq, seq) for seq in range(1, 4)]
    number = store.record("SubmitInput", 50, b"e" * 32, Label("input", KEY, b"due"))
    store.amend(number, 20)
    store.amend(number, 10)
    last = store.outbox()[-1]
    assert (last.seq, last.size_bytes, last.what, last.key, last.awaits, last.receipt) == (
        4,
        10,
        "input",
        KEY,
        b"due",
        None,
    )
    blob = SignedBlob(OrgId("coordinator"), BlobType.RECEIPT, b"body", bytes(64))
    assert not store.keep_receipt(blob, bytes(32), b"other")
    assert not store.keep_receipt(blob, bytes(32), b"")
    assert store.keep_receipt(blob, b"k" * 32, b"due")
    assert not store.keep_receipt(blob, bytes(32), b"due"), "the first stays"
    found = store.outbox()[-1].receipt
    assert found is not None
    assert (found.receipt, found.signer_key) == (blob, b"k" * 32)
    store.close()
    store = open_store(home, key, SimulatedClock(), SeededEntropy(1, "again"))
    assert len(store.outbox()) == 4
    store.close()
    assert AppendOnlyTable("t", "a").columns == ("seq", "a")
