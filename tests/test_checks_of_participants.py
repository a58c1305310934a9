"""Every check of a participant by itself: what is honest goes on, what is forged in one point is refused with its code.

The machine is a pure function, so one federation that stands at a stage serves many cases: `step` is asked about an
honest message, about the forged one, and about the forged one with the one named check replaced, where it goes on.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
from federation import FIVE, RUN, body_of, journal, plan_bytes
from fedveil_common import layout
from fedveil_common import plan as plans
from fedveil_common.errors import FedveilError
from fedveil_common.ids import AttemptKey, FederationId, OrgId, RunId
from fedveil_common.masking import quorum
from fedveil_common.messages import (
    Advert,
    CoordinatorMessage,
    Manifest,
    Offer,
    Purpose,
    SignedBlob,
    SumRef,
)
from fedveil_common.secret import Seed
from fedveil_participant import checks, round
from fedveil_participant.checks import Limits
from fedveil_participant.events import (
    Action,
    Persist,
    Received,
    Send,
)
from fedveil_participant.round import State, Step
from fedveil_participant.stages import (
    Frame,
    Idle,
    Stage,
)
from rogue import Rogue

VICTIM, PEER, OTHER = FIVE[2], FIVE[3], FIVE[4]
FOUR = FIVE[:4]
ELSE = b"\x07" * 32
"""Some other hash."""

# --- the machine, asked -----------------------------------------------------------------------------------------------


def nothing(*arguments: object) -> None:
    """A check that is not there."""


def parsed(blob: SignedBlob, *arguments: object) -> object:
    """A check that only parses."""
    return body_of(blob)


@functools.cache
def at(stage: str) -> Rogue:
    """A federation in which everyone stands at this stage. No test changes it."""
    return Rogue() if stage == "idle" else Rogue().reach(stage)


@functools.cache
def of_four() -> Rogue:
    """The same, before the key set, in an attempt without OTHER, who is in the roster."""
    rogue = Rogue()
    rogue.offered, rogue.names = smaller(rogue, FOUR), FOUR
    return rogue.reach("advert")


def smaller(rogue: Rogue, cohort: tuple[OrgId, ...]) -> SignedBlob:
    q = quorum.quorum(len(cohort), 1)
    return rogue.manifest(cohort=cohort, quorum=q, threshold=q, min_survivors=q)


def state_of(rogue: Rogue, org: OrgId = VICTIM) -> State:
    driver = rogue.cluster.members[org].driver
    assert driver is not None
    return driver.state


def told(state: State, message: CoordinatorMessage, at: float = 1.0) -> Step:
    return round.step(state, Received(message, at, Seed(b"\x05" * 32)))


def kinds(step: Step) -> list[str]:
    """What the step makes durable."""
    return [action.kind for action in step[1] if isinstance(action, Persist)]


def sent(actions: tuple[Action, ...]) -> list[object]:
    return [action.message for action in actions if isinstance(action, Send)]


def refused(state: State, message: CoordinatorMessage, code: str) -> None:
    with pytest.raises(FedveilError) as caught:
        told(state, message)
    assert caught.value.code == code


def stopped(
    state: State,
    honest: CoordinatorMessage,
    forged: CoordinatorMessage,
    code: str,
    check: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    instead: Callable[..., object] = nothing,
) -> State:
    """The three cases; `check` is the one function of `checks`. What the victim knows after it fell for it."""
    assert kinds(told(state, honest)) == [kind]
    refused(state, forged, code)
    monkeypatch.setattr(checks, check, instead)
    fallen = told(state, forged)
    assert kinds(fallen) == [kind]
    return fallen[0]


def frame_of(state: State) -> Frame:
    assert not isinstance(state.stage, Idle)
    return state.stage.frame


def stage_of(rogue: Rogue, org: OrgId, kind: str) -> Stage:
    """The stage that a member's journal held after `kind`."""
    return next(stage for said, stage in journal(rogue.cluster, org).stages if said == kind)


def advert_of(rogue: Rogue, org: OrgId) -> Advert:
    body = body_of(rogue.advert(org))
    assert isinstance(body, Advert)
    return body


# --- the offer: whose, for whom, under which plan ---------------------------------------------------------------------


