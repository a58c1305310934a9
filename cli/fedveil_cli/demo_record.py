"""The further plans of the demo: what the attack is tried on besides the training that the demo is about.

`one_record`: one hospital holds a single record in a data set of its own and takes one step on it; the others train on
their rows. `one_round`: the demo's plan with a single round. A hospital answers only once for the same rows and the
same model, so what runs again without protection has another seed, that is, another first model; and in DATASET the
other hospitals leave out some rows, because all their rows together have answered in the demo's training.
"""

from dataclasses import replace

from fedveil_common import plan as plans
from fedveil_common.plan import Plan
from fedveil_participant.checks import MIN_CHANGED_ROWS
from fedveil_participant.data import holdout

from fedveil_cli import scoring

DATASET = "one_record"
SHOWN = ("mean_radius", "mean_texture", "worst_area", "worst_smoothness")
"""Columns of the record that the demo prints."""


def one_record(plan: Plan, seed: int) -> Plan:
    """The demo's plan on DATASET: one step for a single row, sent at full weight."""
    return plans.with_seed(
        replace(
            plan,
            name="one-record",
            data=replace(plan.data, dataset=DATASET, min_rows=1),
            model=replace(plan.model, l2=0.0),
            training=replace(plan.training, rounds=1, local_epochs=1, batch_size=1, weight_cap=1),
        ),
        seed,
    )


def one_round(plan: Plan, seed: int) -> Plan:
    """The demo's plan with a single round."""
    return plans.with_seed(replace(plan, name="one-round", training=replace(plan.training, rounds=1)), seed)


def without_last_rows(table: bytes) -> bytes:
    """The table but as many of its last rows as must be others before the same question is answered again."""
    return b"".join(table.splitlines(keepends=True)[:-MIN_CHANGED_ROWS])


def training_row(plan: Plan, table: bytes) -> bytes:
    """A table of the first row of `table` that the holdout rule leaves for training. ValueError if there is none."""
    header, *rows = table.decode().splitlines()
    for row in rows:
        single = f"{header}\n{row}\n".encode()
        source = scoring.source_of(single, "single.csv", plan)
        if not holdout.held_out(source.positions, plan.evaluation.holdout).any():
            return single
    raise ValueError("every row is held out")
