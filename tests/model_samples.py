"""Models of every kind with every rule for missing values, signed by a federation made for the purpose."""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
from fedveil_cli.world import real_world
from fedveil_common import layout, modelfile, standardisation
from fedveil_common.ids import FederationId
from fedveil_common.modelfile import ModelFile
from fedveil_common.plan import Plan, parse_plan
from fedveil_common.registry import status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.stages import Stage
from fedveil_common.registry.status import Listed, StatusList
from fedveil_common.secret import PrivateKey
from fedveil_common.standardisation import Standardisation

from tests.test_plan_and_model_commands import Federation

OURS = Federation("hospitals", b"g")
THEIRS = Federation("hospitals", b"h")

TARGETS = {
    "binary": "{column: y, type: binary}",
    "category": "{column: y, type: category, values: [red, 'gr, een', blue]}",
    "float": "{column: y, type: float, range: [-10, 30]}",
}
MODELS = {
    ("logistic", "binary"): "kind: logistic",
    ("linear", "float"): "kind: linear",
    ("softmax", "category"): "kind: softmax",
    ("mlp", "binary"): "kind: mlp, hidden: [5, 4]",
    ("mlp", "category"): "kind: mlp, hidden: [5]",
    ("mlp", "float"): "kind: mlp, hidden: [4, 3]",
    ("trainer", "binary"): "kind: trainer, name: risk, parameters: 7",
}
STANDARDISE = ("federated", "range", "none")
BUILT_IN = [key for key in MODELS if key[0] != "trainer"]


FEATURES = {
    "sex": "{type: category, values: [F, M]}",
    "strict": "{type: float, range: [-3, 3]}",
    "label": "{type: float, range: [0, 10], missing: mean}",
    "größe": "{type: float, range: [-5, 5], missing: 2.5, clamp: true}",
    "colour": "{type: category, values: [r, 'g h', ü], missing: r}",
    "dropped": "{type: float, range: [0, 1], missing: drop, clamp: true}",
    "ward": "{type: category, values: [a, b, c, d], missing: drop}",
}
"""Columns that stand for every rule: strict, mean, value, drop, clamped, and categories likewise."""


def plan_for(
    kind: str, target: str, standardise: str = "range", features: Mapping[str, str] = FEATURES, more: str = ""
) -> Plan:
    """A plan over `features`, name -> rule; `more`: further lines."""
    trainer = kind == "trainer"
    columns = "\n".join(f"    {json.dumps(name, ensure_ascii=False)}: {rule}" for name, rule in features.items())
    text = f"""\
version: 1
name: sample
kind: train
data:
  dataset: d
  features:
{columns}
  target: {TARGETS[target]}
  min_rows: 3
  standardise: {standardise}
model: {{{MODELS[kind, target]}{"" if trainer else ", l2: 0.01"}}}
training: {{rounds: 1, local_epochs: 1, batch_size: 10, learning_rate: 0.5, seed: 7, weight_cap: 100}}
evaluation: {{holdout: 0.2}}
cohort: {{min_participants: 3}}
protection: {{kind: masked, update_norm: 5}}
privacy: none
{more}"""
    return parse_plan(text.encode(), "p")


def scaling_for(plan: Plan) -> Standardisation:
    """What the plan's rule gives; for federated ones moments that are no round numbers."""
    if plan.data.standardise.value != "federated":
        return standardisation.without_sum(plan)
    by_range = standardisation.by_range(plan)
    return Standardisation(by_range.mean + 0.1, by_range.std * 0.37)


def unsigned(plan: Plan, seed: int = 3) -> ModelFile:
    """A model that was trained by nobody: normal parameters."""
    values = np.random.default_rng(seed).normal(0, 0.9, layout.parameter_count(plan)).astype(np.float32)
    return ModelFile(plan, values, scaling_for(plan), "", (), "", "")


def signed(plan: Plan, federation: Federation = OURS, roster_version: int = 2, seed: int = 3) -> ModelFile:
    """The same, signed by a coordinator."""
    roster = federation.roster(roster_version)
    return federation.sign(unsigned(plan, seed), federation.id, roster_version, roster)


def signed_bytes(plan: Plan, federation: Federation = OURS, seed: int = 3) -> bytes:
    """The file of it."""
    return modelfile.write_model(signed(plan, federation, seed=seed))


def status_file(file: ModelFile, stage: Stage, key: PrivateKey, chain: bytes) -> bytes:
    """A status list of now that names one model; `key`: of the coordinator."""
    manifest = modelfile.parse_manifest(file.signatures[0].body)
    listed = (Listed(ModelRef.of(manifest), stage, 1_700_000_000),)
    now = int(real_world().clock.wall_s())
    until = now + status.VALID_S
    made = StatusList(manifest.federation_id, 1, 1_700_000_000, now, until, 1, b"h" * 32, listed)
    return status.to_file(made, key, chain)


def other_federation(file: ModelFile) -> ModelFile:
    """`file` under a manifest that names another federation."""
    return OURS.sign(dataclasses.replace(file), FederationId("others"), 2, OURS.roster(2))
