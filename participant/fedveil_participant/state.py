"""What a participant knows between attempts, and the stage of the one that is open: what `round` and `encrypted` step.

Promise: a change of the standing facts is applied in one place, beside the stage that it is stored with.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from fedveil_common import wire
from fedveil_common.crypto import signing
from fedveil_common.dp.budget import Ledger
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import BlobType, Body, SignedBlob
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey

from fedveil_participant.checks import AcceptedPlan, Limits
from fedveil_participant.events import (
    Action,
    AnswerFailed,
    AnswerReady,
    Changes,
    CiphertextsReady,
    DiscardInput,
    InputReady,
    LedgerEntry,
    OpenedSum,
    Persist,
    SpentKey,
    TagKey,
    UpdateFailed,
    UpdateReady,
)
from fedveil_participant.stages import AbortVoted, Idle, Stage


@dataclass(frozen=True, slots=True)
class LifetimeLimit:
    """Epsilon that the records of a data set may spend over all runs, at `delta`."""

    max_epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class State:
    """One participant: what it knows between attempts, and the stage of the attempt that is open.

    `plans`: the runs this organisation agreed to take part in, each with its plan and the data version it is for.
    `newer`: a roster version that came while an attempt is open; that attempt finishes under `roster`. `tag_keys`: for
    sums that are still to be checked. `disputed`: runs in which a false sum was signed; they are over here. `ledgers`,
    `lifetimes`: by data set, what its records have spent, and what its owner lets them spend in all. `sketches`: of the
    data versions that plans with exact sums were accepted for (`data.difference`). `held`: why no input is made at the
    moment, in any run; `closed`: why none is made in these runs.
    """

    me: OrgId
    signing_key: PrivateKey
    roster: Roster
    newer: Roster | None = None
    limits: Limits = field(default_factory=Limits)
    plans: Mapping[RunId, AcceptedPlan] = field(default_factory=dict)
    high_water: Mapping[RunId, tuple[int, int]] = field(default_factory=dict)
    spent: frozenset[SpentKey] = frozenset()
    opened: frozenset[OpenedSum] = frozenset()
    tag_keys: tuple[TagKey, ...] = ()
    disputed: frozenset[RunId] = frozenset()
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)
    lifetimes: Mapping[str, LifetimeLimit] = field(default_factory=dict)
    sketches: Mapping[bytes, bytes] = field(default_factory=dict)
    held: str = ""
    closed: Mapping[RunId, str] = field(default_factory=dict)
    stage: Stage = field(default_factory=Idle)
    progress_at: float = 0.0


Step = tuple[State, tuple[Action, ...]]


def close(state: State, kind: str, actions: tuple[Action, ...], changes: Changes | None = None) -> Step:
    """The attempt is over here: its stage, and with it every key, is erased."""
    assert not isinstance(state.stage, Idle), "only an open attempt can be closed"
    key = state.stage.frame.key
    changes = changes or Changes()
    roster = state.newer or state.roster
    after = apply(replace(state, stage=Idle(), roster=roster, newer=None), changes)
    return after, (Persist(kind, changes), DiscardInput(key), *actions)


def left_behind(
    state: State, done: UpdateReady | UpdateFailed | InputReady | CiphertextsReady | AnswerReady | AnswerFailed
) -> tuple[Action, ...]:
    """What was written for an attempt once it was over goes: its files were deleted before (`close`)."""
    stage = state.stage
    over = isinstance(stage, Idle | AbortVoted) or stage.frame.key != done.key
    wrote = isinstance(done, InputReady | CiphertextsReady | AnswerReady)
    return (DiscardInput(done.key),) if wrote and over else ()


def apply(state: State, changes: Changes) -> State:
    """The state with these changes of its standing facts."""
    high_water = dict(state.high_water)
    if changes.high_water is not None:
        high_water[changes.high_water.run_id] = (changes.high_water.round, changes.high_water.attempt)
    return replace(
        state,
        high_water=high_water,
        spent=(state.spent - set(changes.free)) | set(changes.spend),
        opened=state.opened | set(changes.opened),
        tag_keys=changes.applied_to(state.tag_keys),
        disputed=state.disputed | set(changes.disputed),
        roster=changes.roster or state.roster,
        ledgers=spent_by(state.ledgers, changes.ledger),
    )


def spent_by(ledgers: Mapping[str, Ledger], entries: Iterable[LedgerEntry]) -> Mapping[str, Ledger]:
    """The ledgers after these entries. IntegrityError `ledger_conflict`."""
    after = dict(ledgers)
    for one in entries:
        after[one.dataset] = after.get(one.dataset, Ledger()).apply(one.entry)
    return after


def sign(state: State, type: BlobType, body: Body) -> SignedBlob:
    """A body under this participant's protocol key."""
    return signing.sign(state.signing_key, state.me, type, wire.encode_body(body))