def test_a_federation_of_another_name_is_refused_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.manifest_roster`: roster version and hash are right, only the federation id is another."""
    rogue = at("idle")
    forged = Offer(rogue.manifest(federation_id=FederationId("another-0123456789abcdef")))
    stopped(state_of(rogue), Offer(rogue.offered), forged, "wrong_federation", "manifest_roster", "offer", monkeypatch)


@pytest.mark.parametrize("change", [1, -1])
def test_a_roster_version_that_is_not_the_pinned_one(change: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.manifest_roster`."""
    rogue = at("idle")
    state = replace(state_of(rogue), roster=replace(state_of(rogue).roster, version=5))
    honest = Offer(rogue.manifest(roster_version=5, roster_hash=state.roster.hash))
    forged = Offer(rogue.manifest(roster_version=5 + change, roster_hash=state.roster.hash))
    stopped(state, honest, forged, "wrong_roster", "manifest_roster", "offer", monkeypatch)


def test_a_run_that_was_not_accepted() -> None:
    """Stopped by the table of accepted runs; with the run in it the same offer is taken."""
    rogue = at("idle")
    state = state_of(rogue)
    refused(replace(state, plans={}), Offer(rogue.offered), "plan_not_accepted")
    refused(replace(state, plans={RunId("run-2"): state.plans[RUN]}), Offer(rogue.offered), "plan_not_accepted")
    assert kinds(told(state, Offer(rogue.offered))) == ["offer"]


@pytest.mark.parametrize(
    ("insists", "enough", "code"),
    [
        (Limits(min_survivors=5), Limits(min_survivors=4), "cohort_too_small"),
        (Limits(min_honest=4), Limits(min_honest=3), "cohort_too_small"),
        (Limits(corrupt=2), Limits(corrupt=1), "corrupt_bound_too_small"),
    ],
    ids=["survivors", "honest", "corrupt"],
)
def test_what_this_organisation_insists_on(
    insists: Limits, enough: Limits, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.manifest_quorum`. The attempt has N = 5, c = 1, q = 4 and asks for four survivors."""
    rogue = at("idle")
    offer = Offer(rogue.offered)
    assert (rogue.body.quorum, rogue.body.min_survivors, rogue.body.corrupt) == (4, 4, 1)
    assert kinds(told(replace(state_of(rogue), limits=enough), offer)) == ["offer"]
    refused(replace(state_of(rogue), limits=insists), offer, code)
    monkeypatch.setattr(checks, "manifest_quorum", nothing)
    assert kinds(told(replace(state_of(rogue), limits=insists), offer)) == ["offer"]


