"""`plan explain` against the real rules: on small cohorts every choice of an adversary is played.

What a participant lets happen is asked of the functions that it refuses by (`checks`, `quorum`), with real manifests,
votes and rosters; from that alone each choice of sets, voters and opened shares is enumerated, and what it teaches is
worked out from who holds which share. The figures of `exposure` must be what comes out.
"""

import functools
import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from federation import RUN, federation, journal, plan_bytes, signed, silence, state
from federation import run as played
from fedveil_cli import cohort_figures, exposure
from fedveil_common import plan as plans
from fedveil_common import transcript
from fedveil_common.errors import FedveilError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.messages import (
    AbortCertificate,
    AbortVote,
    BlobType,
    Certificate,
    Manifest,
    Vote,
)
from fedveil_coordinator import run as runs
from fedveil_participant import checks
from fedveil_participant.checks import Limits
from fedveil_participant.events import SpentKey
from fedveil_participant.stages import Frame
from fedveil_simulation.charter import Charter, make_charter

T3 = b"\x03" * 32
LARGEST = 6


@dataclass(frozen=True)
class Rules:
    """What members of one cohort let pass, each answer taken from a check of a participant."""

    members: int
    corrupt: int
    threshold: int
    dealers: frozenset[int]
    survivors: frozenset[int]
    certificates: frozenset[int]
    abort_certificates: frozenset[int]
    openings: frozenset[int]


def passes(check: object, *arguments: object) -> bool:
    assert callable(check)
    try:
        check(*arguments)
    except FedveilError:
        return False
    return True


@functools.cache
def charter_of(roster: int) -> Charter:
    return make_charter([f"org-{index:02}" for index in range(roster)], 1)


def offered(roster: int, members: int, stated: int) -> tuple[Manifest, Frame, Charter, tuple[OrgId, ...], plans.Plan]:
    """What an honest coordinator offers to the first `members` of a roster, as the coordinator's own code makes it."""
    charter = charter_of(roster)
    cohort = charter.roster.participants
    names = tuple(sorted(cohort))[:members]
    canonical = plan_bytes(max_corrupt=stated, min_participants=max(3, stated + 2))
    run, _ = runs.open_run(RUN, canonical, runs.Office(charter.coordinator_key), charter.roster, (), 0.0)
    run = replace(run, connected=frozenset(names), answers=dict.fromkeys(names, ""))
    manifest = runs.manifest_of(run, bytes(32))
    blob = signed(charter, COORDINATOR, BlobType.MANIFEST, manifest)
    spent = SpentKey("table", bytes(32), manifest.purpose, bytes(32))
    frame = Frame(blob, manifest, transcript.t0(blob.body), spent, spent, 0.0)
    return manifest, frame, charter, names, run.plan


def joined(roster: int, members: int, stated: int) -> bool:
    """Whether a participant with default limits joins such a cohort."""
    manifest, _, charter, _, plan = offered(roster, members, stated)
    return (
        passes(checks.manifest_quorum, manifest, charter.roster, Limits(), stated)
        and passes(checks.manifest_corrupt, manifest, charter.roster, stated)
        and passes(checks.manifest_no_wrap, manifest)
        and passes(checks.manifest_cohort_size, manifest, plan)
    )


@functools.cache
def rules(roster: int, members: int, stated: int) -> Rules:
    manifest, frame, charter, names, _ = offered(roster, members, stated)
    votes = [signed(charter, name, BlobType.VOTE, Vote(T3)) for name in names]
    aborts = [signed(charter, name, BlobType.ABORT, AbortVote(frame.t0, manifest.key.attempt)) for name in names]
    counts = range(members + 1)

    def certifies(count: int) -> bool:
        certificate = Certificate(T3, tuple(votes[:count]))
        return passes(checks.vote_certificate, certificate, T3, names, manifest, charter.roster)

    def ends(count: int) -> bool:
        return passes(
            checks.abort_certificate, AbortCertificate(frame.t0, tuple(aborts[:count])), frame, charter.roster
        )

    return Rules(
        members,
        manifest.corrupt,
        manifest.threshold,
        frozenset(n for n in counts if passes(checks.enough, n, manifest, "dealers")),
        frozenset(n for n in counts if passes(checks.enough_survivors, n, manifest, Limits())),
        frozenset(n for n in counts if certifies(n)),
        frozenset(n for n in counts if ends(n)),
        frozenset(n for n in counts if passes(checks.openings_bounded, names[:n], manifest)),
    )


