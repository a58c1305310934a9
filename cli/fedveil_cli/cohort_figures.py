"""The arithmetic of a cohort under a plan: who must be there, who may be missing, what it costs, why it cannot start.

Promise: a cohort that `smallest_cohort` calls possible is one that a participant with default limits joins, because
both ask the same function (`quorum.check_parameters`, `ring.smallest`); every remedy that is named was tried with it.
Source: FLSA/1 2.1, 2.3 with A1, A11, A14 (docs/protocol.md). Nothing here is secret.
"""

from dataclasses import dataclass, replace

from fedveil_common import layout, private_sum
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.masking import quorum, ring
from fedveil_common.masking.packing import size_bytes
from fedveil_common.plan import PAILLIER, Plan
from fedveil_common.ringfile import leaf_count, leaf_length

MIN_SURVIVORS = 3
"""A sum of fewer inputs is never opened (plan file, cohort.min_participants)."""

LARGEST_ROSTER = 5 * (quorum.MAX_COHORT - 1) - 1
"""The last roster of whose fifth, as c, a cohort of the largest size can hold two more."""

LEAF_HASH_BYTES = 32

MESSAGES_UP = (1000, 400)
"""Bytes of one attempt's messages from a participant: in all, and for each other member. About, for short names."""

MESSAGES_DOWN = (1700, 900)
"""The same to a participant."""


@dataclass(frozen=True, slots=True)
class CohortFigures:
    """What FLSA/1 makes of a cohort of `members` from a roster of `roster` participants. Bytes are of one train sum
    that also evaluates, for one participant: `vector_*` exactly, `messages_*` about; they are of masked sums, what a
    ciphertext takes is the key's choice. `encrypted`: under protection paillier nobody shares secrets, so `threshold`
    and `openings` say nothing.
    """

    roster: int
    members: int
    corrupt: int
    quorum: int
    threshold: int
    abort_threshold: int
    min_survivors: int
    may_drop: int
    openings: int
    ring_bits: int
    vector_up: int
    vector_down: int
    messages_up: int
    messages_down: int
    encrypted: bool = False

    @property
    def honest_in_sum(self) -> int:
        """How many honest updates the smallest sum holds."""
        return self.min_survivors - self.corrupt


@dataclass(frozen=True, slots=True)
class Impossible:
    """Why no cohort of a roster can open a sum, and what was found to change that."""

    why: str
    remedies: tuple[str, ...]


def figures(plan: Plan, roster: int, members: int) -> CohortFigures:
    """The figures of a cohort, whether or not it may start. PeerError `ring_would_wrap` if no ring is wide enough."""
    c = quorum.corrupt_bound(plan.cohort.max_corrupt, roster)
    q = quorum.quorum(members, c)
    least = max(q, MIN_SURVIVORS)
    bits = ring.smallest(members, private_sum.value_bits(plan, members, q, c))
    length = layout.first(plan).length
    leaves = leaf_count(length)
    vector = sum(size_bytes(leaf_length(length, index), bits) for index in range(leaves))
    (up, up_each), (down, down_each) = MESSAGES_UP, MESSAGES_DOWN
    return CohortFigures(
        roster,
        members,
        c,
        q,
        q,
        quorum.abort_threshold(members, c),
        least,
        max(members - least, 0),
        max(quorum.opening_bound(members, c), 0),
        bits,
        vector + leaves * LEAF_HASH_BYTES,
        vector,
        up + up_each * (members - 1),
        down + down_each * (members - 1),
        plan.protection.kind == PAILLIER,
    )


def why_not(plan: Plan, roster: int, members: int) -> str | None:
    """Why `members` of a roster open nothing under `plan`; None if they do."""
    if members < plan.cohort.min_participants:
        return f"the plan asks for at least {plan.cohort.min_participants} participants (cohort.min_participants)"
    c = quorum.corrupt_bound(plan.cohort.max_corrupt, roster)
    q = quorum.quorum(members, c)
    try:
        quorum.check_parameters(members, c, q, q, max(q, MIN_SURVIVORS), local_c=c)
        value_bits = private_sum.value_bits(plan, members, q, c)
        quorum.check_no_wrap(members, value_bits, ring.smallest(members, value_bits))
    except PeerError as error:
        return error.what
    return None


