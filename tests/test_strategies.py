"""Strategies with a state: known answers, plan fields, restarts on both sides, and who may say what the state is.

The second implementation is `tests.reference.strategies`; it also computes, from the opened sums (which are compared
with what the members put in), the model that a whole run must end with.
"""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import processes
import pytest
from federation import (
    FIVE,
    PLAN,
    RUN,
    SETTINGS,
    THREE,
    body_of,
    check_sums,
    federation,
    journal,
    parse,
    run,
    signed,
    state,
    trail,
)
from fedveil_common import layout, modelfile, provenance, strategies, transcript
from fedveil_common import plan as plans
from fedveil_common.decode import Readings
from fedveil_common.errors import IntegrityError
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.masking import masks
from fedveil_common.masking.ring import residues
from fedveil_common.messages import BlobType, Manifest, Purpose, Refusal, Result, SignedBlob
from fedveil_common.plan import (
    AdaptiveSpec,
    MomentumSpec,
    NotInThisReleaseError,
    Plan,
    PlanError,
    Strategy,
    StrategySpec,
)
from fedveil_coordinator import facts
from fedveil_coordinator import run as runs
from fedveil_participant import checking, checks
from fedveil_participant.stages import Revealed
from fedveil_simulation.cluster import Cluster

from tests.reference import strategies as reference

VECTORS: list[dict[str, Any]] = json.loads(
    (pathlib.Path(__file__).parent / "vectors" / "strategies.json").read_text(encoding="ascii")
)["strategies"]
SECTIONS = {
    "fedavgm": "{kind: fedavgm}",
    "fedadam": "{kind: fedadam, learning_rate: 0.1}",
    "fedyogi": "{kind: fedyogi, learning_rate: 0.1, beta1: 0.8}",
    "fedadagrad": "{kind: fedadagrad, learning_rate: 0.1}",
}
ECHO = FIVE[4]


def nothing(*arguments: object) -> None:
    """A check that is not there."""


def text(section: str, **settings: object) -> str:
    written = PLAN.format(**{**SETTINGS, "rounds": 3, **settings})
    assert "{kind: fedavg}" in written
    return written.replace("{kind: fedavg}", section)


def plan_with(section: str, **settings: object) -> bytes:
    return plans.canonical(plans.parse_plan(text(section, **settings).encode(), "p"))


def spec_of(kind: str, fields: dict[str, float]) -> Strategy:
    match kind:
        case "fedavg":
            return StrategySpec()
        case "fedavgm":
            return MomentumSpec(**fields)
        case _:
            return AdaptiveSpec(kind, fields["learning_rate"], fields["beta1"], fields.get("beta2"), fields["tau"])


def opened(update: list[int], weight: int, top: int, norm: float) -> dict[str, Readings]:
    return {
        layout.UPDATE: Readings(np.array(update, dtype=np.int64), top / norm),
        layout.WEIGHT: Readings(np.array([weight], dtype=np.int64), float(top)),
    }


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS, ids=[case["name"] for case in VECTORS])
def test_models_and_states_are_those_of_the_second_implementation(case: dict[str, Any]) -> None:
    given = case["in"]
    plan = replace(plans.parse_canonical(plan_with("{kind: fedavg}")), strategy=spec_of(given["kind"], given["fields"]))
    moved = strategies.start(plan, np.array(given["model"], dtype=np.float32))
    for number, one in enumerate(given["sums"]):
        decoded = opened(one["update"], one["weight"], given["top"], given["update_norm"])
        if case.get("fails_at") == f"sum {number}":
            with pytest.raises(IntegrityError) as caught:
                strategies.apply(plan, moved, decoded)
            assert caught.value.code == case["code"]
            return
        moved = strategies.apply(plan, moved, decoded)
        assert moved.model.tobytes().hex() == case["out"]["models"][number]
        assert strategies.state_hash(moved).hex() == case["out"]["states"][number]
        assert all(one.dtype == np.float32 for one in (moved.model, *moved.moments))
    assert "fails_at" not in case


@pytest.mark.parametrize("kind", reference.KINDS)
def test_coordinates_do_not_depend_on_each_other_or_on_leaves(kind: str) -> None:
    plan = replace(plans.parse_canonical(plan_with("{kind: fedavg}")), strategy=spec_of(kind, reference.KINDS[kind]))
    draw = np.random.default_rng(0)
    update = [int(one) for one in draw.integers(-60_000, 60_000, 40_000)]
    model = draw.normal(size=40_000).astype(np.float32)

    def twice(where: slice) -> strategies.Moved:
        moved = strategies.start(plan, model[where])
        for _ in range(2):
            moved = strategies.apply(plan, moved, opened(update[where], 70_000, 32_767, 5.0))
        return moved

    whole = twice(slice(None))
    parts = [twice(slice(start, start + 9_001)) for start in range(0, 40_000, 9_001)]
    assert (np.concatenate([part.model for part in parts]) == whole.model).all()
    for index, moment in enumerate(whole.moments):
        assert (np.concatenate([part.moments[index] for part in parts]) == moment).all()