def figures(roster: int, members: int, stated: int) -> cohort_figures.CohortFigures:
    plan = plans.parse_canonical(plan_bytes(max_corrupt=stated, min_participants=max(3, stated + 2)))
    return cohort_figures.figures(plan, roster, members)


def cohorts(largest: int = LARGEST) -> list[tuple[int, int]]:
    """(members, max_corrupt) of every cohort up to a size, the roster being the cohort."""
    return [(members, stated) for members in range(3, largest + 1) for stated in range(1, members - 1)]


# --- the adversary ----------------------------------------------------------------------------------------------------

Honest = tuple[bool, bool, int]
"""An honest dealer as the adversary uses it: in the first set, in the second, voter for 1, 2 or none (0)."""

KINDS: list[Honest] = [(a, b, v) for a in (True, False) for b in (True, False) for v in (0, 1, 2)]


def smallest_group(rule: Rules, colluders: int) -> int:
    """The fewest honest updates whose sum the coordinator and `colluders` members come to know in one attempt, over
    every choice of dealers, of one or two sets of survivors, of who votes for which, and of shares opened in public.
    """
    honest = rule.members - colluders
    best = rule.members
    for dealing in range(1, honest + 1):
        if dealing + colluders in rule.dealers:
            for chosen in itertools.combinations_with_replacement(KINDS, dealing):
                best = min([best, *learned(rule, colluders, honest, chosen)])
    return best


def learned(rule: Rules, colluders: int, honest: int, chosen: tuple[Honest, ...]) -> list[int]:
    """Sizes of the sums that this choice opens. All colluders stand in both sets, vote for both and share all."""
    voters = {}
    for index in (1, 2):
        inside = sum(one[index - 1] for one in chosen)
        willing = sum(one[2] == index for one in chosen)
        agreed = inside + colluders in rule.survivors and willing + colluders in rule.certificates
        if willing and inside + colluders not in rule.survivors:
            return []  # honest members do not vote for this
        voters[index] = willing if agreed else 0
    opened = max(rule.openings)
    alone, hidden, covered = [], 0, 0
    for one in chosen:
        seeds = keys = own = 0
        for index in (1, 2):
            others = voters[index] - (1 if one[2] == index and voters[index] else 0)
            if one[index - 1]:
                seeds += others
                own += one[2] == index and voters[index] > 0
            else:
                keys += others
        complainers = honest - 1  # what honest members did not reveal, a complaint can still have opened
        seed = bool(own) or colluders + seeds + min(opened, complainers - seeds) >= rule.threshold
        key = colluders + keys + min(opened, complainers - keys) >= rule.threshold
        if key and seed:
            alone.append(1)
        elif not key:
            hidden += 1
            covered += not seed
    return [*alone, *([hidden] if hidden and not covered else [])]


@pytest.mark.parametrize(("members", "stated"), cohorts())
def test_no_choice_of_an_adversary_learns_more_than_explained(members: int, stated: int) -> None:
    assert joined(members, members, stated)
    rule, shown = rules(members, members, stated), figures(members, members, stated)
    found = [smallest_group(rule, colluders) for colluders in range(members)]
    for colluders, group in enumerate(found):
        told = exposure.coalition(shown, colluders, True)
        assert told.within_bound == (colluders <= rule.corrupt)
        if told.within_bound:
            assert group == told.group >= 2
        else:
            assert told.group is None
    assert exposure.single_from(shown) == found.index(1) > rule.corrupt
    assert set(found[found.index(1) :]) == {1}


