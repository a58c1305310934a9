"""Which coordinate of a secure sum means what, and on what scale: one layout per plan, purpose and step (wire, A17).

Promise: both sides derive the same blocks from the plan alone; `Layout.hash` stands in the manifest. Each block has a
cap (units of the value) that every participant enforces in integers after rounding, so that one participant moves the
sum by a known amount at most. With M = 2^(value_bits-1)-1 a cap times its scale never exceeds M but for rounding of
the product. Blocks, in order. train: update, weight (not with differential privacy, where the update is the sum of
clipped gradients and its denominator stands in the plan), then the evaluation blocks if evaluation is due. evaluate:
the evaluation blocks. statistics: the parts of `statistics.vector`. evaluation: holdout, correct (metric accuracy),
negative and positive score bins (metric auc), loss. standardise: rows, then per float feature present, sum, squares. A
metric that the plan does not ask for has no block: nothing more opens. With differential privacy a block that has no
price has no layout (`uncharged_block`).
"""

from dataclasses import dataclass, replace
from functools import cached_property

from fedveil_common import jcs, private_sum
from fedveil_common.crypto.labels import h, u32
from fedveil_common.messages import Purpose
from fedveil_common.plan import canonical_form, measures, parameters, spec, statistics_plans
from fedveil_common.statistics import vector

SCORE_BINS = measures.SCORE_BINS
UPDATE, WEIGHT, CLIPPED = measures.UPDATE, measures.WEIGHT, measures.CLIPPED
HOLDOUT, CORRECT, LOSS = measures.HOLDOUT, measures.CORRECT, measures.LOSS
NEGATIVE, POSITIVE = measures.NEGATIVE, measures.POSITIVE
ROWS = "rows"

LOSS_CAP = 16.0
"""The largest loss of one row that is counted; with differential privacy the plan says it (`evaluation.loss_cap`)."""


@dataclass(frozen=True, slots=True)
class Block:
    """`length` coordinates named `name`; each value is at most `cap` in absolute value and is multiplied by `scale`."""

    name: str
    length: int
    cap: float
    scale: float

    @property
    def limit(self) -> int:
        """floor(cap*scale): the largest absolute integer one participant may put into a coordinate."""
        return int(self.cap * self.scale)


@dataclass(frozen=True)
class Layout:
    """Blocks in order."""

    blocks: tuple[Block, ...]

    @cached_property
    def length(self) -> int:
        """d: how many coordinates a secure sum under this layout has."""
        return sum(block.length for block in self.blocks)

    @cached_property
    def hash(self) -> bytes:
        """H("layout", RFC 8785 list of {name, length, cap, scale})."""
        rows: list[jcs.Json] = [
            {"name": b.name, "length": b.length, "cap": float(b.cap), "scale": float(b.scale)} for b in self.blocks
        ]
        return h("layout", jcs.dumps(rows))

    def slices(self) -> dict[str, slice]:
        """Where each block lies in the vector."""
        found: dict[str, slice] = {}
        start = 0
        for block in self.blocks:
            found[block.name] = slice(start, start + block.length)
            start += block.length
        return found


def layout_for(plan: spec.Plan, purpose: Purpose, step: int) -> Layout:
    """The layout of the secure sum for `purpose` after `step` model steps. Raises ValueError for purpose statistics in
    a training plan; IntegrityError `uncharged_block` for a block of a private plan that nobody has priced.
    """
    found = _layout(plan, purpose, step)
    if plan.privacy is not None:
        private_sum.check_priced(plan, plan.privacy, purpose, step, {one.name: one.length for one in found.blocks})
    return found


def _layout(plan: spec.Plan, purpose: Purpose, step: int) -> Layout:
    match purpose:
        case Purpose.TRAIN:
            due = _evaluation(plan) if evaluation_due(plan, step) else ()
            return Layout((*_training(plan), *due))
        case Purpose.EVALUATE:
            return Layout(_evaluation(plan))
        case Purpose.STANDARDISE:
            return Layout(_standardise(plan))
        case Purpose.STATISTICS:
            return Layout(_statistics(plan))


def sums(plan: spec.Plan) -> tuple[tuple[Purpose, int], ...]:
    """(purpose, step) of every sum that a run of the plan has, but for the one that standardises."""
    if plan.statistics is not None:
        return ((Purpose.STATISTICS, 0),)
    train = tuple((Purpose.TRAIN, step) for step in range(plan.training.rounds))
    return (*train, (Purpose.EVALUATE, plan.training.rounds)) if plan.evaluation.metrics else train


def first(plan: spec.Plan) -> Layout:
    """The layout of the first of them."""
    return layout_for(plan, *sums(plan)[0])


def is_query(purpose: Purpose) -> bool:
    """Whether a sum of this purpose answers a question about data, known by its digest, and not one about a model."""
    return purpose in {Purpose.STANDARDISE, Purpose.STATISTICS}


