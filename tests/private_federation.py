"""Small federations whose plan has differential privacy: what tests of private rounds start from."""

from federation import RUN, body_of
from fedveil_common import member_noise, private_sum
from fedveil_common import plan as plans
from fedveil_common.crypto.kdf import derive
from fedveil_common.dp.distribution import DiscreteGaussian
from fedveil_common.masking.ring import Signed
from fedveil_common.member_noise import Piece
from fedveil_common.messages import Manifest, Result
from fedveil_common.secret import Seed
from fedveil_simulation.cluster import Cluster

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


def share(plan: plans.Plan, quorum: int = 4, corrupt: int = 1, dealers: int = 5) -> int:
    """The variance of all that one member draws for a coordinate; as many may be lost as the quorum lets."""
    levels = private_sum.shares(plan, dealers, quorum, corrupt)
    assert levels is not None
    return levels.each(levels.tolerated)


def own_noise(plan: plans.Plan, key: bytes, factor: float = 1.0) -> list[Piece]:
    """What one of five draws under a key, its variances times `factor`."""
    levels = private_sum.shares(plan, 5, 4, 1)
    assert levels is not None
    variances = (levels.base, *levels.components)
    return [
        Piece(Seed(derive(b"", key, f"test/piece/{number}")), DiscreteGaussian(round(one * factor)))
        for number, one in enumerate(variances)
    ]


def said_of(cluster: Cluster, number: int) -> tuple[Manifest, Result]:
    """What the coordinator signed of an opened round."""
    record = cluster.published(RUN, number)
    manifest, result = body_of(record.manifest), body_of(record.result)
    assert isinstance(manifest, Manifest)
    assert isinstance(result, Result)
    return manifest, result


def settled_sum(cluster: Cluster, plan: plans.Plan, number: int) -> Signed:
    """The sum of a round as models are made of it."""
    return member_noise.settled(plan, *said_of(cluster, number), cluster.memory.read_sum(RUN, number))
