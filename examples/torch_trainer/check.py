"""`make torch-check`: the example in PyTorch against the built-in network, with a real torch.

It needs the Python named in trainer.toml to have torch and numpy (Debian: python3-torch); where it has not, this says
so and ends with 0. Shown: the gradient of each record is the built-in one; a private sum is the built-in one but for
rounding; batch normalisation is refused, when the plan is accepted and in a step.
"""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from fedveil_cli.world import SystemClock
from fedveil_common.errors import LocalRefusal
from fedveil_common.plan import Plan, parameters, parse_plan
from fedveil_common.secret import Seed
from fedveil_participant.data.prepare import Rows
from fedveil_participant.isolation import probe
from fedveil_participant.isolation.levels import Confinement
from fedveil_participant.training.clipped import clipped_sum
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.own_trainer import MemoryApprovals, OwnTrainer, TrainerConfig, Trainers
from fedveil_participant.training.record_gradients import record_gradients
from fedveil_participant.training.trainer_config import read_config
from numpy.typing import NDArray

HERE = Path(__file__).parent
ROWS = 200
WAYS = {
    "as it is": "",
    "row by row": "vmap = functional_call = make_functional = None",
}
"""How the gradients are made: with the best that this torch has, and without any of it."""


def plan_with(model: str) -> Plan:
    """The example's plan with another model."""
    lines = (HERE / "plan.yaml").read_text().splitlines()
    text = "\n".join(f"model: {model}" if line.startswith("model:") else line for line in lines)
    return parse_plan(text.encode(), "plan.yaml")


def trainer_of(config: TrainerConfig, folder: Path, old: str, new: str) -> TrainerConfig:
    """The example with a change to its code, in a folder of its own."""
    text = (config.code / "network.py").read_text()
    assert old in text, old
    folder.mkdir()
    (folder / "network.py").write_text(text.replace(old, new))
    return replace(config, code=folder)


def held(config: TrainerConfig) -> Confinement:
    """The best isolation that this machine has."""
    return probe.find(config.python, (), none_allowed=True, modules=("numpy", "torch"))


def running(config: TrainerConfig) -> OwnTrainer:
    """It, with what it prints going to stderr."""
    return OwnTrainer(
        config, held(config), lambda found: None, SystemClock(), lambda data: print(data.decode(), file=sys.stderr)
    )


def main() -> int:
    """The whole check; 0 if all holds or there is no torch."""
    config = read_config("network", HERE / "trainer.toml")
    probe = "import torch, numpy; print(torch.__version__)"
    found = subprocess.run([config.python, "-I", "-c", probe], capture_output=True, text=True, check=False)
    if found.returncode:
        print(f"torch-check: skipped, nothing was checked: {config.python} has no torch (Debian: python3-torch)")
        return 0
    own, built_in = parse_plan((HERE / "plan.yaml").read_bytes(), "plan.yaml"), plan_with("{kind: mlp, hidden: [8]}")
    privacy = own.privacy
    assert privacy is not None
    draw = np.random.default_rng(1)
    rows = Rows(draw.uniform(-1, 1, (ROWS, 3)), draw.integers(0, 2, ROWS).astype(np.float64))
    model = draw.normal(0, 0.5, own.model.parameters).astype(np.float32)
    layers = parameters.layers(built_in.model, built_in.data)
    expected = record_gradients(built_in, layers, model.astype(np.float64), rows.inputs, rows.target)
    secret = Seed(b"t" * 32)
    check_module(own, model, rows, expected, secret)
    with tempfile.TemporaryDirectory() as name:
        for way, change in WAYS.items():
            folder = Path(name) / way.replace(" ", "-")
            trainer = running(trainer_of(config, folder, "HIDDEN = 8\n", f"HIDDEN = 8\n{change}\n"))
            gradients: list[np.ndarray] = []
            trainer.gradients(own, model, rows, [np.arange(150), np.arange(150, ROWS)], secret, gradients.append)
            np.testing.assert_allclose(np.concatenate(gradients), expected, rtol=1e-9, atol=1e-12)
            sums = [
                clipped_sum(own, privacy, model, rows, secret, trainer),
                clipped_sum(built_in, privacy, model, rows, secret),
            ]
            assert np.abs(sums[0] - sums[1]).max() <= 1, "rounding of what differs in its last bits"
            print(f"torch-check: torch {found.stdout.strip()}, {way}: gradients and private sum are the built-in ones")
        normalised = "torch.nn.Linear(inputs, HIDDEN), torch.nn.BatchNorm1d(HIDDEN, affine=False), torch.nn.ReLU()"
        mixing = trainer_of(
            config, Path(name) / "mixing", "torch.nn.Linear(inputs, HIDDEN), torch.nn.ReLU()", normalised
        )
        text = (mixing.code / "network.py").read_text()
        batched = (
            "logits = network.train(len(inputs) > 1)(inputs)\n            each = one_of_all(network, logits, target)"
        )
        (mixing.code / "network.py").write_text(
            text.replace("each = one_by_one(network, inputs, target)", batched).replace(
                "HIDDEN = 8\n", f"HIDDEN = 8\n{WAYS['row by row']}\n"
            )
            + OF_ALL
        )
        trainers = Trainers(
            {"network": (mixing, held(mixing))}, MemoryApprovals(), SystemClock(), lambda name, data: None
        )
        for step in (
            lambda: trainers.accept(own),
            lambda: clipped_sum(own, privacy, model, rows, secret, running(mixing)),
        ):
            try:
                step()
            except LocalRefusal as refusal:
                code = refusal.code
            else:
                code = ""
            assert code == "trainer_mixes_rows", f"batch normalisation was not found: {code}"
        print("torch-check: batch normalisation is refused (trainer_mixes_rows)")
    return 0