# --- plan fields ------------------------------------------------------------------------------------------------------


def test_defaults_are_written_out_in_the_canonical_form() -> None:
    found = {kind: json.loads(plan_with(section))["strategy"] for kind, section in SECTIONS.items()}
    assert found["fedavgm"] == {"kind": "fedavgm", "learning_rate": 1, "momentum": 0.9}
    assert found["fedadam"] == {"kind": "fedadam", "learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 0.001}
    assert found["fedyogi"] == {"kind": "fedyogi", "learning_rate": 0.1, "beta1": 0.8, "beta2": 0.99, "tau": 0.001}
    assert found["fedadagrad"] == {"kind": "fedadagrad", "learning_rate": 0.1, "beta1": 0, "tau": 0.001}
    assert json.loads(plan_with("{kind: fedavg}"))["strategy"] == {"kind": "fedavg"}
    for section in SECTIONS.values():
        canonical = plan_with(section)
        assert plans.canonical(plans.parse_canonical(canonical)) == canonical


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ("{kind: fedavg, learning_rate: 1}", "unknown_field"),
        ("{kind: fedavgm, beta1: 0.9}", "unknown_field"),
        ("{kind: fedavgm, momentum: 1}", "range"),
        ("{kind: fedavgm, momentum: -0.1}", "range"),
        ("{kind: fedavgm, learning_rate: 0}", "range"),
        ("{kind: fedadam}", "missing"),
        ("{kind: fedadam, learning_rate: 0.1, beta2: 1}", "range"),
        ("{kind: fedadam, learning_rate: 0.1, tau: 0}", "range"),
        ("{kind: fedadam, learning_rate: 0.1, momentum: 0.9}", "unknown_field"),
        ("{kind: fedadagrad, learning_rate: 0.1, beta2: 0.99}", "unknown_field"),
        ("{kind: fedsgd}", "choice"),
    ],
)
def test_what_a_strategy_section_may_not_say(section: str, code: str) -> None:
    with pytest.raises(PlanError) as caught:
        plans.parse_plan(text(section).encode(), "p")
    assert code in {problem.code for problem in caught.value.problems}


def test_a_kind_that_its_fields_do_not_belong_to_is_no_plan_of_this_release() -> None:
    plan = plans.parse_canonical(plan_with(SECTIONS["fedadam"]))
    plans.check_release(plan)
    with pytest.raises(NotInThisReleaseError):
        plans.check_release(replace(plan, strategy=replace(plan.strategy, kind="fedavg")))


# --- whole runs -------------------------------------------------------------------------------------------------------


def expected_model(cluster: Cluster, plan: Plan) -> str:
    """The final model as the reference computes it from the opened sums, in hex."""
    shape = layout.layout_for(plan, Purpose.TRAIN, 0).slices()
    sums = []
    for number in range(1, plan.training.rounds + 1):
        values = cluster.memory.read_sum(RUN, number)
        update, weight = values[shape["update"]], values[shape["weight"]]
        sums.append({"update": [int(one) for one in update], "weight": int(weight[0])})
    fields = {name: value for name, value in json.loads(plans.canonical(plan))["strategy"].items() if name != "kind"}
    first = [float(one) for one in provenance.begin(plan, None).model]
    walked = reference.walk(
        plan.strategy.kind, fields, first, sums, plan.protection.update_norm, plan.protection.max_value
    )
    return str(walked["out"]["models"][-1])  # type: ignore[index]


def stored(cluster: Cluster, org: OrgId) -> str:
    return modelfile.read_model(journal(cluster, org).ends[RUN][2]).model.tobytes().hex()


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_run_ends_with_the_model_that_follows_from_its_sums(kind: str) -> None:
    """With everyone restarted in the middle, the coordinator too: the state is walked again, by nobody's word."""
    canonical = plan_with(SECTIONS[kind])
    cluster = federation(THREE, plan=canonical)
    cluster.start_run(RUN, canonical)
    for done in (1, 2):
        cluster.play(lambda done=done: len(state(cluster).records) >= done)  # type: ignore[misc]
        cluster.kill_member(THREE[0])
        cluster.restart_coordinator()
        cluster.kill_member(THREE[1])
        for org in THREE[:2]:
            cluster.start_member(org)
    cluster.play(lambda: cluster.ended(RUN))
    assert cluster.memory.runs[RUN][2] == "finished"
    assert check_sums(cluster) == 4
    plan = plans.parse_canonical(canonical)
    assert {stored(cluster, org) for org in THREE} == {expected_model(cluster, plan)}
    assert state(cluster).state_hash == cluster.coordinator.sums.lineage_to(state(cluster), 3).state_hash != b""


