"""What one opened sum costs a row that trained and a row that was held out, and what a row has spent in all.

Promise: a row is training or holdout within a run, never both, so a sum states two curves and a run costs the larger of
its two totals at each order; what touches every row (standardise, statistics) states the same curve twice. Slack is
added whatever the row is. Source: amendments D7, D11, D15 (docs/protocol.md).
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from fedveil_common.dp import slack as slacks
from fedveil_common.dp.rdp import NOTHING, Curve, composed, largest
from fedveil_common.dp.slack import EXACT, Slack


class Rows(enum.Enum):
    """Which rows of a data source a block of a sum is made of."""

    TRAINING = "training"
    HOLDOUT = "holdout"
    BOTH = "both"

    def meets(self, other: "Rows") -> bool:
        """Whether a row of one can be a row of the other."""
        return Rows.BOTH in {self, other} or self is other


@dataclass(frozen=True, slots=True)
class Charge:
    """The price of one sum, or of several: to a training row, to a holdout row, and the slack of its draws."""

    training: Curve
    holdout: Curve
    slack: Slack = EXACT

    @staticmethod
    def on(rows: Rows, curve: Curve, slack: Slack = EXACT) -> "Charge":
        """The price of a sum that moves with `rows` alone."""
        return Charge(
            curve if rows.meets(Rows.TRAINING) else NOTHING, curve if rows.meets(Rows.HOLDOUT) else NOTHING, slack
        )

    def within(self, other: "Charge") -> bool:
        """Whether nothing in it exceeds `other`."""
        return (
            self.training.within(other.training)
            and self.holdout.within(other.holdout)
            and self.slack.within(other.slack)
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What one row has spent, at most."""

    curve: Curve = NOTHING
    slack: Slack = EXACT

    def epsilon(self, delta: float) -> float:
        """Of a run whose sums were fixed beforehand; infinity if `delta` does not pay for the slack (`slack`)."""
        return slacks.epsilon(self.curve, self.slack, delta)

    def lifetime_epsilon(self, delta: float) -> float:
        """Of all that was ever spent, whatever made it be asked (`rdp.lifetime_epsilon`)."""
        return slacks.lifetime_epsilon(self.curve, self.slack, delta)


def of_run(charges: Iterable[Charge]) -> Spent:
    """What one run costs a row: the larger of all its training and all its holdout curves, at each order."""
    every = tuple(charges)
    curve = largest(composed(one.training for one in every), composed(one.holdout for one in every))
    return Spent(curve, _slack(one.slack for one in every))


def of_runs(runs: Iterable[Spent]) -> Spent:
    """What several runs cost a row, which may be training in one and holdout in the next."""
    every = tuple(runs)
    return Spent(composed(one.curve for one in every), _slack(one.slack for one in every))


def _slack(every: Iterable[Slack]) -> Slack:
    return sum(every, EXACT)
