"""Going on from a finished run for more rounds: consent by a new hash, the same sums walked, nothing summed twice."""

import json
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from federation import FIVE, PLAN, RUN, SETTINGS, THREE, check_sums, federation, journal, parse, plan_bytes, run, state
from fedveil_cli import identity_commands, main, model_files, operating, run_commands
from fedveil_cli.companions import companion
from fedveil_cli.output import Output
from fedveil_common import layout, modelfile, provenance
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, PolicyRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import PlanAnswer, Purpose, Refusal
from fedveil_common.plan import Leg, Plan, PlanError
from fedveil_coordinator import continuing
from fedveil_participant import checks
from fedveil_simulation.cluster import Cluster

from tests.release_office import OPERATOR, office_of
from tests.test_status_lists import kept_by

NEXT, THIRD = RunId("run-2"), RunId("run-3")


def accept(cluster: Cluster, plan: bytes) -> None:
    """Every member's owner passes this hash to --accept, and starts `participate` anew with it."""
    for member in cluster.members.values():
        member.accepted = member.accepted | {plans.plan_hash(plan)}
        cluster.kill_member(member.org_id)
        cluster.start_member(member.org_id)
    cluster.settle()


def text(section: str, **settings: object) -> bytes:
    return PLAN.format(**{**SETTINGS, **settings}).replace("{kind: fedavg}", section).encode()


def file_of(cluster: Cluster, run_id: RunId, org: OrgId = THREE[0]) -> modelfile.ModelFile:
    return modelfile.read_model(journal(cluster, org).ends[run_id][2])


def ran(section: str = "{kind: fedavg}", **settings: object) -> Cluster:
    """A federation after a finished run of two rounds."""
    plan, _ = operating.prepare_plan(text(section, rounds=2, **settings), "p")
    cluster = federation(THREE, plan=plan)
    assert run(cluster, plan) == "finished"
    return cluster


def further(cluster: Cluster, section: str = "{kind: fedavg}", run_id: RunId = RUN, **settings: object) -> bytes:
    """The plan for three more rounds after `run_id`, as `run start --from` makes it."""
    written = text(section, **{"rounds": 3, **settings})
    return operating.prepare_plan(written, "p", file_of(cluster, run_id))[0]


@pytest.mark.parametrize("section", ["{kind: fedavg}", "{kind: fedadam, learning_rate: 0.1}"])
@pytest.mark.parametrize("standardise", ["none", "federated"])
def test_a_run_goes_on_where_another_ended(section: str, standardise: str) -> None:
    """Three rounds more, and two more after these; everyone restarted on the way, so that nothing is remembered."""
    cluster = ran(section, standardise=standardise)
    plan = further(cluster, section, standardise=standardise)
    accept(cluster, plan)
    cluster.restart_coordinator()
    assert run(cluster, plan, NEXT) == "finished"
    first, second = file_of(cluster, RUN), file_of(cluster, NEXT)
    own = 1 if standardise == "federated" else 0
    assert len(state(cluster).records) == own + 2 + 1
    assert len(state(cluster, NEXT).records) == 3 + 1, "no second standardise sum"
    assert second.standardisation == first.standardisation
    parsed = plans.parse_canonical(plan)
    assert parsed.continues == (Leg(RUN, 2),)
    assert modelfile.parse_manifest(first.signatures[0].body).model_hash.hex() == parsed.model.initial
    third = further(cluster, section, NEXT, rounds=2, standardise=standardise)
    assert plans.parse_canonical(third).continues == (Leg(RUN, 2), Leg(NEXT, 3))
    accept(cluster, third)
    assert run(cluster, third, THIRD) == "finished"

    def sums(run_id: RunId, steps: int, before: int) -> list[np.ndarray]:  # type: ignore[type-arg]
        return [cluster.memory.read_sum(run_id, before + step) for step in range(1, steps + 1)]

    scaling = cluster.memory.read_sum(RUN, 1) if own else None
    lineage = provenance.begin(
        plans.parse_canonical(operating.prepare_plan(text(section, standardise=standardise), "p")[0]), scaling
    )
    for part, due in ((sums(RUN, 2, own), 0), (sums(NEXT, 3, 0), 1), (sums(THIRD, 2, 0), 1)):
        leg = replace(
            lineage.plan, continues=(Leg("x", 1),) * due
        )  # moments begin anew, the first sum measures nothing
        lineage = provenance.Lineage(leg, lineage.standardisation, 0, provenance.strategies.start(leg, lineage.model))
        for one in part:
            lineage = provenance.advance(lineage, one)
    for org in THREE:
        assert (file_of(cluster, THIRD, org).model == lineage.model).all()