def possible_cohorts(plan: Plan, roster: int) -> list[int]:
    """Every number of members of a roster of `roster` who can open a sum under `plan`, ascending; empty if none can."""
    few = plan.cohort.min_participants
    return [n for n in range(few, min(roster, quorum.MAX_COHORT) + 1) if why_not(plan, roster, n) is None]


def smallest_cohort(plan: Plan, roster: int) -> int | None:
    """The fewest of a roster of `roster` who can open a sum under `plan`; None if no number of them can."""
    found = possible_cohorts(plan, roster)
    return found[0] if found else None


def can_start(plan: Plan, roster: int) -> bool:
    """Whether any number of a roster can open a sum: for one c, if a smaller cohort can, the largest can."""
    return why_not(plan, roster, min(roster, quorum.MAX_COHORT)) is None


def impossible(plan: Plan, roster: int) -> Impossible | None:
    """None if a roster of `roster` can start the plan; else why not, with the figures, and what would do."""
    if can_start(plan, roster):
        return None
    members = min(roster, quorum.MAX_COHORT)
    found = figures(plan, roster, members)
    c, q = found.corrupt, found.quorum
    costs = (
        f"; about {found.vector_up + found.messages_up} bytes up and {found.vector_down + found.messages_down} down "
        "for each participant and train sum"
    )
    why = (
        f"{why_not(plan, roster, members)}. N = {members} of a roster of {roster}; c = {c}, the largest of max_corrupt "
        f"{plan.cohort.max_corrupt}, a fifth of the roster {roster // 5} and 1; quorum and threshold q = t = {q}; "
        f"A1 asks for q <= N ({q} <= {members}) and q - c >= {quorum.MIN_HONEST} ({q} - {c} = {q - c}); at least "
        f"{found.min_survivors} in a sum, so {found.may_drop} may drop; a ring of {found.ring_bits} bits"
    ) + ("" if found.encrypted else costs)
    return Impossible(why, tuple(_remedies(plan, roster)))


def check_roster(plan: Plan, roster: int, not_done: str = "nothing was done") -> None:
    """Returns if so many participants can open a sum; ConfigError `cohort_never_possible` with figures and remedies."""
    found = impossible(plan, roster)
    if found is not None:
        raise ConfigError(
            "cohort_never_possible",
            f"with {roster} participants this plan can never open a sum: {found.why}",
            not_done=not_done,
            next_step="; or ".join(found.remedies),
        )


def _remedies(plan: Plan, roster: int) -> list[str]:
    """What makes it possible, each tried: more or fewer organisations, a smaller bound, a smaller cohort."""
    found = []
    more = next((n for n in range(roster + 1, LARGEST_ROSTER + 1) if can_start(plan, n)), None)
    if more is not None:
        found.append(f"enrol {more - roster} more organisation{'s' if more - roster > 1 else ''} ({more} in all)")
    fewer = next((n for n in range(min(roster, LARGEST_ROSTER), 0, -1) if can_start(plan, n)), None)
    if more is None and fewer is not None:
        found.append(f"have at most {fewer} participants in the roster, because c counts a fifth of it")
    bound, size = plan.cohort.max_corrupt, plan.cohort.min_participants
    bounds, sizes = range(bound - 1, 0, -1), range(size - 1, MIN_SURVIVORS - 1, -1)
    pairs = [(c, size) for c in bounds], [(bound, n) for n in sizes if n >= bound + 2]
    both = [(c, n) for c in bounds for n in sizes if n >= c + 2]
    for choices in pairs if any(_possible(plan, roster, pair) for alone in pairs for pair in alone) else (both,):
        pair = next((pair for pair in choices if _possible(plan, roster, pair)), None)
        if pair is not None:
            changes = [f"cohort.max_corrupt {pair[0]}"] if pair[0] != bound else []
            changes += [f"cohort.min_participants {pair[1]}"] if pair[1] != size else []
            found.append(f"agree on a new plan with {' and '.join(changes)}")
    return found


def _possible(plan: Plan, roster: int, pair: tuple[int, int]) -> bool:
    cohort = replace(plan.cohort, max_corrupt=pair[0], min_participants=pair[1])
    return can_start(replace(plan, cohort=cohort), roster)
