"""An organisation's own training code: the same result as the built-in model, and everything a trainer can do wrong.

Each trainer here is a real process. Time is a clock of ours that moves when it is looked at.
"""

import ast
import contextlib
import os
import pathlib
import re
import select
import stat
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from confinements import best
from fedveil_common import initial
from fedveil_common.errors import ConfigError, LocalRefusal, heard
from fedveil_common.plan import Plan, canonical, parse_canonical, parse_plan, plan_hash
from fedveil_participant.data.prepare import Rows
from fedveil_participant.store.trainer_files import TrainerLogs
from fedveil_participant.training import child, code_tree
from fedveil_participant.training.answer import MAX_HEADER, Answer
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.own_trainer import OwnTrainer
from fedveil_participant.training.trainer_config import read_config
from patience import LIMIT_S

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "trainer"
MIB = 1024 * 1024


class LookedAt:
    """A clock that moves by `step_s` each time it is looked at."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now, self.step_s = 0.0, step_s

    def monotonic_s(self) -> float:
        self.now += self.step_s
        return self.now

    def wall_s(self) -> float:
        return self.now


def plan_for(model: str) -> Plan:
    text = (EXAMPLE / "plan.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("model:"))
    text = text.replace(line, f"model: {model}").replace("rounds: 10", "rounds: 1")
    return parse_plan(text.encode(), "plan.yaml")


PLAN = plan_for("{kind: trainer, name: risk, parameters: 4}")
LOGISTIC = plan_for("{kind: logistic}")


def rows(count: int = 200) -> Rows:
    draw = np.random.default_rng(5)
    inputs = draw.normal(size=(count, 3))
    chance = 1 / (1 + np.exp(-(inputs @ np.array([2.0, -1.0, 0.5]) + 0.3)))
    return Rows(inputs, (draw.uniform(size=count) < chance).astype(np.float64))


class Bench:
    """A trainer written for one test, its log, and who may run."""

    def __init__(self, folder: pathlib.Path, body: str, clock: LookedAt | None = None) -> None:
        self.code = folder / "code"
        self.code.mkdir()
        (self.code / "own.py").write_text(textwrap.dedent(body))
        self.config = read_config("risk", config_file(folder))
        self.log = bytearray()
        self.approved = code_tree.digest(self.code)
        self.trainer = OwnTrainer(self.config, best(), self.check, clock or LookedAt(), self.log.extend)

    def check(self, found: bytes) -> None:
        if found != self.approved:
            raise LocalRefusal("trainer_changed", "changed")

    def code_of(self, plan: Plan = PLAN, count: int = 20) -> str:
        before = children()
        with pytest.raises(LocalRefusal) as caught:
            self.trainer.update(plan, initial.initial_model(plan), rows(count))
        assert children() == before
        assert heard(caught.value) == "no_update"
        return caught.value.code


def config_file(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "trainer.toml"
    path.write_text('entry = "own:Own"\ncode = "code"\n')
    return path


def children(pid: int | None = None) -> set[int]:
    """All processes below this one, or below another."""
    found: set[int] = set()
    waiting = [pid or os.getpid()]
    while waiting:
        for path in pathlib.Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            more = {int(text) for text in path.read_text().split()} - found
            found |= more
            waiting += more
    return found


def calls_itself(number: int, below: int | None = None) -> int:
    """Which process below this one (or another) has this number in its own namespace. One whose parent has just ended
    is nobody's child for a moment: looked at again.
    """
    for _ in range(1000):
        for pid in children(below):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                if re.search(rf"(?m)^NSpid:.*\s{number}$", status):
                    return pid
    raise AssertionError(number)


# --- what a trainer is for ------------------------------------------------


def example() -> OwnTrainer:
    config = read_config("risk", EXAMPLE / "trainer.toml")
    return OwnTrainer(config, best(), lambda found: None, LookedAt(), lambda data: None)


def test_the_example_comes_to_the_built_in_model() -> None:
    """One batch: the order of rows does not matter but for rounding. In the end: the same minimum."""
    model, data = initial.initial_model(PLAN), rows()
    assert (model == initial.initial_model(LOGISTIC)).all()
    one = {"batch_size: 16": "batch_size: 100000"}
    whole = [parse_plan(_with(text, one), "p") for text in (canonical_text(PLAN), canonical_text(LOGISTIC))]
    own = example().update(whole[0], model, data)
    built_in = GradientDescent().update(whole[1], model, data)
    assert own == pytest.approx(built_in, abs=1e-12)
    assert np.linalg.norm(own) > 0.1
    outputs = example().outputs(PLAN, model, data.inputs)
    assert outputs == pytest.approx(GradientDescent().outputs(LOGISTIC, model, data.inputs), abs=1e-12)


def canonical_text(plan: Plan) -> str:
    kind = "{kind: logistic}" if plan is LOGISTIC else "{kind: trainer, name: risk, parameters: 4}"
    text = (EXAMPLE / "plan.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("model:"))
    return text.replace(line, f"model: {kind}")


def _with(text: str, changes: dict[str, str]) -> bytes:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text.encode()


def test_the_same_call_gives_the_same_update_and_nothing_without_rows() -> None:
    model, data = initial.initial_model(PLAN), rows(50)
    assert (example().update(PLAN, model, data) == example().update(PLAN, model, data)).all()
    assert (example().update(PLAN, model, Rows(np.zeros((0, 3)), np.zeros(0))) == 0).all()
    assert example().outputs(PLAN, model, np.zeros((0, 3))).shape == (0, 1)


def test_what_a_trainer_gets(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, model, names, the plan's training: no environment, no descriptor and no path of ours; its own folder."""
    monkeypatch.setenv("FEDVEIL_PASSPHRASE_TEST", "hush")
    bench = Bench(
        tmp_path,
        """
        import os, stat, sys, numpy as np
        def kind(fd):
            try:
                mode = os.fstat(fd).st_mode
            except OSError:
                return ""
            return "pipe" if stat.S_ISFIFO(mode) else "file" if stat.S_ISREG(mode) else "other"
        class Own:
            def update(self, job):
                assert job.names == ("a", "b", "site=south") and job.kind == "binary" and job.output_count == 1
                assert job.inputs.shape == (20, 3) and job.target.shape == (20,) and job.model.shape == (4,)
                assert sorted(job.training) == ["batch_size", "learning_rate", "local_epochs", "proximal_mu", "seed"]
                assert (job.training["batch_size"], job.training["learning_rate"]) == (16, 0.5)
                for array in (job.inputs, job.target, job.model):
                    try:
                        array[0] = 1
                    except ValueError:
                        continue
                    raise AssertionError("writable")
                print(dict(os.environ))
                print([found for found in map(kind, range(1024)) if found])
                print(os.listdir("."), sys.argv[1:])
                return np.float32([job.inputs.sum(), job.target.sum(), 0, 1])
        """,
    )
    data = rows(20)
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        found = bench.trainer.update(PLAN, initial.initial_model(PLAN), data)
    finally:
        os.close(kept)
    assert found == pytest.approx([data.inputs.sum(), data.target.sum(), 0, 1], rel=1e-6)
    environment, descriptors, rest = bench.log.decode().splitlines()
    assert ast.literal_eval(environment) == {}
    held = ["file", "file", "other", "pipe", "pipe", "pipe", "pipe"]  # the rows and their mapping, /dev/null, our pipes
    assert sorted(ast.literal_eval(descriptors)) == held
    assert "hush" not in bench.log.decode()
    assert rest.startswith("[] [")
    assert str(tmp_path) not in rest


