"""`make flower-check`: a client written for Flower trains here unchanged, with the real flwr in its own environment.

Run with that environment's interpreter as the argument. Shown: ClientApp, client_fn and what `to_client()` wraps give
the update that numpy gives; what the client says of examples and metrics is not looked at; another number of parameters
is refused; three organisations train a model with it in one federation.
"""

import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from fedveil_cli.service_commands import configure_logging
from fedveil_cli.world import SystemClock
from fedveil_common import initial
from fedveil_common.errors import LocalRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.plan import canonical, parse_plan
from fedveil_participant.data.prepare import Rows
from fedveil_participant.isolation import probe
from fedveil_participant.training.own_trainer import MemoryApprovals, OwnTrainer, TrainerConfig, Trainers
from fedveil_participant.training.trainer_config import read_config
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster

HERE = Path(__file__).parent
RUN = RunId("flower")
ORGS = [OrgId(name) for name in ("acme", "borealis", "cygnus")]


def described(python: str) -> TrainerConfig:
    """The example's description, with another interpreter."""
    text = (HERE / "trainer.toml").read_text()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "code").symlink_to(HERE / "code")
        path = Path(name) / "trainer.toml"
        path.write_text(text.replace("/opt/models/venv/bin/python", python))
        return replace(read_config("risk", path), code=HERE / "code")


def by_hand(model: np.ndarray, rows: Rows, epochs: int, rate: float) -> np.ndarray:
    """What the client does, once more."""
    weights, bias = model[:3].astype(np.float64), float(model[3])
    for _ in range(epochs):
        slope = 1 / (1 + np.exp(-(rows.inputs @ weights + bias))) - rows.target
        weights, bias = weights - rate * (slope @ rows.inputs) / len(slope), bias - rate * slope.mean()
    return np.append(weights, bias) - model


def table(number: int) -> bytes:
    """One organisation's rows."""
    draw = np.random.default_rng(number)
    lines = ["a,b,site,ill"]
    for _ in range(60):
        a, b = draw.uniform(0, 10), draw.uniform(-5, 5)
        ill = int(draw.uniform() < 1 / (1 + np.exp(-(a - 5 - b))))
        lines.append(f"{a:.3f},{b:.3f},{draw.choice(['north', 'south'])},{ill}")
    return "\n".join(lines).encode()


def main() -> int:
    """The whole check; 0 if all holds."""
    configure_logging(logging.ERROR)
    config = described(sys.argv[1])
    held = probe.find(config.python, (), none_allowed=True, modules=("numpy", "flwr"))
    clock = SystemClock()

    def show(data: bytes) -> None:
        sys.stderr.write(data.decode("utf-8", "replace"))

    text = (HERE / "plan.yaml").read_text()
    plan = parse_plan(text.replace("rounds: 10", "rounds: 2").encode(), "plan.yaml")
    draw = np.random.default_rng(1)
    rows = Rows(draw.uniform(-1, 1, (200, 3)), draw.integers(0, 2, 200).astype(np.float64))
    model = initial.initial_model(plan)
    expected = by_hand(model, rows, plan.training.local_epochs, plan.training.learning_rate)
    for entry in ("client:app", "client:client_fn"):
        trainer = OwnTrainer(replace(config, entry=entry), held, lambda found: None, clock, show)
        found = trainer.update(plan, model, rows)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert np.linalg.norm(found) > 0.01
        print(f"flower-check: {entry}: the update is what numpy makes of it (isolation {held.level.value})")
    logits = trainer.outputs(plan, model, rows.inputs)
    np.testing.assert_allclose(logits[:, 0], rows.inputs @ model[:3].astype(float) + float(model[3]), rtol=1e-12)
    larger = parse_plan(text.replace("parameters: 4}", "parameters: 5}").encode(), "plan.yaml")
    try:
        trainer.update(larger, initial.initial_model(larger), rows)
    except LocalRefusal as refusal:
        code = refusal.code
    else:
        code = ""
    assert code == "trainer_parameters", f"another number of parameters was not refused: {code}"
    data = canonical(plan)
    own = {
        org: Trainers({"risk": (config, held)}, MemoryApprovals(), clock, lambda name, data: show(data)) for org in ORGS
    }
    tables = {org: {"measurements": table(number)} for number, org in enumerate(ORGS)}
    cluster = Cluster(make_charter(ORGS, 3), 3, tables, data, own)
    for org in ORGS:
        cluster.start_member(org)
    cluster.settle()
    cluster.start_run(RUN, data)
    cluster.play(lambda: cluster.ended(RUN))
    assert {cluster.members[org].memory.ends[RUN][1] for org in ORGS} == {"finished"}
    losses = [record.loss for record in cluster.coordinator.state_of(RUN).records if record.loss is not None]
    assert losses[-1] < losses[0], losses
    print(f"flower-check: three organisations trained with it: loss {losses[0]:.4f} to {losses[-1]:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
