"""Own training code under a plan that protects single records: the built-in sums, and everything code can do wrong.

Each trainer here is a real process. What a record moves is measured on the sums that leave the clipping.
"""

import pathlib
import textwrap

import numpy as np
import pytest
from confinements import best
from fedveil_common import private_sum
from fedveil_common.dp import budget
from fedveil_common.errors import ConfigError, LocalRefusal, heard
from fedveil_common.ids import RunId
from fedveil_common.messages import PlanAnswer
from fedveil_common.plan import Plan, PrivacySpec, canonical, parse_plan
from fedveil_common.secret import Seed
from fedveil_participant.data.prepare import Rows
from fedveil_participant.training import clipped, row_probe
from fedveil_participant.training.answer import Answers
from fedveil_participant.training.clipped import clipped_sum
from fedveil_participant.training.own_trainer import MemoryApprovals, OwnTrainer, TrainerConfig, Trainers
from fedveil_participant.training.row_probe import RowProbe
from fedveil_participant.training.trainer_config import read_config
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster
from numpy.typing import NDArray
from test_own_trainers import EXAMPLE, LookedAt, config_file
from test_trainers_in_a_federation import ORGS, good, said, tables

TEXT = (EXAMPLE / "private_plan.yaml").read_text()
SECRET = Seed(b"s" * 32)


def plan_of(*changes: tuple[str, str]) -> Plan:
    """The example's plan with changes to its text."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_plan(text.encode(), "private_plan.yaml")


MODEL_LINE = next(line for line in TEXT.splitlines() if line.startswith("model:"))
PLAN, LOGISTIC = plan_of(), plan_of((MODEL_LINE, "model: {kind: logistic}"))
assert PLAN.privacy is not None
PRIVACY: PrivacySpec = PLAN.privacy
MODEL = np.array([0.5, -1.0, 0.25, 0.1], dtype=np.float32)


def everyone() -> tuple[Plan, PrivacySpec]:
    """The same without sampling."""
    plan = plan_of(("sample_rate: 0.5", "sample_rate: 1.0"))
    assert plan.privacy is not None
    return plan, plan.privacy


def rows(count: int = 200, persons: int = 0) -> Rows:
    draw = np.random.default_rng(3)
    labels = draw.integers(0, persons, count).astype(np.uint64) if persons else None
    return Rows(draw.uniform(-1, 1, (count, 3)), draw.integers(0, 2, count).astype(np.float64), labels)


def own(folder: pathlib.Path, body: str, log: bytearray | None = None, at_once: int = 0) -> OwnTrainer:
    """A trainer with this class body."""
    (folder / "code").mkdir()
    lines = ["import numpy as np", "class Own:", textwrap.indent(textwrap.dedent(body), "    ")]
    (folder / "code" / "own.py").write_text("\n".join(lines))
    config = read_config("risk", config_file(folder))
    config = TrainerConfig(config.name, config.python, config.entry, config.code, config.memory_bytes, at_once)
    kept = bytearray() if log is None else log
    return OwnTrainer(config, best(), lambda found: None, LookedAt(), kept.extend)


def example(at_once: int = 0) -> OwnTrainer:
    found = read_config("risk", EXAMPLE / "trainer.toml")
    config = TrainerConfig(found.name, found.python, found.entry, found.code, found.memory_bytes, at_once)
    return OwnTrainer(config, best(), lambda found: None, LookedAt(), lambda data: None)


def refused(trainer: OwnTrainer, data: Rows, plan: Plan = PLAN) -> str:
    """The code with which a step is refused; the coordinator hears the same whatever it is."""
    with pytest.raises(LocalRefusal) as caught:
        clipped_sum(plan, PRIVACY, MODEL, data, SECRET, trainer)
    assert heard(caught.value) == "no_update"
    return caught.value.code


# --- the same sums ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persons", [0, 40], ids=["records", "persons"])
@pytest.mark.parametrize("at_once", [0, 1, 7])
def test_the_example_gives_the_private_sums_of_the_built_in_model(
    at_once: int, persons: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, whatever the chunks: the participant samples, clips and rounds, the code only says each slope."""
    data = rows(80, persons)
    built_in = clipped_sum(LOGISTIC, PRIVACY, MODEL, data, SECRET)
    monkeypatch.setattr(clipped, "AT_ONCE", 12 * len(MODEL))
    own_sum = clipped_sum(PLAN, PRIVACY, MODEL, data, SECRET, example(at_once))
    np.testing.assert_array_equal(own_sum, built_in)
    assert np.count_nonzero(built_in) == len(MODEL)