def test_a_cohort_smaller_than_the_plan_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.manifest_cohort_size`: four of five would do for every formula, the plan asks for five."""
    rogue = Rogue(plan=plan_bytes(min_participants=5))
    stopped(
        state_of(rogue),
        Offer(rogue.offered),
        Offer(smaller(rogue, FOUR)),
        "cohort_too_small",
        "manifest_cohort_size",
        "offer",
        monkeypatch,
    )


DETERMINED: dict[str, object] = {
    "plan_hash": ELSE,
    "protection": "plain",
    "graph": "sparse",
    "ring_bits": 33,
    "value_bits": 15,
    "update_norm": 5.000001,
    "leaf_coordinates": 8_192,
    "prg": "CHACHA20",
    "noise": "gaussian",
    "dataset": "another",
    "progress_s": 3.5,
    "hard_limit_s": 121.0,
    "length": 999,
    "layout_hash": ELSE,
    "purpose": Purpose.STATISTICS,
}
"""What the plan determines, each with another value. Some have only one in this release: the wire stops those too."""

ONE_VALUE = {"protection", "graph", "leaf_coordinates", "prg", "noise"}


@pytest.mark.parametrize("name", DETERMINED)
def test_a_manifest_that_differs_from_the_plan_in_one_field(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.manifest_follows_plan`."""
    rogue = at("idle")
    state = state_of(rogue)
    accepted = state.plans[RUN]
    checks.manifest_follows_plan(rogue.body, accepted)
    with pytest.raises(FedveilError) as caught:
        checks.manifest_follows_plan(replace(rogue.body, **{name: DETERMINED[name]}), accepted)  # type: ignore[arg-type]
    assert caught.value.code == "manifest_differs_from_plan"
    forged = Offer(rogue.manifest(**{name: DETERMINED[name]}))
    if name in ONE_VALUE:
        refused(state, forged, "malformed")
        return
    check = "manifest_follows_plan"
    stopped(state, Offer(rogue.offered), forged, "manifest_differs_from_plan", check, "offer", monkeypatch)


def test_a_plan_hash_of_another_plan_under_the_same_run() -> None:
    """The field is compared with the hash that was accepted, not with what the manifest says about itself."""
    rogue = at("idle")
    state = state_of(rogue)
    other = replace(state.plans[RUN], plan_hash=ELSE)
    refused(replace(state, plans={RUN: other}), Offer(rogue.offered), "manifest_differs_from_plan")


STANDARDISING = plans.parse_canonical(plan_bytes(rounds=2, standardise="federated"))
PLAIN = plans.parse_canonical(plan_bytes(rounds=2))
OWN, FOREIGN = SumRef(RUN, 1, ELSE), SumRef(RunId("earlier"), 5, ELSE)
LAST = SumRef(RUN, 9, ELSE)


def placed(plan: plans.Plan, purpose: Purpose, step: int, round_number: int, **changes: object) -> Manifest:
    """A manifest of this purpose, step and round; by default it names the references that are due there."""
    asked = purpose is Purpose.STANDARDISE
    due: dict[str, object] = {
        "purpose": purpose,
        "step": step,
        "key": AttemptKey(RUN, round_number, 1),
        "standardise": (OWN,) if plan is STANDARDISING and not asked else (),
        "previous": (LAST,) if step > 0 else (),
        "query_digest": layout.query_digest(plan) if asked else b"",
        "model_hash": b"" if asked else ELSE,
    }
    return replace(at("idle").body, **{**due, **changes})  # type: ignore[arg-type]


RIGHT_PLACES = [
    placed(STANDARDISING, Purpose.STANDARDISE, 0, 1),
    placed(STANDARDISING, Purpose.TRAIN, 0, 2),
    placed(STANDARDISING, Purpose.TRAIN, 1, 3),
    placed(STANDARDISING, Purpose.EVALUATE, 2, 4),
    placed(STANDARDISING, Purpose.TRAIN, 0, 1, standardise=(FOREIGN,)),
    placed(STANDARDISING, Purpose.EVALUATE, 2, 3, standardise=(FOREIGN,)),
]


@pytest.mark.parametrize("manifest", RIGHT_PLACES)
def test_the_places_of_a_plan(manifest: Manifest) -> None:
    checks.manifest_place_in_plan(manifest, STANDARDISING)


@pytest.mark.parametrize(("purpose", "step"), [(Purpose.TRAIN, 0), (Purpose.TRAIN, 1), (Purpose.EVALUATE, 2)])
def test_the_places_of_a_plan_without_standardisation(purpose: Purpose, step: int) -> None:
    checks.manifest_place_in_plan(placed(PLAIN, purpose, step, step + 1), PLAIN)


WRONG_PLACES: dict[str, tuple[plans.Plan, Manifest]] = {
    "a train step after the last": (PLAIN, placed(PLAIN, Purpose.TRAIN, 2, 3)),
    "a train step after the last, with standardisation": (STANDARDISING, placed(STANDARDISING, Purpose.TRAIN, 2, 4)),
    "an evaluation before the last step": (PLAIN, placed(PLAIN, Purpose.EVALUATE, 1, 2)),
    "an evaluation after the last step": (PLAIN, placed(PLAIN, Purpose.EVALUATE, 3, 4)),
    "previous before the first step": (PLAIN, placed(PLAIN, Purpose.TRAIN, 0, 1, previous=(LAST,))),
    "no previous after it": (PLAIN, placed(PLAIN, Purpose.TRAIN, 1, 2, previous=())),
    "no previous at the evaluation": (PLAIN, placed(PLAIN, Purpose.EVALUATE, 2, 3, previous=())),
    "the round before": (PLAIN, placed(PLAIN, Purpose.TRAIN, 1, 1)),
    "the round after": (PLAIN, placed(PLAIN, Purpose.TRAIN, 0, 2)),
    "the round of a plan without its own standardisation": (
        STANDARDISING,
        placed(STANDARDISING, Purpose.TRAIN, 0, 1),
    ),
    "the round of a plan with its own standardisation": (
        STANDARDISING,
        placed(STANDARDISING, Purpose.TRAIN, 0, 2, standardise=(FOREIGN,)),
    ),
    "a standardisation of its own in another round": (
        STANDARDISING,
        placed(STANDARDISING, Purpose.TRAIN, 0, 2, standardise=(replace(OWN, round=2),)),
    ),
    "no standardisation where the plan has one": (
        STANDARDISING,
        placed(STANDARDISING, Purpose.TRAIN, 0, 1, standardise=()),
    ),
    "a standardisation where the plan has none": (PLAIN, placed(PLAIN, Purpose.TRAIN, 0, 1, standardise=(FOREIGN,))),
    "a standardise sum where the plan has none": (PLAIN, placed(PLAIN, Purpose.STANDARDISE, 0, 1)),
    "a standardise sum in a later round": (STANDARDISING, placed(STANDARDISING, Purpose.STANDARDISE, 0, 2)),
    "a standardise sum at a later step": (STANDARDISING, placed(STANDARDISING, Purpose.STANDARDISE, 1, 2, previous=())),
    "a standardise sum under another": (
        STANDARDISING,
        placed(STANDARDISING, Purpose.STANDARDISE, 0, 1, standardise=(FOREIGN,)),
    ),
    "a standardise sum after a train sum": (
        STANDARDISING,
        placed(STANDARDISING, Purpose.STANDARDISE, 0, 1, previous=(LAST,)),
    ),
    "another query": (STANDARDISING, placed(STANDARDISING, Purpose.STANDARDISE, 0, 1, query_digest=ELSE)),
    "no query": (STANDARDISING, placed(STANDARDISING, Purpose.STANDARDISE, 0, 1, query_digest=b"")),
    "a model in a query": (STANDARDISING, placed(STANDARDISING, Purpose.STANDARDISE, 0, 1, model_hash=ELSE)),
    "a query in a train sum": (PLAIN, placed(PLAIN, Purpose.TRAIN, 0, 1, query_digest=ELSE)),
    "a train sum about no model": (PLAIN, placed(PLAIN, Purpose.TRAIN, 0, 1, model_hash=b"")),
    "statistics": (PLAIN, placed(PLAIN, Purpose.STATISTICS, 0, 1)),
}


@pytest.mark.parametrize(("plan", "manifest"), WRONG_PLACES.values(), ids=WRONG_PLACES)
def test_a_sum_that_is_not_the_next_of_the_plan(plan: plans.Plan, manifest: Manifest) -> None:
    with pytest.raises(FedveilError) as caught:
        checks.manifest_place_in_plan(manifest, plan)
    assert caught.value.code == "manifest_differs_from_plan"


def test_the_machine_asks_for_the_place_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.manifest_place_in_plan`: the first step again, in the second round."""
    rogue = at("idle")
    forged = Offer(rogue.manifest(key=AttemptKey(RUN, 2, 1)))
    code, check = "manifest_differs_from_plan", "manifest_place_in_plan"
    stopped(state_of(rogue), Offer(rogue.offered), forged, code, check, "offer", monkeypatch)


def test_the_sum_of_the_same_table_under_another_name_is_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.not_spent`, which compares version, purpose and subject, whatever name a table bears."""
    rogue = at("idle")
    state, offer = state_of(rogue), Offer(rogue.offered)
    keys = checks.spent_key(rogue.body, state.plans[RUN]), checks.update_key(rogue.body, state.plans[RUN])
    assert len({key.subject for key in keys}) == 2
    for key in keys:
        assert key.dataset == "table"
        refused(replace(state, spent=frozenset({key})), offer, "model_spent")
        refused(replace(state, spent=frozenset({replace(key, dataset="renamed")})), offer, "model_spent")
        for other in ({"version": ELSE}, {"purpose": Purpose.EVALUATE}, {"subject": ELSE}):
            unrelated = frozenset({replace(key, **other)})  # type: ignore[arg-type]
            assert kinds(told(replace(state, spent=unrelated), offer)) == ["offer"]
    monkeypatch.setattr(checks, "not_spent", nothing)
    assert kinds(told(replace(state, spent=frozenset(keys)), offer)) == ["offer"]