def evaluation_due(plan: spec.Plan, step: int) -> bool:
    """Whether the train sum after `step` model steps also measures the model received (`measures.due`)."""
    return measures.due(plan, step)


def parameter_count(plan: spec.Plan) -> int:
    """Parameters of the model."""
    return parameters.count(plan.model, plan.data)


def needs_standardise(plan: spec.Plan) -> bool:
    """Whether a run of the plan begins with a secure sum of purpose standardise."""
    return plan.data.standardise is spec.Standardise.FEDERATED and bool(plan.data.float_features)


def query_digest(plan: spec.Plan) -> bytes:
    """H("query", ...) over all that determines the standardise sum, or the statistics sum: 32 bytes, the subject of its
    spent key.

    The sum covers all rows, holdout included, and no label, person or data set name enters it, so none of these is in
    the digest: plans that differ only there ask the same question, and it is answered once.
    """
    if plan.statistics is not None:
        return h("query", jcs.dumps(_question(plan)))
    asked: jcs.Json = {
        "purpose": Purpose.STANDARDISE.value,
        "features": canonical_form.features(plan.data),
        "weight_cap": plan.training.weight_cap,
        "protection": {"kind": plan.protection.kind, "value_bits": plan.protection.value_bits},
        "privacy": "none",  # a plan with a privacy block asks for no exact moments
    }
    return h("query", jcs.dumps(asked))


def answer_digest(plan: spec.Plan) -> bytes:
    """Under which an opened answer is kept for later runs: the query, and which asking of a statistics question."""
    query = query_digest(plan)
    refresh = 0 if plan.statistics is None else plan.statistics.refresh
    return h("query", query, u32(refresh)) if refresh else query


def _question(plan: spec.Plan) -> dict[str, jcs.Json]:
    """All that determines the answer, and not the number of the asking: over the same rows the answer is the same."""
    assert plan.statistics is not None
    asked: dict[str, jcs.Json] = {
        "purpose": Purpose.STATISTICS.value,
        "features": canonical_form.features(plan.data),
        "statistics": statistics_plans.canonical(replace(plan.statistics, refresh=0)),
        "protection": {"kind": plan.protection.kind, "value_bits": plan.protection.value_bits},
        "privacy": canonical_form.privacy(plan),
    }
    if plan.privacy is not None and plan.data.person is not None:
        asked["person"] = plan.data.person  # whose rows count as one
    return asked


def _statistics(plan: spec.Plan) -> tuple[Block, ...]:
    rows, scale = float(vector.asked(plan).max_rows), float(vector.per_row(plan))
    return tuple(Block(part.name, part.length, rows, scale) for part in vector.parts(plan))


def _training(plan: spec.Plan) -> tuple[Block, ...]:
    m = plan.protection.max_value
    norm = plan.protection.update_norm
    update = Block(UPDATE, parameter_count(plan), norm, m / norm)
    if plan.privacy is not None:
        if plan.privacy.adaptive is None:
            return (update,)  # no row is counted: the denominator stands in the plan
        return (update, Block(CLIPPED, 1, 0.5, 2.0 * private_sum.measure_cap(plan, plan.privacy)))
    return (update, Block(WEIGHT, 1, 1.0, float(m)))


def _evaluation(plan: spec.Plan) -> tuple[Block, ...]:
    if plan.privacy is not None:
        return _noisy_evaluation(plan, plan.privacy)
    m, cap = plan.protection.max_value, plan.training.weight_cap
    rows, losses = float(cap), LOSS_CAP * cap
    count_scale = float(m // cap)
    return tuple(
        Block(name, length, losses, m / losses) if name == LOSS else Block(name, length, rows, count_scale)
        for name, length in measures.blocks(plan)
    )


def _noisy_evaluation(plan: spec.Plan, privacy: spec.PrivacySpec) -> tuple[Block, ...]:
    """A record is `measure_cap` steps of the grid in each block, and there are at most `rows` of them (A6, D1)."""
    one, rows, most = private_sum.measure_cap(plan, privacy), float(privacy.rows), plan.evaluation.loss_cap
    return tuple(
        Block(name, length, most * rows, one / most) if name == LOSS else Block(name, length, rows, float(one))
        for name, length in measures.blocks(plan)
    )


def _standardise(plan: spec.Plan) -> tuple[Block, ...]:
    m, cap = plan.protection.max_value, plan.training.weight_cap
    rows, scale = float(cap), m / cap
    blocks = [Block(ROWS, 1, rows, scale)]
    for feature in plan.data.float_features:
        blocks += [Block(f"{kind}:{feature.name}", 1, rows, scale) for kind in ("present", "sum", "squares")]
    return tuple(blocks)