def test_nothing_is_measured_twice() -> None:
    """The final model of the first run was measured at its end. Were it measured again with other survivors, the
    difference would be one organisation's figures: the first sum of the next run carries no evaluation.
    """
    cluster = ran()
    plan = further(cluster)
    accept(cluster, plan)
    assert run(cluster, plan, NEXT) == "finished"
    assert check_sums(cluster, NEXT) == 4
    parsed = plans.parse_canonical(plan)
    shapes = [layout.layout_for(parsed, Purpose.TRAIN, step) for step in range(3)]
    assert [layout.HOLDOUT in shape.slices() for shape in shapes] == [False, True, True]
    assert [record.loss is None for record in state(cluster, NEXT).records] == [True, False, False, False]
    first = layout.layout_for(plans.parse_canonical(plan_bytes(rounds=2)), Purpose.TRAIN, 0)
    assert layout.HOLDOUT in first.slices()


def test_without_a_new_consent_nobody_takes_part() -> None:
    cluster = ran()
    plan = further(cluster)
    assert plans.plan_hash(plan) != plans.plan_hash(plan_bytes(rounds=2))
    assert run(cluster, plan, NEXT) == "not_enough_participants"
    assert not any(key.run_id == NEXT for org in THREE for _, key, _ in journal(cluster, org).trail)


def test_a_model_is_trained_on_once_for_a_data_version() -> None:
    """Two plans go on from the same model: the second is refused by everyone, before any round (`model_spent`)."""
    cluster = ran()
    once, twice = further(cluster), further(cluster, rounds=4)
    accept(cluster, once)
    accept(cluster, twice)
    assert run(cluster, once, NEXT) == "finished"
    assert run(cluster, twice, THIRD) == "model_spent"
    assert not any(
        kind == "offer" and key.run_id == THIRD for org in THREE for kind, key, _ in journal(cluster, org).trail
    )


def test_a_newcomer_walks_the_earlier_run_too() -> None:
    """One who was not in the first run derives its final model from the signed sums, and takes part in the next."""
    canonical, _ = operating.prepare_plan(text("{kind: fedavg}", rounds=2), "p")
    cluster = federation(FIVE, plan=canonical, start=False)
    for org in FIVE[:4]:
        cluster.start_member(org)
    cluster.start_run(RUN, canonical)
    cluster.play(lambda: cluster.ended(RUN))
    plan = operating.prepare_plan(text("{kind: fedavg}", rounds=2), "p", file_of(cluster, RUN))[0]
    cluster.start_member(FIVE[4])
    accept(cluster, plan)
    assert run(cluster, plan, NEXT) == "finished"
    assert {"input", "reveal"} <= {kind for kind, key, _ in journal(cluster, FIVE[4]).trail if key.run_id == NEXT}