def test_an_empty_sample_is_zeros() -> None:
    assert not clipped_sum(PLAN, PRIVACY, MODEL, rows(0), SECRET, example()).any()


def test_gradients_come_one_chunk_at_a_time() -> None:
    """What is held is one chunk, and no byte of the next is asked for before it is passed on."""
    seen: list[NDArray[np.float64]] = []
    answers = Answers("risk", "gradients", [(2, 3), (1, 3)], seen.append)
    for shape in ((2, 3), (1, 3)):
        numbers = np.full(shape, np.nan).astype("<f8").tobytes()
        header = f'{{"kind":"answer","name":"gradients","dtype":"<f8","shape":[{shape[0]},3]}}'.encode()
        frame = len(header).to_bytes(4, "big") + header + numbers
        before, signs = len(seen), answers.signs
        while frame and len(seen) == before:
            assert answers.wanted <= max(8 * 6, len(header))
            data, frame = frame[: answers.wanted], frame[answers.wanted :]
            answers.take(data)
        assert frame == b""
        assert answers.signs > signs
    assert [one.shape for one in seen] == [(2, 3), (1, 3)]
    assert answers.complete


def test_more_numbers_than_were_asked_for_are_not_taken_in() -> None:
    answers = Answers("risk", "gradients", [(2, 3)], lambda values: None)
    header = b'{"kind":"answer","name":"gradients","dtype":"<f8","shape":[200000,3]}'
    answers.take(len(header).to_bytes(4, "big"))
    with pytest.raises(LocalRefusal) as caught:
        answers.take(header)
    assert caught.value.code == "trainer_answer"


# --- what a trainer lacks or gets wrong -------------------------------------------------------------------------------

