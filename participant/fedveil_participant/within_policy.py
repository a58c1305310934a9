"""What an organisation's own policy asks of a round, beside the plan and the protocol: before anything is sent for it.

Promise: the texts of these refusals stay with the organisation's own people; the coordinator hears a closed code.
"""

from collections.abc import Iterable

from fedveil_common.errors import PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.messages import Manifest

from fedveil_participant.checks import Limits


def manifest_within_policy(manifest: Manifest, limits: Limits, me: OrgId) -> None:
    """The cohort is one that this organisation's policy lets it be in, and the input no larger than it allows (A7).
    The text of the refusal stays with its own people.
    """
    members, known = len(manifest.cohort), len(set(manifest.cohort) & limits.known - {me})
    size = 0 if manifest.encryption else -(-manifest.length * manifest.ring_bits // 8)
    for asked, least, what in (
        (members, limits.smallest_cohort, "invited"),
        (known, limits.known_in_cohort, "known organisations invited"),
    ):
        if asked < least:
            raise _outside_policy(f"{asked} {what}, the policy asks for {least}")
    if 0 < limits.input_bytes < size:
        raise _outside_policy(f"an input of {size} bytes, the policy allows {limits.input_bytes}")


def survivors_within_policy(survivors: Iterable[OrgId], limits: Limits, me: OrgId) -> None:
    """The sum is over enough organisations, and over enough that this one knows (A7)."""
    names = set(survivors)
    known = len(names & limits.known - {me})
    for asked, least, what in (
        (len(names), limits.smallest_sum, "in the sum"),
        (known, limits.known_in_sum, "known organisations in the sum"),
    ):
        if asked < least:
            raise _outside_policy(f"{asked} {what}, the policy asks for {least}")


def _outside_policy(what: str) -> PolicyRefusal:
    return PolicyRefusal(
        "policy_refused",
        what,
        not_done="nothing was sent for it",
        next_step="the policy is the organisation's own; the others may go on without it",
    )
