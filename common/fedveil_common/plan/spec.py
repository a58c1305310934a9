"""A plan as values: what is learned, from which columns, under which protection.

Promise: a `Plan` that left `parse_plan` or `parse_canonical` is complete (every default of its version is written out),
consistent (relations between fields hold) and something this release can carry out; code that holds one checks nothing
again. The order of a model's parameters is `plan.parameters`. Source: the plan file's annotations, FLSA/1 A2, A6, A17.
"""

import enum
from dataclasses import dataclass

from fedveil_common.plan.queries import StatisticsSpec


class Kind(enum.StrEnum):
    """What a plan is for."""

    TRAIN = "train"
    STATISTICS = "statistics"


class ModelKind(enum.StrEnum):
    """Which model is fitted."""

    LINEAR = "linear"
    LOGISTIC = "logistic"
    SOFTMAX = "softmax"
    MLP = "mlp"
    TRAINER = "trainer"


class Standardise(enum.StrEnum):
    """How float features are scaled: by securely summed moments, by their declared ranges, or not at all."""

    FEDERATED = "federated"
    RANGE = "range"
    NONE = "none"


class Missing(enum.StrEnum):
    """What a missing value becomes: an error, the mean, nothing (its row goes), or `fill`."""

    ERROR = "error"
    MEAN = "mean"
    DROP = "drop"
    VALUE = "value"


class Weight(enum.StrEnum):
    """What a participant's update weighs: its training rows (capped), or the same as everyone's."""

    ROWS = "rows"
    UNIFORM = "uniform"


class Metric(enum.StrEnum):
    """What an evaluation measures; `loss` always."""

    LOSS = "loss"
    ACCURACY = "accuracy"
    AUC = "auc"


@dataclass(frozen=True, slots=True)
class FloatFeature:
    """A numeric column within [lo, hi], natural units. `fill` stands only with Missing.VALUE."""

    name: str
    lo: float
    hi: float
    missing: Missing = Missing.ERROR
    fill: float | None = None
    clamp: bool = False


@dataclass(frozen=True, slots=True)
class CategoryFeature:
    """A column with a closed list of values, compared as text. `fill` stands only with Missing.VALUE."""

    name: str
    values: tuple[str, ...]
    missing: Missing = Missing.ERROR
    fill: str | None = None


Feature = FloatFeature | CategoryFeature


@dataclass(frozen=True, slots=True)
class BinaryTarget:
    """1 where the column equals `positive` (as numbers where both parse, else as text), else 0."""

    column: str
    positive: str = "1"


@dataclass(frozen=True, slots=True)
class FloatTarget:
    """A numeric column within [lo, hi]; models are fitted to it scaled to [-1, 1] by this range."""

    column: str
    lo: float
    hi: float


@dataclass(frozen=True, slots=True)
class CategoryTarget:
    """A column with a closed list of classes, compared as text; class k is `values[k]`."""

    column: str
    values: tuple[str, ...]


Target = BinaryTarget | FloatTarget | CategoryTarget


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Which table and columns a participant reads; nothing else is read."""

    dataset: str
    features: tuple[Feature, ...]
    target: Target
    person: str | None
    min_rows: int
    standardise: Standardise

    @property
    def float_features(self) -> tuple[FloatFeature, ...]:
        """The float features, in plan order: the order of every array in a standardisation."""
        return tuple(feature for feature in self.features if isinstance(feature, FloatFeature))

    @property
    def inputs(self) -> int:
        """How many inputs a model over these features has."""
        return sum(1 if isinstance(f, FloatFeature) else len(f.values) - 1 for f in self.features)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The model, its ridge penalty, and the hash (64 hex digits) of the first model, always filled in. `hidden`: the
    units of each hidden layer, for `mlp` only. `trainer` and `parameters`: which of the organisations' own
    trainers, and how many parameters its model has, for `trainer` only; what they mean is the trainer's business.
    """

    kind: ModelKind
    l2: float
    initial: str
    hidden: tuple[int, ...] = ()
    trainer: str = ""
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Local training and weighting. `weight_cap` in rows (w_cap of A6); `proximal_mu`: FedProx's mu, 0 for no term."""

    rounds: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    proximal_mu: float
    seed: int
    weight: Weight
    weight_cap: int


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """`fedavg`: the model moves by the mean update."""

    kind: str = "fedavg"


@dataclass(frozen=True, slots=True)
class MomentumSpec:
    """`fedavgm`: by a decaying sum of the mean updates. `momentum` in [0, 1)."""

    learning_rate: float
    momentum: float
    kind: str = "fedavgm"


@dataclass(frozen=True, slots=True)
class AdaptiveSpec:
    """`fedadagrad` (beta2 is None), `fedadam`, `fedyogi`: by the mean updates over the root of their squares.

    `beta1`, `beta2` in [0, 1), `tau` > 0 in units of the update.
    """

    kind: str
    learning_rate: float
    beta1: float
    beta2: float | None
    tau: float


Strategy = StrategySpec | MomentumSpec | AdaptiveSpec
"""What a model becomes after a sum."""


