"""What is known of one opened round, for people and for what comes after it: nothing more than every member knows."""

from dataclasses import dataclass

from fedveil_common import evaluation, private_sum
from fedveil_common.ids import OrgId
from fedveil_common.messages import Manifest, Purpose
from fedveil_common.plan import Plan

from fedveil_coordinator import facts


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One opened round. `step`: model steps before it; `noise`: standard deviation of the noise on a count, in records
    (persons), and `loss_noise` of that on the loss, at most; both 0 for exact sums. `opened`: the blocks that were
    interpreted, and the coordinates of each.
    """

    round: int
    attempt: int
    purpose: Purpose
    step: int
    cohort: tuple[OrgId, ...]
    survivors: tuple[OrgId, ...]
    loss: float | None
    accuracy: float | None
    auc: float | None
    rows: float | None
    noise: float
    loss_noise: float
    opened: tuple[tuple[str, int], ...]

    @property
    def dropped(self) -> tuple[OrgId, ...]:
        """Cohort members whose input is not in the sum."""
        return tuple(org for org in self.cohort if org not in self.survivors)


def record_of(
    plan: Plan, manifest: Manifest, survivors: tuple[OrgId, ...], noise_left: float, fact: facts.SumApplied
) -> RoundRecord:
    """The record of a sum that was opened over `survivors` and came to `fact`. `noise_left`: as its Result has it."""
    noise = private_sum.count_deviation(plan, noise_left)
    most = plan.evaluation.loss_cap
    return RoundRecord(
        manifest.key.round,
        manifest.key.attempt,
        manifest.purpose,
        manifest.step,
        manifest.cohort,
        survivors,
        fact.loss,
        fact.accuracy,
        fact.auc,
        fact.rows,
        noise,
        evaluation.deviation(most, most, noise, fact.rows) if noise and fact.rows else 0.0,
        fact.opened,
    )
