"""What this organisation agreed to: what the driver asks before a plan is answered with yes and before each input, and
the key that a plan under paillier is encrypted under.

Promise: a plan is taken part in only under the key that this organisation pinned itself, and one that the corrupt
members which the plan reckons with cannot open by themselves.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fedveil_common import plan as plans
from fedveil_common.errors import PolicyRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.masking import quorum
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.paillier.round_shape import shape_of_plan
from fedveil_common.roster import Roster

from fedveil_participant import checks, encrypted_checks
from fedveil_participant.events import Admission
from fedveil_participant.ports import Cipher

PENDING = "consent_pending"
"""What the coordinator hears of a plan that waits for somebody's word."""


@dataclass(frozen=True, slots=True)
class Word:
    """What is answered to an offered plan. `code` is "" for yes; `what` is for this organisation's people; `said` is
    what the coordinator hears.
    """

    code: str = ""
    what: str = ""
    said: str = ""


class Consenting(Protocol):
    """Who decides for this organisation. Any thread."""

    def begin_session(self) -> None:
        """A new session with the coordinator: every run that goes on is offered anew."""
        ...

    def decide(self, run_id: RunId, canonical: bytes, plan: plans.Plan, members: tuple[OrgId, ...]) -> Word:
        """The answer to a plan that is offered for a run, `members` being in the roster. Raises FedveilError."""
        ...

    def check_rows(self, plan: plans.Plan, rows: Callable[[], int]) -> None:
        """At every request: enough rows are left after all filters. `rows` counts them. LocalRefusal
        `policy_refused`, and what `rows` raises.
        """
        ...

    def admission(self, run_id: RunId, plan: plans.Plan, plan_hash: bytes) -> Admission | None:
        """What the next input of a run rests on; None where nothing is kept. PolicyRefusal `approval_gone`."""
        ...

    def hold(self, wall_s: float, roster: Roster) -> str:
        """Why no input is made at `wall_s` under `roster`, the newest, in any run; "" if inputs are made."""
        ...

    def unconfirmed(self, roster: Roster) -> str:
        """Why no input is made in an attempt under `roster`, which may be an earlier one; "" if one may be."""
        ...

    @property
    def watches_clock(self) -> bool:
        """Whether `hold` changes with the time."""
        ...


@dataclass(frozen=True, slots=True)
class Consent:
    """Plans that were agreed to beforehand, by hash, and nothing else: for simulations."""

    accepted: frozenset[bytes]

    def begin_session(self) -> None:
        """Nothing is kept of offers."""

    def decide(self, run_id: RunId, canonical: bytes, plan: plans.Plan, members: tuple[OrgId, ...]) -> Word:
        """Yes to these plans."""
        if plans.plan_hash(canonical) in self.accepted:
            return Word()
        return Word(PENDING, "nobody has approved this plan", PENDING)

    def check_rows(self, plan: plans.Plan, rows: Callable[[], int]) -> None:
        """Any number."""

    def admission(self, run_id: RunId, plan: plans.Plan, plan_hash: bytes) -> Admission | None:
        """Nothing is kept."""
        return None

    def hold(self, wall_s: float, roster: Roster) -> str:
        """Inputs are made at any time."""
        return ""

    def unconfirmed(self, roster: Roster) -> str:
        """Governance's word suffices."""
        return ""

    @property
    def watches_clock(self) -> bool:
        """Never."""
        return False


def key_for(plan: plans.Plan, run_id: RunId, members: int, cipher: Cipher) -> tuple[KeyUse, ...]:
    """The key that this organisation pinned for a plan, claimed for the run, its masks begun; none under masked.

    `members`: organisations of the roster. PolicyRefusal `key_not_pinned`, `key_threshold_too_small`, `key_epoch_used`.
    """
    if not plan.protection.key:
        return ()
    use = cipher.accepted(plan.protection.key)
    encrypted_checks.key_opens_only_together(use, quorum.corrupt_bound(plan.cohort.max_corrupt, members))
    shape = shape_of_plan(use, plan, members)
    cipher.claim(use, run_id)
    cipher.prepare(use, shape)
    return (use,)


def restored_plan(canonical: bytes, digest: bytes, version: bytes, cipher: Cipher) -> checks.AcceptedPlan:
    """A stored plan after a restart, with the key that is pinned for it now; without one, its rounds are refused."""
    plan = plans.parse_canonical(canonical)
    keys: tuple[KeyUse, ...] = ()
    if plan.protection.key:
        with contextlib.suppress(PolicyRefusal):
            keys = (cipher.accepted(plan.protection.key),)
    return checks.AcceptedPlan(plan, digest, version, keys)