# --- everything a trainer can do wrong ------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return [0.0, 0.0, 0.0, 1.0]", ""),  # the honest one
        ("raise ValueError('PatientName')", "trainer_failed"),
        ("import os; os._exit(0)", "trainer_crashed"),
        ("import os; os.kill(os.getpid(), 11)", "trainer_crashed"),
        ("return np.zeros(5)", "trainer_answer"),
        ("return np.zeros((2, 2))", "trainer_answer"),
        ("return np.zeros((4, 1))", "trainer_answer"),
        ("return np.zeros(40_000_000)", "trainer_answer"),
        ("return np.array([0, 0, np.nan, 0])", "trainer_not_finite"),
        ("return np.array([0, 0, 0, np.inf], dtype=np.float32)", "trainer_not_finite"),
        ("return np.array([0, 0, 0, 1e300 * 1e300])", "trainer_not_finite"),
        ("return None", "trainer_failed"),
        ("return 'PatientName'", "trainer_failed"),
        ("return np.zeros(3_000_000_000)", "trainer_failed"),  # more memory than its limit
    ],
)
def test_a_trainer_that_errs_is_out_with_a_reason(tmp_path: pathlib.Path, body: str, code: str) -> None:
    bench = Bench(tmp_path, f"import numpy as np\nclass Own:\n    def update(self, job):\n        {body}\n")
    if not code:
        assert bench.trainer.update(PLAN, initial.initial_model(PLAN), rows(20)).tolist() == [0, 0, 0, 1]
        return
    assert bench.code_of() == code
    if "PatientName" in body and "raise" in body:
        assert b"PatientName" in bench.log


