"""Rivals R9 and R11 with differential privacy: what travels beside the protected vector, and ledgers that survive.

R9 reads every field of every message that members send in two runs that differ in one member's table alone. R11 is one
federation of real processes that are ended by SIGKILL: a participant between its charge and its upload, the coordinator
once the last sum that the budget allows is open, and then everybody. Nothing expected is computed from what they wrote.
"""

import hashlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from federation import FIVE, RUN, federation, parse, plan_bytes
from fedveil_cli.world import SystemClock, SystemEntropy
from fedveil_common import plan as plans
from fedveil_common import private_sum, wire
from fedveil_common.ids import OrgId
from fedveil_common.messages import ParticipantHello, RevealMessage, SignedBlob
from fedveil_coordinator import facts
from fedveil_coordinator.store import open_store as open_coordinator
from fedveil_participant.stages import Inputting
from fedveil_participant.store import journal_key
from fedveil_participant.store import open_store as open_participant
from private_federation import private_bytes

from tests.processes import NAMES, PRIVATE, House, house

# --- R9 ---------------------------------------------------------------------------------------------------------------

VICTIM = FIVE[2]
OTHER = b"f0,f1,f2,f3,f4,y\n" + b"0.25,0.5,0.125,0.75,1,1\n" * 31
"""Fewer rows than the member has, one label, other values."""

COMMITTED = {"leaf_root": 32, "t3": 32, "sig": 64, "masked_tag": 8}
"""Digests over the masked vector, signatures over those, and its masked check value; of how many bytes."""


def leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Every field in a message, bodies of signed blobs included, by the name of the innermost field."""
    if isinstance(value, SignedBlob):
        yield from leaves("body", wire.parse_body(value.type, value.body))
        yield "signer_id", value.signer_id
        yield "type", value.type
        yield "sig", value.sig
    elif is_dataclass(value):
        for one in fields(value):
            yield from leaves(one.name, getattr(value, one.name))
    elif isinstance(value, tuple):
        yield f"length of {name}", len(value)
        for element in value:
            yield from leaves(name, element)
    else:
        yield name, value


def said(plan: bytes, other: bool) -> list[tuple[OrgId, str, str, object]]:
    """(member, message, field, value) of all that members sent up to the reveals of the first round: what follows from
    its sum differs as the sum does.
    """
    cluster = federation(plan=plan, start=False)
    if other:
        cluster.members[VICTIM].data = {"table": OTHER}
    for org in FIVE:
        cluster.start_member(org)
    cluster.settle()
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    assert cluster.memory.runs[RUN][2] == "finished"
    found: list[tuple[OrgId, str, str, object]] = []
    reveals = 0
    for packet in cluster.sent:
        if not packet.outward and reveals < len(FIVE):
            message = parse(packet)
            reveals += isinstance(message, RevealMessage)
            found += [(packet.org_id, type(message).__name__, *one) for one in leaves("message", message)]
            found.append((packet.org_id, type(message).__name__, "size", len(packet.data)))
    assert reveals == len(FIVE)
    for org, header, data in cluster.uploads[: len(FIVE)]:
        blob = wire.parse_blob(header)
        found += [(org, "upload", *one) for one in leaves("header", blob)]
        found.append((org, "upload", "size", len(data)))
    return found


@pytest.mark.parametrize("private", [True, False], ids=["private", "exact"])
def test_rival_R9_no_field_of_any_message_depends_on_the_table(private: bool) -> None:
    """Rows, labels and values differ; of the same draws, only commitments to the masked vector do."""
    plan = private_bytes(rounds=1) if private else plan_bytes(rounds=1)
    first, second = said(plan, other=False), said(plan, other=True)
    assert [one[:3] for one in first] == [one[:3] for one in second]
    moved = {one[2] for one, two in zip(first, second, strict=True) if one[3] != two[3]}
    assert {"leaf_root", "sig"} <= moved, "the vector was another one"
    assert moved <= set(COMMITTED), "and nothing else was"
    for _, kind, name, value in first:
        assert not isinstance(value, float), (kind, name)
        if name in COMMITTED:
            assert isinstance(value, bytes)
            assert len(value) == COMMITTED[name], (kind, name)
    assert any(kind == ParticipantHello.__name__ for _, kind, _, _ in first), "from its first word on"


# --- R11 --------------------------------------------------------------------------------------------------------------

RECORDING = "tests.recording_participant"
KILLED, ROUND = "borealis", 1


@dataclass
class Story:
    """What was found on the way. `charged`, `header`, `spool`: of the participant killed before its upload."""

    steps: int = 0
    spent: float = 0.0
    run: str = ""
    charged: list[tuple[int, str]] = field(default_factory=list)
    header: bytes = b""
    spool: dict[str, str] = field(default_factory=dict)
    uploaded: list[bytes] = field(default_factory=list)
    exact: dict[int, bool] = field(default_factory=dict)
    offers: int = 0
    codes: tuple[str, str] = ("", "")
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    refused: tuple[int, str] = (0, "")
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def ledger(home: House, org: str) -> list[tuple[int, str]]:
    """(round, kind) of every entry, as the command shows it."""
    entries = home.json("budget", "history", home=org)["entries"]
    return [(one["round"], one["kind"]) for one in entries]


def sums_of(home: House, org: str) -> dict[str, Any]:
    """What a ledger comes to: a member's, or the coordinator's."""
    shown = home.json("budget", "show", home=org)
    return dict(shown["runs"][0]["privacy"] if org == "op" else shown["datasets"][0]["runs"][0])


def spool_of(home: House, org: str) -> dict[str, str]:
    """Digest of each masked input on a participant's disk."""
    folder = home.folder / org / "inputs"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def killed_between_charge_and_upload(home: House, told: Story) -> None:
    process = home.running[KILLED]
    home.until(lambda: process.poll() is not None, "the kill after the charge")
    assert process.poll() == -signal.SIGKILL
    told.charged = ledger(home, KILLED)
    folder = home.folder / KILLED
    store = open_participant(folder, journal_key(folder, None), SystemClock(), SystemEntropy())
    try:
        stage = store.load()
    finally:
        store.close()
    assert isinstance(stage, Inputting)
    told.header = wire.encode_blob(stage.header)
    told.spool = spool_of(home, KILLED)


def everybody_killed(home: House) -> None:
    """The coordinator has ended itself once the last sum was open; the others are ended where they are."""
    process = home.running["coordinator"]
    home.until(lambda: process.poll() is not None, "the kill at the last sum")
    assert process.poll() == -signal.SIGKILL
    for name in NAMES:
        assert home.end(name, signal.SIGKILL) == -signal.SIGKILL