def test_another_first_model_than_the_sums_lead_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan names one step of the earlier run and the model of two. The coordinator refuses it; one that does not is
    refused by every participant's own walk: `provenance.set_out`, and `checks.derived_model` behind it.
    """
    cluster = ran()
    good = plans.parse_canonical(further(cluster))
    bad = plans.canonical(replace(good, continues=(Leg(RUN, 1),)))
    with pytest.raises(ConfigError) as caught:
        cluster.coordinator.start_run(NEXT, bad)
    assert caught.value.code == "cannot_continue"
    monkeypatch.setattr(continuing, "check", lambda plan, state_of: None)
    accept(cluster, bad)
    assert run(cluster, bad, NEXT) == "not_enough_participants"
    said = [parse(packet) for packet in cluster.sent if not packet.outward]
    assert {one.code for one in said if isinstance(one, Refusal)} == {"model_not_derived"}
    made = [kind for org in THREE for kind, key, _ in journal(cluster, org).trail if key.run_id == NEXT]
    assert "update_failed" in made
    assert not {"advert", "shares", "input"} & set(made)
    real, first = provenance.set_out, state(cluster).versions[0].model_hash.hex()

    def careless(plan: Plan, *rest: Any) -> provenance.Lineage:
        to_one = replace(plan, model=replace(plan.model, initial=first))
        return replace(real(to_one, *rest), plan=plan)

    monkeypatch.setattr(provenance, "set_out", careless)
    monkeypatch.setattr(checks, "derived_model", lambda *arguments: None)
    run(cluster, bad, THIRD, limit_s=30)
    assert {"advert", "input"} <= {kind for kind, key, _ in journal(cluster, THREE[0]).trail if key.run_id == THIRD}


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0.3},
        {"seed": 8},
        {"update_norm": 4.0},
        {"every": 2},
    ],
)
def test_only_the_number_of_rounds_may_differ(change: dict[str, object]) -> None:
    cluster = ran()
    good = plans.parse_canonical(further(cluster))
    with pytest.raises(ConfigError) as caught:
        further(cluster, **change)
    assert caught.value.code == "cannot_continue"
    other = plans.parse_canonical(operating.prepare_plan(text("{kind: fedavg}", rounds=3, **change), "p")[0])
    slipped = replace(other, continues=good.continues, model=replace(other.model, initial=good.model.initial))
    continuing.check(good, cluster.coordinator.state_of)
    with pytest.raises(ConfigError):
        continuing.check(slipped, cluster.coordinator.state_of)


def test_the_plan_file_can_say_it_too() -> None:
    """In words: the earlier runs and the first model; both are in the hash, and in none of an older plan."""
    written = text("{kind: fedavg}", rounds=3).decode()
    legs = "continues: [{run: run-1, steps: 2}]\n"
    named = written.replace("kind: logistic", f"kind: logistic, initial: '{'ab' * 32}'")
    plan: Plan = plans.parse_plan((named + legs).encode(), "p")
    canonical = plans.canonical(plan)
    assert plans.parse_canonical(canonical) == plan
    assert json.loads(canonical)["continues"] == [{"run": "run-1", "steps": 2}]
    assert "continues" not in json.loads(plan_bytes())
    for bad in (
        written + legs,  # no first model is named
        named,  # and without runs to continue it must be the seed's
        named.replace("abab", "ABAB") + legs,
        named + "continues: []\n",
        named + "continues: [{run: run-1, steps: 0}]\n",
        named + "continues: [{run: run-1, steps: 2}, {run: run-1, steps: 2}]\n",
        named + "continues: [{run: run-1, steps: 2, model: x}]\n",
    ):
        with pytest.raises(PlanError):
            plans.parse_plan(bad.encode(), "p")


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_commands_agree_on_the_hash(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan check --from FILE` prints what organisations accept; `run start --from RUN` starts exactly that."""
    cluster = ran()
    path, model, started = tmp_path / "plan.yaml", tmp_path / "m.safetensors", []
    path.write_bytes(text("{kind: fedavg}", rounds=3))
    model.write_bytes(journal(cluster, THREE[0]).ends[RUN][2])

    class Admin:
        def export_model(self, run_id: str) -> bytes:
            assert run_id == RUN
            return model.read_bytes()

        def model_status(self) -> bytes:
            return b""

        def start_run(self, canonical: bytes, reuse_key_epoch: bool = False) -> str:
            started.append(canonical)
            return "run-2"

    monkeypatch.setattr(run_commands, "connect", lambda home: Admin())
    signed = {"version": 1, "added": [], "removed": [], "participants": list(THREE)}
    monkeypatch.setattr(identity_commands, "publish_next_roster", lambda *arguments: signed)
    monkeypatch.setattr(model_files, "expected_fingerprint", lambda given, home: cluster.charter.fingerprint)
    assert main.main(["plan", "check", str(path), "--from", str(model), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["continues"] == [{"run": RUN, "steps": 2}]
    run_commands.start(tmp_path, path, None, True, Output(True), RUN)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["plan_hash"] == said["plan_hash"] == plans.plan_hash(started[0]).hex()
    assert main.main(["plan", "check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["plan_hash"] != shown["plan_hash"]
    path.write_bytes(text("{kind: fedavg}", rounds=3, rate=0.9))
    assert main.main(["plan", "check", str(path), "--from", str(model), "--json"]) == 2
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "cannot_continue"


# --- what was withdrawn -----------------------------------------------------------------------------------------------


def test_nobody_goes_on_from_a_model_that_was_withdrawn(tmp_path: pathlib.Path) -> None:
    """The coordinator starts no such run; one that does is answered with no by everybody who has its list."""
    cluster = ran()
    plan = further(cluster)
    accept(cluster, plan)
    with office_of(cluster, tmp_path) as office:
        kept = {org: kept_by(office, tmp_path / org) for org in THREE}
        early = office.registry.status()
        office.registry.withdraw(RUN, OPERATOR, "wrong units")
        with pytest.raises(PolicyRefusal, match="model_withdrawn"):
            cluster.coordinator.start_run(NEXT, plan)
        cluster.coordinator.registry = None
        for org, one in kept.items():
            driver = cluster.members[org].driver
            assert driver is not None
            one.check_first_model(plans.parse_canonical(plan))  # no list yet
            one.take(early)
            one.check_first_model(plans.parse_canonical(plan))
            one.take(office.registry.status())
            driver.answers.check_first_model = one.check_first_model
        assert run(cluster, plan, NEXT) == "not_enough_participants"
        said = [parse(packet) for packet in cluster.sent if not packet.outward]
        answers = {one.code for one in said if isinstance(one, PlanAnswer) and one.plan_hash == plans.plan_hash(plan)}
        assert "model_withdrawn" in answers
        assert not any(key.run_id == NEXT for org in THREE for _, key, _ in journal(cluster, org).trail)


def test_no_plan_goes_on_from_a_file_that_was_withdrawn(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan check --from FILE` asks the list as `model verify` does; `run start --from RUN` does before it signs."""
    cluster = ran()
    path, model = tmp_path / "plan.yaml", tmp_path / "m.safetensors"
    path.write_bytes(text("{kind: fedavg}", rounds=3))
    model.write_bytes(journal(cluster, THREE[0]).ends[RUN][2])
    words = ["plan", "check", str(path), "--from", str(model), "--home", str(tmp_path / "none"), "--json"]
    named = [*words, "--fingerprint", cluster.charter.fingerprint.hex()]

    def refused(given: list[str]) -> str:
        assert main.main(given) != 0
        out, err = capsys.readouterr()
        assert out == ""
        return str(json.loads(err.splitlines()[-1])["error"]["code"])

    def status(given: list[str]) -> Any:
        capsys.readouterr()
        assert main.main(given) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])["status"]

    with office_of(cluster, tmp_path) as office:
        listed = tmp_path / "listed.json"
        listed.write_bytes(office.registry.status())
        assert status(words) is None, "nobody said whose model it is"
        assert status(named) is None
        assert status([*named, "--status", str(listed)])["stage"] is None
        office.registry.withdraw(RUN, OPERATOR, "wrong units")
        withdrawn = office.registry.status()
        listed.write_bytes(withdrawn)
        assert refused([*named, "--status", str(listed)]) == "model_withdrawn"
        assert refused([*words, "--status", str(listed)]) == "fingerprint_missing"
        assert refused([*named[:3], *named[5:]]) == "usage", "there is no model that it could be about"
        companion(model).write_bytes(withdrawn)
        assert refused(named) == "model_withdrawn"

    class Admin:
        def export_model(self, run_id: str) -> bytes:
            return model.read_bytes()

        def model_status(self) -> bytes:
            return withdrawn

    monkeypatch.setattr(run_commands, "connect", lambda home: Admin())
    monkeypatch.setattr(model_files, "expected_fingerprint", lambda given, home: cluster.charter.fingerprint)
    signed: list[object] = []
    monkeypatch.setattr(identity_commands, "publish_next_roster", lambda *arguments: signed.append(arguments))
    with pytest.raises(PolicyRefusal, match="model_withdrawn"):
        run_commands.start(tmp_path, path, None, True, Output(True), RUN)
    assert signed == []