def raw(text: str) -> str:
    """A trainer that writes to the answer's descriptor itself."""
    return f"""
    import json, os, struct
    class Own:
        def update(self, job):
            def frame(header, data=b""):
                text = header if isinstance(header, bytes) else json.dumps(header).encode()
                os.write(job._out, struct.pack(">I", len(text)) + text + data)
            {text}
            os._exit(0)
    """


GOOD_FRAME = '{"kind": "answer", "name": "update", "dtype": "<f8", "shape": [4]}'


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (f"frame({GOOD_FRAME}, bytes(32))", ""),
        (f"frame({GOOD_FRAME}, bytes(31))", "trainer_crashed"),
        ('os.write(job._out, struct.pack(">I", 2**32 - 1))', "trainer_answer"),
        (f'os.write(job._out, struct.pack(">I", {MAX_HEADER + 1}))', "trainer_answer"),
        ('os.write(job._out, struct.pack(">I", 0))', "trainer_answer"),
        ('os.write(job._out, b"print")', "trainer_answer"),
        ('frame(b"[" * 60000)', "trainer_answer"),
        ('frame(b"9" * 60000)', "trainer_answer"),
        ("frame([])", "trainer_answer"),
        ('frame({"kind": "answer", "name": "update", "dtype": "<f8", "shape": [2**62]})', "trainer_answer"),
        ('frame({"kind": "answer", "name": "update", "dtype": "<f8", "shape": [-1]})', "trainer_answer"),
        ('frame({"kind": "answer", "name": "update", "dtype": "O", "shape": [4]})', "trainer_answer"),
        ('frame({"kind": "answer", "name": "update", "dtype": ["<f8"], "shape": [4]})', "trainer_answer"),
        ('frame({"kind": "answer", "name": "outputs", "dtype": "<f8", "shape": [4]})', "trainer_answer"),
        (
            'frame({"kind": "answer", "name": "update", "dtype": "<f8", "shape": [4], "metrics": {"auc": 1}})',
            "trainer_answer",
        ),
        ('frame({"kind": "progress", "note": "PatientName"})', "trainer_answer"),
    ],
)
def test_frames_are_believed_in_nothing(tmp_path: pathlib.Path, body: str, code: str) -> None:
    bench = Bench(tmp_path, raw(body))
    if not code:
        assert bench.trainer.update(PLAN, initial.initial_model(PLAN), rows(20)).tolist() == [0, 0, 0, 0]
        return
    assert bench.code_of() == code