@dataclass(frozen=True, slots=True)
class StopSpec:
    """The run stops after `patience` measured losses in a row none of which is more than `min_delta` below the best."""

    patience: int
    min_delta: float


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """When and what is measured on holdout rows (fraction `holdout`), which never train; `stop`: None for no rule. No
    metrics: nothing is measured, and every row trains. `loss_cap`: the largest loss of one record (person) that counts,
    with differential privacy only, where the noise on a loss is in proportion to it; else 0.
    """

    every: int
    metrics: tuple[Metric, ...]
    holdout: float
    stop: StopSpec | None = None
    loss_cap: float = 0.0


@dataclass(frozen=True, slots=True)
class CohortSpec:
    """How many must take part, how many may be corrupt, and the three knobs of time (seconds)."""

    min_participants: int
    max_corrupt: int
    wait_s: float
    progress_s: float
    hard_limit_s: float


MASKED, PAILLIER = "masked", "paillier"


@dataclass(frozen=True, slots=True)
class ProtectionSpec:
    """How updates are hidden: `masked`, or `paillier` under the holders' key of the id `key` (empty under masked).
    `update_norm` in units of the update. ValueError for a key under masked, or paillier without one.
    """

    kind: str
    value_bits: int
    update_norm: float
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.key) != (self.kind == PAILLIER):
            raise ValueError("protection paillier has a key, and no other has one")

    @property
    def max_value(self) -> int:
        """M = 2^(value_bits-1)-1: the largest integer of one quantised coordinate."""
        return (1 << (self.value_bits - 1)) - 1


class Unit(enum.StrEnum):
    """Whose presence differential privacy hides: one record (one person, if the plan names `data.person`), or all that
    one participant does.
    """

    RECORD = "record"
    PARTICIPANT = "participant"


class NoiseSource(enum.StrEnum):
    """Who adds the noise: every participant its share, so that nobody knows the whole; or the coordinator, as
    ciphertexts that it commits to before any input exists, and which it can take off again for itself.
    """

    PARTICIPANTS = "participants"
    COORDINATOR = "coordinator"


class NoiseKind(enum.StrEnum):
    """The distribution of the noise on a coordinate. A sum of Laplace shares is not Laplace: with it the coordinator
    draws all of it, for statistics only (D9).
    """

    GAUSSIAN = "gaussian"
    LAPLACE = "laplace"


@dataclass(frozen=True, slots=True)
class AdaptiveClip:
    """A clip norm that follows the updates: towards the one that a share `quantile` of them does not exceed, by a
    factor of e^rate a step at most.
    """

    quantile: float
    rate: float


@dataclass(frozen=True, slots=True)
class PrivacySpec:
    """Differential privacy of the sums of a plan. `rows`: N0, the public nominal number of records of all participants
    together, the denominator of every mean; 0 for unit participant, whose denominator is cohort.min_participants.
    `clip_norm`: C, the L2 norm to which the gradient of one record (person), or a participant's update, is clipped.
    `sample_rate`: q in (0, 1], with which each is drawn, independently, for each step; 1 for unit participant.
    `noise_multiplier`: z, the standard deviation of the noise on a sum in units of C; of Laplace noise, the scale in
    units of what one record moves the sum by in L1 norm. `delta`, `max_epsilon`: the run
    ends before its epsilon at this delta would exceed it. `target_epsilon`: while a plan is read, what
    the multiplier is sought for; then 0. `adaptive`: under unit participant, how the clip norm moves on from C.
    """

    unit: Unit
    noise: NoiseSource
    rows: int
    clip_norm: float
    sample_rate: float
    noise_multiplier: float
    delta: float
    max_epsilon: float
    target_epsilon: float = 0.0
    adaptive: AdaptiveClip | None = None
    mechanism: NoiseKind = NoiseKind.GAUSSIAN


@dataclass(frozen=True, slots=True)
class Leg:
    """An earlier run that this plan goes on from: its id, and after how many of its model steps."""

    run: str
    steps: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan. `purpose` to `retention_days` are for people and records; they are in the hash when set.

    `continues`: the earlier runs whose sums, in order, lead from the seed to the first model, which `model.initial`
    names; empty where the first model is the one drawn from the seed. `privacy`: None for exact sums
    ("none" in the file). `statistics`: the questions of a plan of kind statistics, None in a training plan; target,
    model, training, strategy and evaluation are then the stand-ins of `plan.statistics_plans`, of which nothing is
    written down and nothing follows.
    """

    version: int
    name: str
    kind: Kind
    data: DataSpec
    model: ModelSpec
    training: TrainingSpec
    strategy: Strategy
    evaluation: EvaluationSpec
    cohort: CohortSpec
    protection: ProtectionSpec
    privacy: PrivacySpec | None = None
    purpose: str | None = None
    controller: str | None = None
    legal_basis: str | None = None
    contact: str | None = None
    retention_days: int | None = None
    continues: tuple[Leg, ...] = ()
    statistics: StatisticsSpec | None = None

    @property
    def earlier_runs(self) -> tuple[str, ...]:
        """The runs from whose models this one descends, the oldest first."""
        return tuple(leg.run for leg in self.continues)
