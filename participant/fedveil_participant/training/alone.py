"""The same training without a federation: what one organisation gets from its own rows, or all from pooled rows.

For comparison only (demo, simulation): it sees its sources in clear, so it runs where one process holds them anyway.
Promise: as many passes over the rows as the plan gives a participant, the same model, holdout rule and trainer.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from fedveil_common import initial, layout, standardisation, strategies
from fedveil_common.crypto.labels import h, u32
from fedveil_common.decode import Readings
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan, PrivacySpec, Unit
from fedveil_common.secret import Seed
from fedveil_common.standardisation import Standardisation
from numpy.typing import NDArray

from fedveil_participant.data.csv_source import Source
from fedveil_participant.data.prepare import Rows, prepare
from fedveil_participant.training.clipped import clipped_sum
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.trainer import Trainer
from fedveil_participant.update import contribution


def fit(
    plan: Plan, sources: Sequence[Source], trainer: Trainer | None = None
) -> tuple[NDArray[np.float32], Standardisation]:
    """The model (float32, plan order) and standardisation that the rows of `sources`, put together, give."""
    scaling = _moments(plan, sources) if layout.needs_standardise(plan) else standardisation.without_sum(plan)
    parts = [prepare(plan, source, scaling).train for source in sources]
    rows = Rows(np.concatenate([part.inputs for part in parts]), np.concatenate([part.target for part in parts]))
    model = initial.initial_model(plan)
    chosen = trainer or GradientDescent()
    if plan.privacy is not None and plan.privacy.unit is Unit.RECORD:
        return _without_noise(plan, plan.privacy, model, rows, chosen), scaling
    for _ in range(plan.training.rounds):
        model = (model.astype(np.float64) + chosen.update(plan, model, rows)).astype(np.float32)
    return model, scaling


def _without_noise(
    plan: Plan, privacy: PrivacySpec, model: NDArray[np.float32], rows: Rows, trainer: Trainer
) -> NDArray[np.float32]:
    """The same steps, each over a sample of these rows alone, clipped as in the federation, and no noise."""
    here = replace(plan, privacy=replace(privacy, rows=len(rows)))
    scale = layout.layout_for(plan, Purpose.TRAIN, 0).blocks[0].scale
    moved = strategies.start(plan, model)
    for step in range(plan.training.rounds):
        secret = Seed(h("alone", u32(step)))
        total = clipped_sum(plan, privacy, moved.model, rows, secret, trainer)
        moved = strategies.apply(here, moved, {layout.UPDATE: Readings(total, scale)})
    return moved.model


def _moments(plan: Plan, sources: Sequence[Source]) -> Standardisation:
    """The moments of all rows together, without rounding."""
    names = [block.name for block in layout.layout_for(plan, Purpose.STANDARDISE, 0).blocks]
    parts = [contribution(plan, Purpose.STANDARDISE, 0, source, None, None) for source in sources]
    sums = [Readings(np.asarray(np.sum(np.stack(values), axis=0)), 1.0) for values in zip(*parts, strict=True)]
    return standardisation.from_sum(plan, dict(zip(names, sums, strict=True)))