def test_no_memory_is_given_to_an_answer_before_its_shape_is_right() -> None:
    """At no time may more be read than the frame in hand is known to have; an announced terabyte is refused unread."""
    taken = Answer("risk", "update", (4,))
    assert taken.wanted == 4
    taken.take((20).to_bytes(4, "big"))
    assert taken.wanted == 20
    taken.take(b'{"kind": "progress"}')
    assert (taken.wanted, taken.signs) == (4, 1)
    with pytest.raises(LocalRefusal):
        taken.take((10**9).to_bytes(4, "big"))


def test_a_trainer_that_hangs_is_ended_with_all_that_it_started(tmp_path: pathlib.Path) -> None:
    """Grandchildren that left its group and session, and were orphaned, too."""
    bench = Bench(
        tmp_path,
        """
        import os, signal, subprocess, sys, time
        class Own:
            def update(self, job):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                if not os.fork():
                    os.setsid()
                    if os.fork():
                        os._exit(0)
                    print("orphan", os.getpid(), flush=True)
                    time.sleep(1000)
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
                time.sleep(1000)
        """,
        clock := LookedAt(),
    )
    orphans: list[int] = []

    def log(data: bytes) -> None:
        bench.log.extend(data)
        if not bench.log.endswith(b"\n"):
            return  # what is printed comes in pieces
        orphans.append(calls_itself(int(bench.log.split()[1])))
        clock.step_s = 50.0  # from now on time passes, and nothing more is said

    bench.trainer = OwnTrainer(bench.config, best(), bench.check, clock, log)
    assert bench.code_of() == "trainer_silent"
    (orphan,) = orphans
    assert bench.log.startswith(b"orphan")
    assert not pathlib.Path(f"/proc/{orphan}").exists()


DYING = """
import sys
from fedveil_common import initial
from test_own_trainers import PLAN, LookedAt, best, pathlib, read_config, rows, OwnTrainer

config = read_config("risk", pathlib.Path(sys.argv[1]))
tell = lambda data: print(data.decode(), flush=True)
OwnTrainer(config, best(), lambda found: None, LookedAt(), tell).update(PLAN, initial.initial_model(PLAN), rows(20))
"""


