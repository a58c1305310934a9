"""Small federations whose plan has differential privacy: what tests of private rounds start from."""

from fedveil_common import plan as plans

SETTINGS = {
    "rounds": 3,
    "seed": 7,
    "kind": "masked",
    "by": "participants",
    "norm": 16.0,
    "bits": 16,
    "rate": 1.0,
    "rows": 1000,
    "clip": 1.0,
    "noise": "noise_multiplier: 1.0",
    "sample": 1.0,
    "delta": 1e-5,
    "most": 100.0,
    "model": "{kind: logistic, l2: 0.001}",
    "target": "{column: y, type: binary}",
    "strategy": "{kind: fedavg}",
    "person": "",
    "evaluation": "",
}
PLAN = """version: 1
name: private
kind: train
data:
  dataset: table
  features:
    f0: {{type: float, range: [0, 1], clamp: true}}
    f1: {{type: float, range: [0, 1], clamp: true}}
    f2: {{type: float, range: [0, 1], clamp: true}}
    f3: {{type: float, range: [0, 1], clamp: true}}
    f4: {{type: float, range: [0, 1], clamp: true}}
  target: {target}
  min_rows: 2
  standardise: range
  {person}
model: {model}
training: {{rounds: {rounds}, learning_rate: {rate}, seed: {seed}}}
strategy: {strategy}
{evaluation}
cohort: {{min_participants: 3, max_corrupt: 1, progress_s: 3, wait_s: 600, hard_limit_s: 120}}
protection: {{kind: {kind}, value_bits: {bits}, update_norm: {norm}}}
privacy: {{unit: record, noise: {by}, rows: {rows}, clip_norm: {clip}, sample_rate: {sample}, {noise}, delta: {delta},
  max_epsilon: {most}}}
"""


def private_plan(**settings: object) -> plans.Plan:
    """The small private plan."""
    return plans.parse_plan(PLAN.format(**{**SETTINGS, **settings}).encode(), "private.yaml")


def private_bytes(**settings: object) -> bytes:
    """Its canonical bytes."""
    return plans.canonical(private_plan(**settings))


def whole_text(**settings: object) -> str:
    """The file of a plan that protects whole participants."""
    text = PLAN.replace("unit: record", "unit: participant").replace("rows: {rows}, ", "")
    return text.replace("sample_rate: {sample}, ", "").format(**{**SETTINGS, **settings})


def whole_plan(**settings: object) -> plans.Plan:
    """The plan in it."""
    return plans.parse_plan(whole_text(**settings).encode(), "whole.yaml")