def looked_at(home: House, told: Story) -> None:
    """The coordinator's own journal, which nobody has open."""
    store = open_coordinator(home.folder / "op", SystemClock())
    try:
        found = [facts.decode(kind, body) for kind, body in store.journal.facts(told.run)]  # type: ignore[arg-type]
        told.offers = sum(isinstance(one, facts.Offered) for one in found)
        headers = [one.header for one in found if isinstance(one, facts.InputAccepted)]
        told.uploaded = [wire.encode_blob(one) for one in headers if one.signer_id == KILLED][:ROUND]
        for step in range(told.steps):
            recorded = [
                np.frombuffer((home.folder / name / "recorded" / f"train-{step}.i64").read_bytes(), "<i8")
                for name in NAMES
            ]
            opened = store.journal.read_sum(told.run, step + 1)  # type: ignore[arg-type]
            told.exact[step] = np.array_equal(opened, np.sum(np.stack(recorded), axis=0))
    finally:
        store.close()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    plan = plans.parse_plan(PRIVATE.encode(), "plan.yaml")
    assert plan.privacy is not None
    told = Story(steps=private_sum.steps_allowed(plan, plan.privacy))
    told.spent = private_sum.spent(plan, plan.privacy, told.steps)
    with house(tmp_path_factory.mktemp("house")) as home:
        home.found()
        plan_hash = home.plan(PRIVATE)
        for name in NAMES:
            joined = home.run("join", "-", stdin=home.invite(name), home=name)
            assert joined.returncode == 0, joined.stderr
        home.end("coordinator")
        home.serve({"FEDVEIL_FAILPOINT": f"coordinator.after.SumOpened:{told.steps}"})
        for name in NAMES:
            environment = {"FEDVEIL_FAILPOINT": f"participant.after.input:{ROUND}"} if name == KILLED else {}
            home.participate(name, plan_hash, environment=environment, module=RECORDING)
        home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
        start = ("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt")
        told.run = home.json(*start, "--detach")["run_id"]
        killed_between_charge_and_upload(home, told)
        home.participate(KILLED, plan_hash, module=RECORDING)
        everybody_killed(home)
        told.before = {name: sums_of(home, name) for name in NAMES}
        home.serve()
        for name in NAMES:
            home.participate(name, plan_hash, module=RECORDING)
        home.until(lambda: home.json("run", "show", told.run)["status"] == "ended", "the run's end")
        for name in NAMES:
            home.until(lambda name=name: "run_ended" in home.err(name), f"the model at {name}")  # type: ignore[misc]
        told.codes = ("budget_spent", home.json("run", "show", told.run)["code"])
        told.after = {name: sums_of(home, name) for name in (*NAMES, "op")}
        for name in (*NAMES, "coordinator"):
            home.end(name, signal.SIGKILL)
        looked_at(home, told)
        for name in NAMES:
            limit = ("budget", "set", "visits", "--max-epsilon", "3", "--delta", "1e-5")
            assert home.run(*limit, home=name).returncode == 0
        home.serve()
        for name in NAMES:
            home.participate(name, plan_hash, module=RECORDING)
        home.until(lambda: home.connected() == list(NAMES), "the organisations' return")
        again = home.run(*start)
        told.refused = (again.returncode, again.stderr)
        told.kept = {name: ledger(home, name) for name in NAMES}
    return told


def test_a_participant_killed_between_charge_and_upload_is_charged_once_and_sends_what_it_had_made(
    story: Story,
) -> None:
    """The noise of a value that was charged for is not drawn again: it would be averaged away."""
    assert story.charged == [(ROUND, "reserve")], "charged, and nothing had left"
    assert len(story.spool) > 0, "the input was durable"
    assert story.uploaded == [story.header], "the header commits to every byte of the input, and was accepted once"
    assert story.exact[ROUND - 1], "encoded again or not, what was summed is what was first encoded"


def test_rival_R11_both_ledgers_survive_kill_9_and_refuse_the_next_round(story: Story) -> None:
    assert 1 < story.steps < 40
    assert story.codes == ("budget_spent", "budget_spent")
    assert story.offers == story.steps, "killed and restarted: no round was begun that the budget does not bear"
    for name in NAMES:
        for found in (story.before[name], story.after[name]):  # what is not settled counts in full
            assert (found["settled"] + found["reserved"], found["released"]) == (story.steps, 0)
        assert story.before[name]["epsilon"] == story.after[name]["epsilon"] == story.spent
    assert story.after["op"]["epsilon"] == story.spent
    assert all(story.exact[step] for step in range(story.steps))


def test_rival_R11_after_another_kill_9_the_owners_limit_refuses_another_run(story: Story) -> None:
    code, said_why = story.refused
    assert code == 4
    assert "[budget_spent]" in said_why
    for name in NAMES:
        rounds = [number for number, kind in story.kept[name] if kind == "reserve"]
        assert rounds == list(range(1, story.steps + 1)), "nothing was charged for the run that was refused"
        assert "release" not in [kind for _, kind in story.kept[name]]