def test_a_trainer_does_not_outlive_a_participant_that_was_killed(tmp_path: pathlib.Path) -> None:
    bench = Bench(
        tmp_path,
        """
        import os, time
        class Own:
            def update(self, job):
                print(os.getpid(), flush=True)
                time.sleep(1000)
        """,
    )
    script = [sys.executable, "-c", DYING, str(config_file(tmp_path))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(script, stdout=subprocess.PIPE, env=environment) as participant:
        assert participant.stdout is not None
        number = int(participant.stdout.readline())
        trainer = os.pidfd_open(calls_itself(number, participant.pid))
        try:
            assert not select.select([trainer], [], [], 0)[0]  # it runs
            participant.kill()
            assert select.select([trainer], [], [], LIMIT_S)[0] == [trainer]
        finally:
            participant.kill()
            os.close(trainer)
    assert bench.log == b""


def test_progress_keeps_a_trainer_alive_and_the_hard_limit_ends_it(tmp_path: pathlib.Path) -> None:
    short = replace(PLAN, cohort=replace(PLAN.cohort, hard_limit_s=600.0))
    body = """
    class Own:
        def update(self, job):
            print("at work", flush=True)
            while True:
                job.progress()
    """
    clock = LookedAt()
    bench = Bench(tmp_path, body)

    def log(data: bytes) -> None:
        clock.step_s = 0.5  # of progress_s between two looks, and no end

    bench.trainer = OwnTrainer(bench.config, best(), bench.check, clock, log)
    assert bench.code_of(short) == "trainer_too_slow"
    assert clock.now > short.cohort.hard_limit_s


def test_what_it_prints_is_kept_up_to_a_limit_and_holds_nobody_up(tmp_path: pathlib.Path) -> None:
    bench = Bench(
        tmp_path,
        """
        import sys, numpy as np
        class Own:
            def update(self, job):
                for _ in range(64):
                    sys.stdout.write("out" * 20_000)
                    sys.stderr.write("err" * 20_000)
                return np.zeros(4)
        """,
    )
    assert (bench.trainer.update(PLAN, initial.initial_model(PLAN), rows(20)) == 0).all()
    assert len(bench.log) == child.LOG_BYTES


# --- its code ------------------------------------------------


def test_code_that_changed_does_not_run(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, "import numpy as np\nclass Own:\n    def update(self, job):\n        return np.zeros(4)\n")
    assert (bench.trainer.update(PLAN, initial.initial_model(PLAN), rows(20)) == 0).all()
    with (bench.code / "own.py").open("a") as stream:
        stream.write("print('new code ran')\n")
    assert bench.code_of() == "trainer_changed"
    assert b"new code ran" not in bench.log
    bench.check = lambda found: None  # type: ignore[method-assign]  # without this check it would run
    bench.trainer = OwnTrainer(bench.config, best(), bench.check, LookedAt(), bench.log.extend)
    bench.trainer.update(PLAN, initial.initial_model(PLAN), rows(20))
    assert b"new code ran" in bench.log


def test_logs_are_for_the_owner_and_have_an_end(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedveil_participant.store.trainer_files.LOG_FILE_BYTES", 10)
    logs = TrainerLogs(tmp_path)
    for text in (b"one", b"two", b"three3", b"four"):
        logs.write("risk", text)
    path = tmp_path / "trainers" / "risk.log"
    assert (path.read_bytes(), path.with_suffix(".log.1").read_bytes()) == (b"three3four", b"onetwo")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- its description ------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "entry = 'own:Own'",
        "code = 'code'",
        "entry = 'own'\ncode = 'code'",
        "entry = 'own:Own; import os'\ncode = 'code'",
        "entry = 'own:Own'\ncode = 'none'",
        "entry = 'own:Own'\ncode = 'code'\npython = 'python3'",
        "entry = 'own:Own'\ncode = 'code'\npython = '/no/such/python'",
        "entry = 'own:Own'\ncode = 'code'\nmemory_mib = true",
        "entry = 'own:Own'\ncode = 'code'\nmemory_mib = 1",
        "entry = 'own:Own'\ncode = 'code'\nshell = 'sh'",
        "entry: own:Own",
    ],
)
def test_a_description_is_understood_or_refused(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "code").mkdir()
    good = read_config("risk", config_file(tmp_path))
    assert (good.entry, good.code, good.memory_bytes) == ("own:Own", tmp_path / "code", 8192 * MIB)
    (tmp_path / "trainer.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config("risk", tmp_path / "trainer.toml")
    assert caught.value.code == "trainer_config"


# --- the plan ------------------------------------------------


def test_a_plan_names_a_trainer_and_how_many_parameters_it_has() -> None:
    assert parse_canonical(canonical(PLAN)) == PLAN
    assert (PLAN.model.trainer, PLAN.model.parameters) == ("risk", 4)
    assert b'"l2"' not in canonical(PLAN)
    assert plan_hash(canonical(PLAN)) != plan_hash(canonical(plan_for("{kind: trainer, name: other, parameters: 4}")))


@pytest.mark.parametrize(
    "model",
    [
        "{kind: trainer, name: risk}",
        "{kind: trainer, parameters: 4}",
        "{kind: trainer, name: Risk!, parameters: 4}",
        "{kind: trainer, name: risk, parameters: 0}",
        "{kind: trainer, name: risk, parameters: 4, l2: 0.1}",
        "{kind: trainer, name: risk, parameters: 4, entry: 'os:system'}",
        "{kind: logistic, parameters: 4}",
    ],
)
def test_a_plan_says_nothing_else_of_a_trainer(model: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_for(model)
    assert caught.value.code == "bad_plan"