HONEST = """
def gradients(self, job):
    error = np.tanh(job.inputs @ job.model[:-1] + job.model[-1]) - job.target
    return np.concatenate([error[:, None] * job.inputs, error[:, None]], axis=1)
"""
NORMALISED = HONEST.replace(
    "def gradients(self, job):", "def gradients(self, job):\n    mean = job.inputs.mean(axis=0)"
).replace("job.inputs @", "(job.inputs - mean) @")
STATE = HONEST.replace(
    "def gradients(self, job):",
    "seen = 0\ndef gradients(self, job):\n    self.seen += len(job.inputs)",
).replace("- job.target", "- job.target / self.seen")
WRONG = {
    "none": ("def update(self, job):\n    return np.zeros(4)", "trainer_without_gradients"),
    "mean of the chunk": (NORMALISED, "trainer_mixes_rows"),
    "state between chunks": (STATE, "trainer_mixes_rows"),
    "one for all": (
        "def gradients(self, job):\n    return np.repeat(job.inputs.mean(axis=0, keepdims=True), len(job.inputs), 0)"
        " @ np.ones((3, 4))",
        "trainer_mixes_rows",
    ),
    "summed": ("def gradients(self, job):\n    return np.zeros(4)", "trainer_failed"),
    "an error": ("def gradients(self, job):\n    raise ValueError", "trainer_failed"),
    "words": ("def gradients(self, job):\n    return np.full((len(job.inputs), 4), 'x')", "trainer_failed"),
    "death": ("def gradients(self, job):\n    import os; os._exit(3)", "trainer_crashed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_code_that_cannot_be_private_is_refused_whatever_the_rows(tmp_path: pathlib.Path, what: str) -> None:
    """With no row, with ordinary ones and with absurd ones: what decides is the code."""
    body, code = WRONG[what]
    trainer = own(tmp_path, body)
    absurd = Rows(np.full((5, 3), 1e300), np.zeros(5))
    assert [refused(trainer, data) for data in (rows(0), rows(20), absurd)] == [code] * 3


@pytest.mark.parametrize("what", ["none", "mean of the chunk", "an error"])
def test_it_is_refused_when_the_plan_is_accepted(tmp_path: pathlib.Path, what: str) -> None:
    own(tmp_path, WRONG[what][0])
    configs = {"risk": (read_config("risk", config_file(tmp_path)), best())}
    trainers = Trainers(configs, MemoryApprovals(), LookedAt(), lambda name, data: None)
    with pytest.raises(LocalRefusal) as caught:
        trainers.accept(PLAN)
    assert caught.value.code == WRONG[what][1]
    whole = (
        ("unit: record, rows: 600,", "unit: participant,"),
        ("sample_rate: 0.5, target_epsilon: 4.0", "noise_multiplier: 90.0"),
    )
    trainers.accept(plan_of(*whole))  # there the code trains as ever


def test_what_mixes_rows_would_break_the_bound_on_one_record(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check one record moves the sum by far more than is charged for; an honest trainer's does not."""
    whole, privacy = everyone()
    bound = private_sum.grid(whole, privacy).sensitivity
    data = rows(60)
    loud = Rows(np.concatenate([data.inputs, np.full((1, 3), 500.0)]), np.append(data.target, 1.0))
    moved = {}
    for name, body in (("honest", HONEST), ("mixed", NORMALISED)):
        (tmp_path / name).mkdir()
        trainer = own(tmp_path / name, body)
        if name == "mixed":
            monkeypatch.setattr(row_probe.RowProbe, "check", lambda *_: None)
        sums = [clipped_sum(whole, privacy, MODEL, one, SECRET, trainer) for one in (data, loud)]
        moved[name] = float(np.linalg.norm((sums[1] - sums[0]).astype(np.float64)))
    assert moved["honest"] <= bound < moved["mixed"] / 3


# --- records that the code cannot bear --------------------------------------------------------------------------------


FAILING = {
    "an error": HONEST.replace(
        ":\n", ":\n    if job.inputs.max() > 10:\n        raise ValueError(job.inputs.max())\n", 1
    ),
    "infinity": HONEST.replace("axis=1)", "axis=1) + np.where(job.inputs.max(axis=1) > 10, np.inf, 0)[:, None]"),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_record_that_fails_counts_as_0_and_moves_no_other(tmp_path: pathlib.Path, what: str) -> None:
    """D8: neither a refusal nor another record's gradient tells that it is there; why is in the log at home."""
    log = bytearray()
    trainer = own(tmp_path, FAILING[what], log)
    data = rows(30)
    plan, privacy = everyone()
    bad = Rows(np.concatenate([data.inputs, np.full((1, 3), 11.0)]), np.append(data.target, 1.0))
    sums = [clipped_sum(plan, privacy, MODEL, one, SECRET, trainer) for one in (data, bad)]
    np.testing.assert_array_equal(sums[0], sums[1])
    assert sums[0].any()
    assert (b"ValueError" in log) is (what == "an error")


def test_a_gradient_of_any_size_moves_the_sum_by_the_clip_norm(tmp_path: pathlib.Path) -> None:
    trainer = own(tmp_path, HONEST.replace("- job.target", "* 1e100 + job.target"))
    plan, privacy = everyone()
    found = clipped_sum(plan, privacy, MODEL, rows(1), SECRET, trainer)
    bound = private_sum.grid(plan, privacy).sensitivity
    assert 0.99 * bound < np.linalg.norm(found.astype(np.float64)) <= bound


# --- the probe --------------------------------------------------------------------------------------------------------


def answered(probe: RowProbe, each: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [each[chunk].copy() for chunk in probe.chunks]


@pytest.mark.parametrize("chunk", range(row_probe.ROWS + 2))
@pytest.mark.parametrize("off", [1e-3, np.nan])
def test_the_probe_sees_one_number_off_in_any_chunk(chunk: int, off: float) -> None:
    probe = RowProbe.drawn(PLAN, b"k" * 32)
    each = np.random.default_rng(1).normal(size=(row_probe.ROWS, 4))
    probe.check(answered(probe, each), 1.0, "risk")
    probe.check(answered(probe, each.astype(np.float32).astype(np.float64)), 1.0, "risk")
    found = answered(probe, each)
    found[chunk][0, 2] += off * 4
    with pytest.raises(LocalRefusal) as caught:
        probe.check(found, 1.0, "risk")
    assert caught.value.code == "trainer_mixes_rows"


def test_the_probe_bears_the_rounding_of_float32_and_slopes_that_are_none() -> None:
    probe = RowProbe.drawn(PLAN, b"k" * 32)
    each = np.random.default_rng(1).normal(size=(row_probe.ROWS, 4))
    found = answered(probe, each)
    found[-1] *= 1 + 1e-5
    probe.check(found, 1.0, "risk")
    probe.check(answered(probe, np.full((row_probe.ROWS, 4), np.nan)), 1.0, "risk")


def test_made_up_records_are_drawn_anew_and_fit_the_plan() -> None:
    one, other = (RowProbe.drawn(PLAN, key * 32) for key in (b"a", b"b"))
    assert not np.array_equal(one.inputs, other.inputs)
    assert one.inputs.shape == (row_probe.ROWS, PLAN.data.inputs)
    assert np.abs(one.inputs).max() <= 1.0
    targets = np.concatenate([RowProbe.drawn(PLAN, bytes([n]) * 32).target for n in range(20)])
    assert set(targets) == {0.0, 1.0}
    floats = plan_of(("type: binary", "type: float, range: [0, 1]"))
    values = np.concatenate([RowProbe.drawn(floats, bytes([n]) * 32).target for n in range(20)])
    assert values.min() < -0.5
    assert values.max() > 0.5


# --- a federation, the file -------------------------------------------------------------------------------------------


def test_a_private_federation_trains_with_each_ones_own_code(tmp_path: pathlib.Path) -> None:
    """One member's code mixes rows: it declines, and the coordinator hears no more than of any other trouble."""
    plan, run = plan_of(("rounds: 20", "rounds: 2")), RunId("run-1")
    own(tmp_path, NORMALISED)
    configs = {"risk": (read_config("risk", config_file(tmp_path)), best())}
    bad = Trainers(configs, MemoryApprovals(), LookedAt(), lambda name, data: None)
    trainers = {**{org: good(org) for org in ORGS}, ORGS[1]: bad}
    cluster = Cluster(make_charter(ORGS, 3), 3, tables(), canonical(plan), trainers)
    for org in ORGS:
        cluster.start_member(org)
    cluster.settle()
    cluster.start_run(run, canonical(plan))
    cluster.play(lambda: cluster.ended(run))
    others = [org for org in ORGS if org != ORGS[1]]
    ends = [cluster.members[org].memory.ends[run] for org in others]
    assert {end[1] for end in ends} == {"finished"}
    assert len({end[2] for end in ends}) == 1
    assert {one.code for one in said(cluster, ORGS[1]) if isinstance(one, PlanAnswer)} == {"no_update"}
    assert plan.privacy is not None
    for org in others:
        ledger = budget.fold(one.entry for one in cluster.members[org].memory.kept.ledger)
        assert ledger.spent(run).epsilon(1e-5) == private_sum.spent(plan, plan.privacy, 2)


def test_how_many_rows_at_once_is_in_the_file(tmp_path: pathlib.Path) -> None:
    path = config_file(tmp_path)
    (tmp_path / "code").mkdir()
    assert read_config("risk", path).rows_at_once == 0
    text = path.read_text()
    path.write_text(text + "rows_at_once = 1\n")
    assert read_config("risk", path).rows_at_once == 1
    for wrong in ("-1", "true", '"1"', "1000001"):
        path.write_text(text + f"rows_at_once = {wrong}\n")
        with pytest.raises(ConfigError) as caught:
            read_config("risk", path)
        assert caught.value.code == "trainer_config"