def check_module(
    own: Plan, model: NDArray[np.float32], rows: Rows, expected: NDArray[np.float64], secret: Seed
) -> None:
    """The adapter: a module without any code for Fedveil has the built-in gradients, outputs and step."""
    module = read_config("network", HERE / "module.toml")
    trainer = running(module)
    gradients: list[NDArray[np.float64]] = []
    trainer.gradients(own, model, rows, [np.arange(ROWS)], secret, gradients.append)
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-9, atol=1e-12)
    text = (HERE / "plan.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("privacy:")]
    text = "\n".join([*lines, "evaluation: {every: 1, holdout: 0.2}", "privacy: none"])
    text = text.replace("rounds: 20,", "rounds: 20, local_epochs: 2, batch_size: 1000, weight_cap: 1000,")
    plain = parse_plan(text.encode(), "plan.yaml")
    line = next(line for line in lines if line.startswith("model:"))
    like = parse_plan(text.replace(line, "model: {kind: mlp, hidden: [8]}").encode(), "plan.yaml")
    found, step = trainer.update(plain, model, rows), GradientDescent().update(like, model, rows)
    np.testing.assert_allclose(found, step, rtol=1e-7, atol=1e-10)
    assert np.linalg.norm(step) > 0.01
    outputs = trainer.outputs(plain, model, rows.inputs)
    np.testing.assert_allclose(outputs, GradientDescent().outputs(like, model, rows.inputs), rtol=1e-9, atol=1e-12)
    print("torch-check: a module by the adapter has the built-in gradients, step and outputs")
    shorter = plan_with("{kind: trainer, name: network, parameters: 40}")
    try:
        trainer.outputs(shorter, model[:40], rows.inputs)
    except LocalRefusal as refusal:
        code = refusal.code
    assert code == "trainer_parameters", code


OF_ALL = '''

def one_of_all(network, logits, target):
    """Slopes of each row's loss through a batch that normalises, so that rows meet in it."""
    found = [[] for _ in network.parameters()]
    for logit, wanted in zip(logits, target, strict=True):
        loss = torch.nn.functional.softplus(logit[0]) - wanted * logit[0]
        slopes = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        for kept, slope in zip(found, slopes, strict=True):
            kept.append(slope)
    return [torch.stack(kept) for kept in found]
'''

if __name__ == "__main__":
    sys.exit(main())