def test_with_any_one_rule_weaker_the_adversary_learns_more() -> None:
    """The enumeration can fail: each rule that it rests on, loosened by one, breaks the bound of some cohort."""

    def loosened(rule: Rules, name: str) -> Rules:
        allowed: frozenset[int] = getattr(rule, name)
        one = max(allowed) + 1 if name == "openings" else min(allowed) - 1
        return replace(rule, **{name: allowed | {one}})  # type: ignore[arg-type]

    def broken(name: str) -> bool:
        found = [(rules(n, n, stated), figures(n, n, stated)) for n, stated in cohorts(5)]
        weak = [(replace(rule, threshold=rule.threshold - 1) if name == "threshold" else loosened(rule, name), shown)
                for rule, shown in found]  # fmt: skip
        return any(
            smallest_group(rule, k) < (exposure.coalition(shown, k, True).group or 0)
            for rule, shown in weak
            for k in range(rule.corrupt + 1)
        )

    assert [name for name in ("survivors", "openings", "threshold") if not broken(name)] == []


@pytest.mark.parametrize(("members", "stated"), cohorts(9))
def test_beyond_c_a_sum_can_open_and_be_certified_as_aborted(members: int, stated: int) -> None:
    """Why nothing is promised from c + 1 on: then, and not before, both certificates of one attempt can exist."""
    rule = rules(members, members, stated)

    def both(colluders: int) -> bool:
        honest = members - colluders
        return any(
            colluders + one in rule.certificates and colluders + other in rule.abort_certificates
            for one in range(honest + 1)
            for other in range(honest - one + 1)
        )

    assert [both(colluders) for colluders in range(members)] == [k > rule.corrupt for k in range(members)]


@pytest.mark.parametrize(("members", "stated"), cohorts(9))
def test_who_may_be_missing(members: int, stated: int) -> None:
    rule, shown = rules(members, members, stated), figures(members, members, stated)
    assert shown.may_drop == members - min(rule.survivors)
    assert (shown.threshold, shown.openings) == (rule.threshold, max(rule.openings))
    assert shown.abort_threshold == min(rule.abort_certificates)
    for gone in range(members + 1):
        over = {members - gone} & (rule.certificates | rule.abort_certificates) == set()
        assert over == (gone >= exposure.dead_from(shown)), gone


@pytest.mark.parametrize("stated", [1, 2, 3])
@pytest.mark.parametrize("roster", [3, 4, 5, 9, 10, 11, 15])
def test_the_cohorts_that_can_start_are_those_that_members_join(roster: int, stated: int) -> None:
    plan = plans.parse_canonical(plan_bytes(max_corrupt=stated, min_participants=stated + 2))
    possible = cohort_figures.possible_cohorts(plan, roster)
    assert possible == [n for n in range(2, roster + 1) if joined(roster, n, stated)]
    assert (cohort_figures.impossible(plan, roster) is None) == bool(possible) == cohort_figures.can_start(plan, roster)
    if possible:
        absent = exposure.stopped_by_absence(roster, possible[0])
        assert [roster - gone in possible for gone in (absent - 1, absent)] == [True, False]


# --- members without the coordinator, in a run that is played ---------------------------------------------------------


@pytest.mark.parametrize("dropped", [0, 1])
def test_all_members_but_one_subtract(dropped: int) -> None:
    """From the published sum and their own vectors, as their journals hold them: the update of the one that is left."""
    cluster = federation()
    names = sorted(cluster.members)
    silence(cluster, names[:dropped], "advert", 1)
    assert played(cluster) == "finished"
    record = next(one for one in state(cluster).records if one.round == 1)
    stayed = [name for name in names if name in record.survivors]
    shown = figures(len(names), len(names), 1)
    vectors = {name: next(iter(journal(cluster, name).encoded.values())) for name in stayed}
    total = cluster.memory.read_sum(RUN, 1)
    victim, *others = stayed
    left = total - sum((vectors[name] for name in others), np.zeros_like(total))
    assert np.array_equal(left, vectors[victim])
    assert exposure.coalition(shown, len(names) - 1, False).full_group == 1
    assert len(stayed) == len(names) - dropped
    if dropped:
        assert len(stayed) == shown.min_survivors
        assert exposure.coalition(shown, len(others), False).group == 1
    two = total - sum((vectors[name] for name in others[1:]), np.zeros_like(total))
    assert np.array_equal(two, vectors[victim] + vectors[others[0]])
    assert not np.array_equal(two, vectors[victim])