# --- who may say what the state is ------------------------------------------------------------------------------------


def one_bit(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(("field", "check"), [("model_hash", "derived_model"), ("query_digest", "derived_state")])
def test_another_model_or_state_in_the_manifest_is_refused_by_everyone(
    field: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All members are told the same, and it fits the manifest's form. Stopped by `checks.derived_model` and
    `checks.derived_state`; with the check replaced the sum of that round opens.
    """
    made, plan = runs.manifest_of, plan_with(SECTIONS["fedadam"], rounds=2)

    def swapped(run_state: runs.RunState, nonce: bytes) -> Manifest:
        manifest = made(run_state, nonce)
        return replace(manifest, **{field: one_bit(getattr(manifest, field))}) if run_state.step == 1 else manifest  # type: ignore[arg-type]

    assert run(federation(THREE, plan=plan), plan) == "finished"
    monkeypatch.setattr(runs, "manifest_of", swapped)
    cluster = federation(THREE, plan=plan)
    assert run(cluster, plan) == "not_enough_participants"
    for org in THREE:
        assert not {"advert", "shares", "input", "reveal"} & set(trail(cluster, org, 2))
    monkeypatch.setattr(checks, check, nothing)
    cluster = federation(THREE, plan=plan)
    run(cluster, plan, limit_s=30)
    assert [stage for _, stage in journal(cluster, THREE[0]).stages if isinstance(stage, Revealed)][1:], (
        "round 2 opened"
    )


def test_a_final_model_that_does_not_follow_is_stored_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator signs the model that plain averaging would give. Stopped by `finish.final_model`, which compares
    with its own walk; with a walk that averages (the provenance replaced) everyone stores it.
    """
    canonical = plan_with(SECTIONS["fedadam"], rounds=1)
    averaged = replace(plans.parse_canonical(canonical), strategy=StrategySpec())

    def play() -> Cluster:
        cluster = federation(THREE, plan=canonical)
        cluster.start_run(RUN, canonical)
        cluster.play(lambda: cluster.ended(RUN), 300)
        return cluster

    assert all(journal(play(), org).ends[RUN][2] for org in THREE)
    made = runs.sign_model

    def other(run_state: runs.RunState, version: runs.ModelVersion) -> SignedBlob:
        moved = provenance.advance(provenance.begin(averaged, None), memory[-1].read_sum(RUN, 1))
        return made(run_state, replace(version, model_hash=moved.model_hash))

    memory: list[Any] = []
    began = Cluster.start_run

    def noted(cluster: Cluster, run_id: RunId, plan: bytes) -> None:
        memory.append(cluster.memory)
        began(cluster, run_id, plan)

    monkeypatch.setattr(Cluster, "start_run", noted)
    monkeypatch.setattr(runs, "sign_model", other)
    cluster = play()
    assert cluster.memory.runs[RUN][1:] == ("ended", "finished")
    assert not any(RUN in journal(cluster, org).ends for org in THREE)
    step = provenance.advance

    def careless(before: provenance.Lineage, train_sum: Any) -> provenance.Lineage:
        after = step(replace(before, plan=averaged, moved=strategies.Moved(before.model)), train_sum)
        return replace(after, plan=before.plan, moved=strategies.start(before.plan, after.model))

    monkeypatch.setattr(provenance, "advance", careless)
    monkeypatch.setattr(checks, "derived_model", nothing)
    monkeypatch.setattr(checks, "derived_state", nothing)
    cluster = play()
    assert all(journal(cluster, org).ends[RUN][2] for org in THREE)


def forged(cluster: Cluster, number: int, fits: Callable[[np.ndarray], bool]) -> Callable[..., checking.SumDownload]:  # type: ignore[type-arg]
    """The download of a cluster in which the sum of one round is another one, rightly signed: the first that `fits`."""
    honest = cluster.download
    manifest, result = cluster.coordinator.sums.source(RUN, number)
    parsed, said = body_of(manifest), body_of(result)
    assert isinstance(parsed, Manifest)
    assert isinstance(said, Result)
    values = cluster.memory.read_sum(RUN, number)
    for coordinate in range(5):
        lie = values.copy()
        lie[coordinate] += 1
        if fits(lie):
            break
    else:
        raise AssertionError("no other sum leads to this model")
    leaves = [
        (i, bytes(leaf)) for i, leaf in masks.leaves(residues(lie.astype(np.int64), parsed.ring_bits), parsed.ring_bits)
    ]
    root = transcript.leaf_root([transcript.sum_leaf(said.t3, i, leaf) for i, leaf in leaves])
    blob = signed(cluster.charter, COORDINATOR, BlobType.RESULT, replace(said, leaf_root=root))

    def download(run_id: RunId, round: int) -> checking.SumDownload:
        if round != number:
            return honest(run_id, round)
        return checking.SumDownload(blob, manifest, iter(leaves))

    return download


def test_one_who_missed_rounds_is_not_told_another_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Echo comes late and walks the sums it missed. It is shown another sum of round 1, rightly signed, that leads to
    the same model and to other moments. Its hash is nowhere in the manifest that echo gets, and the model's hash does
    not tell. Stopped by `checks.derived_state`; with that replaced echo takes part with a state nobody else has.
    """
    canonical = plan_with("{kind: fedavgm, learning_rate: 0.0000001}", rounds=6)
    plan = plans.parse_canonical(canonical)

    def play(lying: bool) -> tuple[Cluster, set[str]]:
        cluster = federation(FIVE, plan=canonical, start=False)
        for org in FIVE[:4]:
            cluster.start_member(org)

        def leads_to_the_same_model(lie: np.ndarray) -> bool:  # type: ignore[type-arg]
            honest = other = provenance.begin(plan, None)
            for number in (1, 2):
                values = cluster.memory.read_sum(RUN, number)
                honest = provenance.advance(honest, values)
                other = provenance.advance(other, lie if number == 1 else values)
            return honest.model_hash == other.model_hash and honest.state_hash != other.state_hash

        def in_the_third_round(kind: str, key: AttemptKey) -> None:
            if key.round == 3 and cluster.members[ECHO].driver is None:
                if lying:
                    cluster.download = forged(cluster, 1, leads_to_the_same_model)  # type: ignore[method-assign]
                cluster.start_member(ECHO)

        journal(cluster, FIVE[0]).on_save = in_the_third_round
        cluster.start_run(RUN, canonical)
        cluster.play(lambda: cluster.ended(RUN), 300)
        said = [parse(packet) for packet in cluster.sent if packet.org_id == ECHO and not packet.outward]
        return cluster, {one.code for one in said if isinstance(one, Refusal)}

    cluster, codes = play(lying=False)
    assert codes == set()
    assert "input" in trail(cluster, ECHO)
    cluster, codes = play(lying=True)
    assert codes == {"state_not_derived"}
    assert not {"advert", "input"} & set(trail(cluster, ECHO))
    monkeypatch.setattr(checks, "derived_state", nothing)
    cluster, codes = play(lying=True)
    assert "advert" in trail(cluster, ECHO)


def test_what_was_journaled_before_there_were_moments_is_still_read() -> None:
    body = facts.encode(facts.SumApplied(b"m" * 32, b"", 0.5, None, None, 3.0, ""))
    older = json.loads(body)
    del older[0]["state_hash"]
    assert facts.decode("SumApplied", json.dumps(older).encode()) == facts.decode("SumApplied", body)


def test_real_processes_train_an_mlp_with_fedadam(tmp_path: pathlib.Path) -> None:
    """Over mutual TLS, from SQLite journals: everyone ends with the same model (or the run would not have finished)."""
    written = processes.plan_text(rounds=2).replace("{kind: fedavg}", "{kind: fedadam, learning_rate: 0.05}")
    assert "fedadam" in written
    written = re.sub(r"model: \{.*\}", "model: {kind: mlp, hidden: [4]}", written)
    (tmp_path / "plan.yaml").write_text(written)
    (tmp_path / "hospitals").mkdir()
    for name in processes.NAMES:
        (tmp_path / "hospitals" / f"{name}.csv").write_text(processes.table(name))
    command = [
        sys.executable,
        "-m",
        "fedveil_cli",
        "simulate",
        "plan.yaml",
        "--data",
        "hospitals",
        "--processes",
        "--json",
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        out, err = running.communicate(timeout=3 * processes.LIMIT_S)
    finally:
        running.terminate()  # it ends its own processes
        running.wait()
    assert running.returncode == 0, err
    value = json.loads(out)
    assert value["transport"] == "mtls"
    assert [one["purpose"] for one in value["rounds"]][-3:] == ["train", "train", "evaluate"]
