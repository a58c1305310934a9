"""Everything that one honest member of an attempt can be brought to do after its ack: the graph of the real machine.

`explore` feeds every message that a coordinator can put together for such an attempt (dealer sets, proposals,
certificates of every size that matters, abort orders, abort certificates, complaints, each in every order and as often
as it likes), restarts and deadlines to `fedveil_participant.round.step`, until no new state appears. A state is the
stage as the journal would write it, so nothing is abstracted from it; beside it stands what the member has voted,
revealed so far.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from federation import RUN, body_of
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId
from fedveil_common.masking import quorum
from fedveil_common.messages import (
    AbortMessage,
    BlobType,
    CoordinatorMessage,
    OpeningRequest,
    Openings,
    ParticipantMessage,
    Reveal,
    RevealMessage,
    RunEnded,
    ShareAck,
    Vote,
    VoteMessage,
)
from fedveil_common.snapshot import SnapshotCodec
from fedveil_participant import round
from fedveil_participant.events import Connected, Event, InputReady, Resumed, Tick
from fedveil_participant.stages import STAGES, Encoding, Idle, Stage
from small_attempts import AT, LEAF_HASHES, Attempt, Orgs, said

CODEC = SnapshotCodec(STAGES)

Choice = tuple[Orgs, Orgs]
"""What can be opened: (dealers, survivors)."""


@dataclass(frozen=True, slots=True)
class Released:
    """What a reveal gives away: whether its own seed, of whom a share of the self seed, of whom one of the mask key."""

    own_seed: bool
    seeds: frozenset[OrgId]
    keys: frozenset[OrgId]


@dataclass(frozen=True, slots=True)
class History:
    """What a member has said so far in this attempt, in whatever order it was asked."""

    votes: frozenset[Choice] = frozenset()
    aborted: bool = False
    revealed: tuple[tuple[Choice, Released], ...] = ()


@dataclass
class Graph:
    """The outcome for one member. `certified_by`: the fewest votes for which it ever revealed; `opened`: the most
    recipients whose shares it ever opened in public.
    """

    histories: set[History]
    certified_by: int
    opened: int = 0
    states: int = 0
    steps: int = 0

    @property
    def votable(self) -> dict[Choice, Released]:
        """Each choice it can be brought to reveal for, and what it gives away then."""
        return {choice: released for history in self.histories for choice, released in history.revealed}


def subsets(orgs: Orgs, least: int = 0) -> Iterator[Orgs]:
    """Every subset with at least so many members, sorted."""
    for size in range(least, len(orgs) + 1):
        yield from combinations(orgs, size)


def choices(attempt: Attempt, least: int) -> list[Choice]:
    """Dealer sets for which honest headers exist (others are refused before a header is made), and sets within them of
    at least so many survivors.
    """
    found = []
    for dealers in subsets(attempt.orgs, attempt.body.quorum):
        found.extend((dealers, survivors) for survivors in subsets(dealers, least))
    return found


def alphabet(attempt: Attempt, me: OrgId) -> list[Event]:
    """Every message and event, whatever the stage. With six members proposals and certificates are left out that are
    too small by more than one: those that are too small by one stand for them.
    """
    body, orgs = attempt.body, attempt.orgs
    others = tuple(org for org in orgs if org != me)
    q, a = body.quorum, quorum.abort_threshold(len(orgs), body.corrupt)
    messages: list[CoordinatorMessage] = [attempt.share_set(dealers) for dealers in subsets(orgs, 1)]
    small = len(orgs) < 6
    for dealers, survivors in choices(attempt, 1 if small else q - 1):
        messages.append(attempt.proposal(dealers, survivors))
        if len(survivors) >= (1 if small else q):
            counts = range(1, len(dealers) + 1) if small else (q - 1, q)
            messages.extend(attempt.certificate(dealers, survivors, dealers[:count]) for count in counts)
            voters = tuple(sorted((*dealers[: q - 1], dealers[0])))  # q votes, one of them twice
            messages.append(attempt.certificate(dealers, survivors, voters))
    messages.extend(attempt.abort_notice(orgs[:count]) for count in range(a - 1, len(orgs) + 1))
    messages.append(attempt.abort_order())
    ack = {org: attempt.sign(org, BlobType.SHARE_ACK, ShareAck(attempt.t1, org, (me,))) for org in others}
    for some in subsets(others, 1):
        messages.append(OpeningRequest(attempt.t1, tuple(ack[org] for org in some)))
    messages.append(attempt.keyset())
    messages.append(attempt.delivery(me))
    messages.append(RunEnded(RUN, body.plan_hash, "model_spent", (), ()))
    events: list[Event] = [attempt.event(me, message) for message in messages]
    return [*events, Connected(AT), Tick(AT + body.hard_limit_s)]


def explore(attempt: Attempt, me: OrgId) -> Graph:
    """Every state and history of `me`, from where it is."""
    names = {attempt.t3(*choice): choice for choice in choices(attempt, 1)}
    events = alphabet(attempt, me)
    start = attempt.states[me]
    seen: set[tuple[bytes, History]] = set()
    open_: list[tuple[round.State, History]] = [(start, History())]
    graph = Graph(set(), len(attempt.orgs))
    while open_:
        state, history = open_.pop()
        place = (key_of(state.stage), history)
        if place in seen:
            continue
        seen.add(place)
        graph.histories.add(history)
        if isinstance(state.stage, Idle):
            continue  # the attempt is over for this member: all its keys are erased
        for event in (*events, *internal(state, attempt)):
            graph.steps += 1
            try:
                after, actions = round.step(state, event)
            except FedveilError:
                continue  # refused: no state moved (attacks 17, 18, 22 to 24 test each refusal by its code)
            told = said(actions)
            graph.opened = max(graph.opened, *(len(one.openings) for one in told if isinstance(one, Openings)), 0)
            grown = extended(history, told, names)
            if grown.revealed != history.revealed:
                graph.certified_by = min(graph.certified_by, len(event.message.votes))  # type: ignore[union-attr]
            if after is not state or grown != history:
                open_.append((replace(after, progress_at=start.progress_at), grown))
    graph.states = len(seen)
    return graph


def internal(state: round.State, attempt: Attempt) -> list[Event]:
    """What can happen to a member by itself in this stage: its input is ready; it is killed and started again."""
    own: list[Event] = [Resumed(AT)]
    if isinstance(state.stage, Encoding):
        own.append(InputReady(attempt.body.key, state.stage.t2, LEAF_HASHES, bytes(8), AT))
    return own


def key_of(stage: Stage) -> bytes:
    """The stage as the journal writes it; a restart reads just that."""
    if isinstance(stage, Idle):
        return b""
    written = CODEC.encode(stage)
    assert CODEC.decode(type(stage).__name__, written) == stage
    return type(stage).__name__.encode() + written


def extended(history: History, told: list[ParticipantMessage], names: dict[bytes, Choice]) -> History:
    """The history once this was said; the same if it was said before."""
    for message in told:
        match message:
            case VoteMessage(vote=blob):
                body = body_of(blob)
                assert isinstance(body, Vote)
                history = replace(history, votes=history.votes | {names[body.t3]})
            case AbortMessage():
                history = replace(history, aborted=True)
            case RevealMessage(reveal=blob):
                body = body_of(blob)
                assert isinstance(body, Reveal)
                seeds, keys = (frozenset(org for org, _ in pairs) for pairs in (body.self_shares, body.key_shares))
                found = (names[body.t3], Released(bool(body.self_seed), seeds, keys))
                if found not in history.revealed:
                    history = replace(history, revealed=(*history.revealed, found))
            case _:
                pass
    return history
