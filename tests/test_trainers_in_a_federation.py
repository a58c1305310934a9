"""A federation in which members train with code of their own, and one of them has a trainer that fails.

The trainers are real processes; the victim's clock is ours. Nobody hears why a member is out.
"""

import pathlib

import numpy as np
import pytest
from confinements import best
from fedveil_common import wire
from fedveil_common.errors import LocalRefusal, PolicyRefusal, heard
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import AdvertMessage, PlanAnswer, Purpose, Refusal
from fedveil_common.plan import canonical
from fedveil_participant.training.own_trainer import MemoryApprovals, Trainers
from fedveil_participant.training.trainer_config import read_config
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster
from test_own_trainers import EXAMPLE, PLAN, LookedAt, config_file

RUN = RunId("run-1")
ORGS = [OrgId(name) for name in ("acme", "borealis", "cygnus", "delta")]


def tables() -> dict[OrgId, dict[str, bytes]]:
    found = {}
    for number, org in enumerate(ORGS):
        draw = np.random.default_rng(number)
        lines = ["a,b,site,ill"]
        for _ in range(60):
            a, b = draw.uniform(0, 10), draw.uniform(-5, 5)
            ill = int(draw.uniform() < 1 / (1 + np.exp(-(a - 5 - b))))
            lines.append(f"{a:.3f},{b:.3f},{draw.choice(['north', 'south'])},{ill}")
        found[org] = {"measurements": "\n".join(lines).encode()}
    return found


def play(own: dict[OrgId, Trainers]) -> Cluster:
    data = canonical(PLAN)
    cluster = Cluster(make_charter(ORGS, 3), 3, tables(), data, own)
    for org in ORGS:
        cluster.start_member(org)
    cluster.settle()
    cluster.start_run(RUN, data)
    cluster.play(lambda: cluster.ended(RUN))
    return cluster


def good(org: OrgId) -> Trainers:
    config = read_config("risk", EXAMPLE / "trainer.toml")
    return Trainers({"risk": (config, best())}, MemoryApprovals(), LookedAt(), lambda name, data: None)


def said(cluster: Cluster, org: OrgId) -> list[object]:
    return [wire.parse_participant(p.data) for p in cluster.sent if p.org_id == org and not p.outward]


def test_a_federation_trains_with_each_ones_own_code() -> None:
    cluster = play({org: good(org) for org in ORGS})
    ends = [cluster.members[org].memory.ends[RUN] for org in ORGS]
    assert {end[1] for end in ends} == {"finished"}
    assert len({end[2] for end in ends}) == 1
    state = cluster.coordinator.state_of(RUN)
    losses = [record.loss for record in state.records if record.loss is not None]
    assert losses[-1] < losses[0]
    assert all(set(record.survivors) == set(ORGS) for record in state.records)


SECRET = "PatientName-0815"


@pytest.mark.parametrize("what", ["crash", "nan", "shape", "silent", "missing", "changed"])
def test_a_bad_trainer_is_that_members_dropout_and_nobody_hears_why(tmp_path: pathlib.Path, what: str) -> None:
    """The others finish. What the trainer printed and why it was out stands in no message and no part of the upload."""
    bodies = {
        "crash": "raise ValueError(SECRET)",
        "nan": "return np.full(4, np.nan)",
        "shape": "return np.zeros(5)",
        "silent": "time.sleep(1000)",
        "missing": "",
        "changed": "return np.zeros(4)",
    }
    clock, log, told = LookedAt(), bytearray(), []
    code = tmp_path / "code"
    code.mkdir()
    lines = ["import time, numpy as np", f"SECRET = {SECRET!r}", "class Own:", "    def update(self, job):"]
    lines += ["        print(SECRET, flush=True)", f"        {bodies[what] or 'pass'}"]
    lines += ["    def outputs(self, job):", "        return np.zeros((len(job.inputs), 1))"]
    (code / "own.py").write_text("\n".join(lines))
    approvals = MemoryApprovals()

    def listen(name: str, data: bytes) -> None:
        log.extend(data)
        clock.step_s = 50.0 if what == "silent" else 0.0

    configs = {} if what == "missing" else {"risk": (read_config("risk", config_file(tmp_path)), best())}
    victim = ORGS[1]
    bad = Trainers(configs, approvals, clock, listen)
    data = canonical(PLAN)
    cluster = Cluster(make_charter(ORGS, 3), 3, tables(), data, {**{org: good(org) for org in ORGS}, victim: bad})
    for org in ORGS:
        cluster.start_member(org)
    driver = cluster.members[victim].driver
    assert driver is not None
    driver.listeners.append(lambda kind, facts: told.append((kind, dict(facts))))
    cluster.start_run(RUN, data)
    if what == "changed":

        def change(kind: str, facts: object) -> None:
            if kind == "plan_answer":
                (code / "own.py").write_text("\n".join([*lines, "# more"]))

        driver.listeners.append(change)
    cluster.play(lambda: cluster.ended(RUN))
    assert cluster.coordinator.state_of(RUN).ended is not None
    assert cluster.members[ORGS[0]].memory.ends[RUN][1] == "finished"
    trained = [record for record in cluster.coordinator.state_of(RUN).records if record.purpose is Purpose.TRAIN]
    assert [set(record.survivors) for record in trained] == [set(ORGS) - {victim}]
    refused = [one.key for one in said(cluster, victim) if isinstance(one, Refusal)]
    advertised = [one for one in said(cluster, victim) if isinstance(one, AdvertMessage)]
    assert len(advertised) < len([one for one in said(cluster, ORGS[0]) if isinstance(one, AdvertMessage)])
    assert (what == "missing") == (not refused)
    codes = {one.code for one in said(cluster, victim) if isinstance(one, Refusal | PlanAnswer) and one.code}
    assert codes == {"no_update"}
    for packet in cluster.sent:
        assert SECRET.encode() not in packet.data
        assert b"trainer_" not in packet.data
    for _, header, vector in cluster.uploads:
        assert SECRET.encode() not in header + bytes(vector)
    reasons = {facts["code"] for kind, facts in told if kind in {"update_refused", "plan_declined"}}
    assert reasons == {
        {
            "crash": "trainer_failed",
            "nan": "trainer_not_finite",
            "shape": "trainer_answer",
            "silent": "trainer_silent",
            "missing": "trainer_missing",
            "changed": "trainer_changed",
        }[what]
    }
    if what not in {"missing", "changed"}:
        assert SECRET.encode() in log


def test_local_reasons_have_one_word_outside() -> None:
    assert heard(LocalRefusal("trainer_failed", "w")) == "no_update"
    assert heard(PolicyRefusal("data_changed", "w")) == "data_changed"
    assert issubclass(LocalRefusal, PolicyRefusal)
