"""How a model came about: the first model, drawn from the plan's seed, moved by the opened sums, in order.

Promise: both sides compute every model, and the moments of the strategy, with this one pure walk, so the coordinator
cannot hand out another model than the sums lead to: a participant never trains on bytes that it did not derive.
Bit-exact on every machine (strategies compute in float64 in a fixed order and round to float32). Source: FLSA/1 section
2.6, "provenance" (docs/protocol.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedveil_common import adaptive_clip, evaluation, layout, standardisation, stopping, strategies, transcript
from fedveil_common.decode import Decoded, decode
from fedveil_common.errors import PeerError, RoundAborted
from fedveil_common.ids import RunId
from fedveil_common.initial import initial_model
from fedveil_common.layout import HOLDOUT
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_common.standardisation import Standardisation


@dataclass(frozen=True, slots=True)
class Lineage:
    """A point on the walk: after `step` model steps. `moved`: the model and the moments; as public as the sums.

    `losses`: what the sums so far measured of earlier models, where the plan has a stopping rule. `clip`: the clip norm
    of the next update, in multiples of the plan's (`adaptive_clip`).
    """

    plan: Plan
    standardisation: Standardisation
    step: int
    moved: strategies.Moved
    losses: tuple[stopping.Loss, ...] = ()
    clip: float = 1.0

    @property
    def model(self) -> NDArray[np.float32]:
        """The model: float32 in plan order."""
        return self.moved.model

    @property
    def model_hash(self) -> bytes:
        """H("model", ...) of the parameters."""
        return transcript.model_hash(self.model.astype("<f4", copy=False).data)

    @property
    def state_hash(self) -> bytes:
        """`strategies.state_hash` of the moments: the next sum's manifest carries it beside the model hash."""
        return strategies.state_hash(self.moved)

    @property
    def verdict(self) -> stopping.Verdict:
        """What the plan's stopping rule says at this point."""
        return stopping.verdict(self.plan.evaluation.stop, self.losses)


ReadSum = Callable[[RunId, int, Lineage], Signed]
"""(run, round, the point it moves) -> the opened train sum of that round."""


def set_out(plan: Plan, standardise_sum: Signed | None, standardised_in: RunId | None, read: ReadSum) -> Lineage:
    """The first model of `plan`, walked from the seed through every run that it continues. Moments begin anew.

    `standardised_in`: the run whose first round was the standardise sum; its train rounds count from 2. Raises
    PeerError `model_not_derived` if the sums do not lead to `model.initial`; else as `begin` and `advance`.
    """
    lineage = begin(replace(plan, continues=()), standardise_sum)
    for number, leg in enumerate(plan.continues, start=1):
        first = 2 if standardised_in == leg.run else 1
        while lineage.step < leg.steps:
            lineage = advance(lineage, read(RunId(leg.run), first + lineage.step, lineage))
        upto = replace(plan, continues=plan.continues[:number])
        lineage = Lineage(upto, lineage.standardisation, 0, strategies.start(plan, lineage.model))
    if lineage.model_hash.hex() != plan.model.initial:
        raise PeerError(
            "model_not_derived",
            "the sums of the runs that the plan continues do not lead to the model that it names",
            not_done="nothing was trained, no key was made",
        )
    return lineage


def begin(plan: Plan, standardise_sum: Signed | None) -> Lineage:
    """The walk's start, for a plan that continues no run.

    `standardise_sum`: the opened sum of purpose standardise, None if the plan needs none. Raises ValueError if the sum
    is missing, superfluous or of another length than the layout says.
    """
    if layout.needs_standardise(plan) != (standardise_sum is not None):
        raise ValueError("the plan and the standardise sum do not fit together")
    if standardise_sum is None:
        scaling = standardisation.without_sum(plan)
    else:
        scaling = standardisation.from_sum(
            plan, decode(layout.layout_for(plan, Purpose.STANDARDISE, 0), standardise_sum)
        )
    return Lineage(plan, scaling, 0, strategies.start(plan, initial_model(plan)))


def advance(lineage: Lineage, train_sum: Signed) -> Lineage:
    """One model step by the opened sum of the train round that received `lineage.model`.

    Raises RoundAborted `no_weight` or IntegrityError `model_rejected` as the strategy does.
    """
    shape = layout.layout_for(lineage.plan, Purpose.TRAIN, lineage.step)
    decoded = decode(shape, train_sum)
    moved = strategies.apply(lineage.plan, lineage.moved, adaptive_clip.scaled(lineage.plan, lineage.clip, decoded))
    losses = (*lineage.losses, *_measured(lineage, decoded))
    clip = adaptive_clip.following(lineage.plan, lineage.clip, decoded)
    return replace(lineage, step=lineage.step + 1, moved=moved, losses=losses, clip=clip)


def _measured(lineage: Lineage, decoded: Decoded) -> tuple[stopping.Loss, ...]:
    """The loss in this sum of the model that it received, if the stopping rule looks at it."""
    if lineage.plan.evaluation.stop is None or not lineage.step or HOLDOUT not in decoded:
        return ()
    try:
        return ((lineage.step, evaluation.metrics(lineage.plan, decoded).loss),)
    except RoundAborted:
        return ()  # nobody in this sum holds out a row
