"""`make torch-check`: what `fedveil model export --to torch` writes, loaded by a real torch and compared with ours.

It needs /usr/bin/python3 to have torch (Debian: python3-torch); where it has not, this says so and ends with 0.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from fedveil_common import layout, network, standardisation
from fedveil_common.exchange import arrays
from fedveil_common.modelfile import ModelFile
from fedveil_common.plan import parse_plan

HERE = Path(__file__).parent
PYTHON = "/usr/bin/python3"
ROWS = [[0.5, -2.0, 1.0], [2.5, 2.0, 0.0], [-3.0, 0.1, 1.0]]
PLAN = """
version: 1
name: check
kind: train
data:
  dataset: d
  features:
    a: {type: float, range: [-3, 3]}
    b: {type: float, range: [-2, 5]}
    c: {type: category, values: [x, z]}
  target: {column: y, type: category, values: [red, green, blue]}
  min_rows: 3
  standardise: range
model: {MODEL}
training: {rounds: 1, local_epochs: 1, batch_size: 10, learning_rate: 0.5, seed: 7, weight_cap: 100}
evaluation: {holdout: 0.2}
cohort: {min_participants: 3}
protection: {kind: masked, update_norm: 5}
privacy: none
"""
CODE = "import json, sys, torch; sys.path.insert(0, sys.argv[1]); import network; " + (
    "print(json.dumps(network.load(sys.argv[2])(torch.tensor(json.loads(sys.argv[3]), dtype=torch.float64)).tolist()))"
)


def main() -> int:
    """0 if torch says what we say, or is not there."""
    if subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode:
        print(f"torch-check: skipped, nothing was checked: {PYTHON} has no torch (Debian: python3-torch)")
        return 0
    for model in ("kind: softmax", "kind: mlp, hidden: [5, 4]"):
        plan = parse_plan(PLAN.replace("MODEL", model).encode(), "check")
        values = np.random.default_rng(1).normal(size=layout.parameter_count(plan)).astype(np.float32)
        scaling = standardisation.by_range(plan)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            path.write_bytes(arrays.to_torch(ModelFile(plan, values, scaling, "", (), "", ""), {}))
            command = [PYTHON, "-c", CODE, str(HERE), str(path), json.dumps(ROWS)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows = np.array(ROWS)
        rows[:, :2] = (rows[:, :2] - scaling.mean) / scaling.std
        np.testing.assert_allclose(found, network.outputs(plan, values, rows), rtol=0, atol=1e-9)
        print(f"torch-check: a model of {model} says the same in torch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
