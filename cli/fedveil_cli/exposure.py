"""Who can learn how much of whom in one attempt of FLSA/1, as figures: the arithmetic behind `plan explain`.

A "group" is the smallest number of organisations whose updates, added up, somebody can come to know: 1 is an
organisation's own update. Invariant: up to c members beside the coordinator never come below the smallest sum less
themselves (2.7); `tests/test_exposure.py` plays every choice of an adversary on small cohorts against the checks that
participants make, and finds exactly these figures.
Source: FLSA/1 2.1, 2.3 (openings), 2.7 (docs/protocol.md); SECURITY.md. Not counted here, because it is no question of
one attempt: what a series of sums says, and what a false sum would.
"""

from dataclasses import dataclass

from fedveil_cli.cohort_figures import CohortFigures


@dataclass(frozen=True, slots=True)
class Coalition:
    """`members` who tell each other, and if `coordinator` also the coordinator, everything they have.

    `group`: of how many others they can come to know the sum, at the least; None where more than c work with the
    coordinator: there the protocol promises nothing. `full_group`: the same if nobody dropped and no rule was broken.
    """

    members: int
    coordinator: bool
    group: int | None
    full_group: int

    @property
    def within_bound(self) -> bool:
        """Whether the protocol's argument covers this coalition."""
        return self.group is not None


def coalition(figures: CohortFigures, members: int, coordinator: bool) -> Coalition:
    """The figures for `members` of a cohort, 0 .. N-1 (1 .. N-1 without the coordinator). ValueError otherwise.

    With the coordinator they choose who is left out, down to the smallest sum; without it drop-outs may do the same.
    Members alone never hold another's masked vector, so they learn from the published sum whatever their number.
    """
    if not (0 if coordinator else 1) <= members < figures.members:
        raise ValueError(f"{members} of {figures.members} members are no coalition")
    group: int | None = max(figures.min_survivors - members, 1)
    if coordinator and members > figures.corrupt:
        group = None
    return Coalition(members, coordinator, group, figures.members - members)


def telling(figures: CohortFigures) -> list[Coalition]:
    """The coalitions at which something changes: with the coordinator 0, c, c+1, N-2 and N-1; alone 1, N-2 and N-1."""
    n, c = figures.members, figures.corrupt
    return [
        *(coalition(figures, k, True) for k in sorted({0, c, c + 1, n - 2, n - 1})),
        *(coalition(figures, k, False) for k in sorted({1, n - 2, n - 1})),
    ]


def single_from(figures: CohortFigures, opening: int | None = None) -> int:
    """The fewest members who, with the coordinator, can read one organisation's update in one attempt. Above c.

    The first of three ways to become open: (1) all of the smallest sum but one are theirs, and they subtract; (2) what
    they hold of one dealer's shares and what may be opened in public reach the threshold; (3) two certificates over
    different sets exist, one with the victim and one without it, so that both of its secrets are revealed. From c + 1
    up to here no promise is made either: a second attempt, for instance, is no longer excluded. Under protection
    paillier nobody holds shares: instead of (2) `opening` holders of the key open any input, if their number is known.
    """
    n, least = figures.members, figures.min_survivors
    subtract = least - 1
    shares = max(figures.threshold - figures.openings, 0)
    if figures.encrypted:
        shares = n if opening is None else opening
    split = max(2 * figures.quorum - n, 0) if n - 1 >= least else n
    return min(subtract, shares, split)


def stopped_by_absence(roster: int, smallest_cohort: int) -> int:
    """How many members of the roster end any run by staying away: too few are left for a cohort."""
    return roster - smallest_cohort + 1


def dead_from(figures: CohortFigures) -> int:
    """How many must be gone so that the others are too few both to open a sum and to certify that none will open."""
    return figures.members - min(figures.abort_threshold, figures.quorum) + 1
