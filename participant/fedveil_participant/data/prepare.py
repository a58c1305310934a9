"""A source split into what trains and what is held out, as the arrays a model works on.

Promise: a holdout row never reaches a trainer. All arrays stay with the organisation.
"""

from dataclasses import dataclass

import numpy as np
from fedveil_common import design
from fedveil_common.errors import PolicyRefusal
from fedveil_common.plan import Plan
from fedveil_common.standardisation import Standardisation
from numpy.typing import NDArray

from fedveil_participant.data import holdout
from fedveil_participant.data.csv_source import Source
from fedveil_participant.data.units import Units


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """`inputs`: float64 (rows, inputs), standardised. `target`: float64 (rows,), 0/1, a class's index, or scaled to
    [-1, 1]. `persons`: uint64 (rows,), equal for the rows of one person; None where each row stands for itself.
    """

    inputs: NDArray[np.float64]
    target: NDArray[np.float64]
    persons: NDArray[np.uint64] | None = None

    @property
    def units(self) -> Units:
        """Which of the rows belong together."""
        return Units.single(len(self)) if self.persons is None else Units.grouped(self.persons)

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The rows that train and the rows that measure."""

    train: Rows
    held_out: Rows


def prepare(plan: Plan, source: Source, standardisation: Standardisation) -> Prepared:
    """The source as model inputs, split by the plan's holdout rule."""
    matrix = design.inputs(plan, standardisation, source.table)
    target = design.targets(plan, source.table)
    out = holdout.held_out(source.positions, plan.evaluation.holdout)
    persons = source.positions if plan.data.person is not None else None

    def of(which: NDArray[np.bool_]) -> Rows:
        return Rows(matrix[which], target[which], None if persons is None else persons[which])

    return Prepared(of(~out), of(out))


def check_rows(plan: Plan, source: Source) -> None:
    """As `check_row_count`, of what is left of a source after the plan's own rules."""
    check_row_count(plan, source.table.rows)


def check_row_count(plan: Plan, rows: int) -> None:
    """Raises PolicyRefusal `too_few_rows` if there are fewer rows than `data.min_rows`, and `too_many_rows` for more
    than a statistics plan with exact sums counts.
    """
    if rows < plan.data.min_rows:
        raise PolicyRefusal(
            "too_few_rows",
            f"{rows} rows are left and the plan asks for at least {plan.data.min_rows}",
            not_done="the plan was not accepted",
            next_step="register a table with more rows, or stay out of this plan",
        )
    most = plan.statistics.max_rows if plan.statistics is not None and plan.privacy is None else rows
    if rows > most:
        raise PolicyRefusal(
            "too_many_rows",
            f"there are {rows} rows and the plan counts at most {most} of one participant",
            not_done="the plan was not accepted",
            next_step="ask for a plan with a larger statistics.max_rows",
        )
