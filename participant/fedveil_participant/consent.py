"""What this organisation agreed to: plans by their hash, and the key that a plan under paillier is encrypted under.

Promise: a plan is taken part in only under the key that this organisation pinned itself, and one that the corrupt
members which the plan reckons with cannot open by themselves.
"""

import contextlib
from dataclasses import dataclass

from fedveil_common import plan as plans
from fedveil_common.errors import PolicyRefusal
from fedveil_common.ids import RunId
from fedveil_common.masking import quorum
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.paillier.round_shape import shape_of_plan

from fedveil_participant import checks, encrypted_checks
from fedveil_participant.ports import Cipher


@dataclass(frozen=True, slots=True)
class Consent:
    """What this organisation agreed to beforehand: plans by hash."""

    accepted: frozenset[bytes]


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
