"""The durable journal of a participant and its twin in memory, on which protocol tests run, do the same:
any sequence of operations has the same outcomes, and leaves the same behind for a restart.
"""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from fedveil_common.errors import FedveilError
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.messages import Purpose
from fedveil_common.secret import Seed
from fedveil_participant.events import Changes, OpenedSum, SpentKey, TagKey
from fedveil_participant.stages import Idle
from fedveil_participant.store import ParticipantStore, open_store
from fedveil_simulation.journals import ParticipantMemory
from fedveil_simulation.ports import SeededEntropy, SimulatedClock
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_participant_store import ADVERTISED, KEY, OTHER, PREPARING, REVEALED, RUN, SPENT, write_input

RUNS = st.sampled_from([RUN, RunId("run-2")])
ATTEMPTS = st.builds(AttemptKey, RUNS, st.integers(1, 2), st.integers(1, 2))
SPENT_KEYS = st.sampled_from([SPENT, OTHER, replace(SPENT, dataset="ward"), replace(SPENT, purpose=Purpose.EVALUATE)])
T3S, RESULTS = st.sampled_from([b"3" * 32, b"4" * 32]), st.sampled_from([b"", b"5" * 32])
OPENED_SUMS = st.builds(OpenedSum, RUNS, st.integers(1, 2), T3S, RESULTS)
SEEDS = st.sampled_from([Seed(b"k" * 32), Seed(b"l" * 32)])
TAG_KEYS = st.builds(TagKey, RUNS, st.integers(1, 2), T3S, SEEDS)
CHANGES = st.builds(
    Changes,
    high_water=st.none() | ATTEMPTS,
    spend=st.lists(SPENT_KEYS, max_size=2).map(tuple),
    free=st.lists(SPENT_KEYS, max_size=2).map(tuple),
    opened=st.lists(OPENED_SUMS, max_size=2).map(tuple),
    tag_keys=st.lists(TAG_KEYS, max_size=1).map(tuple),
    checked=st.lists(TAG_KEYS, max_size=1).map(tuple),
    disputed=st.lists(RUNS, max_size=1).map(tuple),
)
FACTS = st.lists(st.tuples(st.text('ab\u00e9"\\', max_size=3), st.text(max_size=3)), max_size=2).map(tuple)
KINDS = st.sampled_from(["offer", "input", "aborted"])
STAGES = st.sampled_from([Idle(), PREPARING, ADVERTISED, REVEALED])
HASHES = st.sampled_from([b"p" * 32, b"q" * 32])
RINGS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3).map(lambda ring: np.array(ring, dtype=np.uint32))
UPDATES = st.lists(st.lists(st.floats(width=64), min_size=1, max_size=3).map(np.array), max_size=2)

# (method of the journal, its arguments)
OPERATIONS = st.one_of(
    st.tuples(st.just("save"), st.tuples(ATTEMPTS, STAGES, KINDS, FACTS, CHANGES)),
    st.tuples(st.just("note"), st.tuples(KINDS, FACTS)),
    st.tuples(st.just("write_input"), st.tuples(st.just(KEY), RINGS)),
    st.tuples(st.just("read_input"), st.tuples(st.just(KEY))),
    st.tuples(st.just("discard_input"), st.tuples(st.just(KEY))),
    st.tuples(st.just("put_update"), st.tuples(SPENT_KEYS, HASHES, UPDATES)),
    st.tuples(st.just("drop_update"), st.tuples(SPENT_KEYS)),
    st.tuples(st.just("save_plan"), st.tuples(RUNS, HASHES, st.binary(max_size=2), st.binary(max_size=2))),
    st.tuples(st.just("drop_updates"), st.just(())),
    st.tuples(st.just("save_roster"), st.tuples(st.binary(max_size=2))),
    st.tuples(st.just("has_end"), st.tuples(RUNS)),
)


def outcome(journal: ParticipantStore | ParticipantMemory, operation: tuple[str, tuple[object, ...]]) -> object:
    """What the caller of one operation sees: a value, or the code of a refusal."""
    name, arguments = operation
    try:
        if name == "write_input":
            return write_input(journal, *arguments)  # type: ignore[arg-type,func-returns-value]
        if name == "read_input":
            with contextlib.closing(journal.open_input(*arguments)) as source:  # type: ignore[arg-type]
                return bytes(source.packed(0))
        found = getattr(journal, name)(*arguments)
    except FedveilError as error:
        return error.code
    return found.tobytes() if isinstance(found, np.ndarray) else found


def kept_update(journal: ParticipantStore | ParticipantMemory, key: SpentKey) -> tuple[bytes, bytes] | None:
    """(hash of the model, values) of the update kept under `key`."""
    found = journal.open_update(key)
    if found is None:
        return None
    with contextlib.closing(found):
        return found.model_hash, found.read(0, found.length).tobytes()


def held(journal: ParticipantStore | ParticipantMemory) -> dict[str, object]:
    """Everything that a restart would find, except masked inputs."""
    updates = [kept_update(journal, key) for key in (SPENT, OTHER, replace(SPENT, dataset="ward"))]
    seen: dict[str, object] = {
        "stage": journal.load(),
        "updates": updates,
    }
    if isinstance(journal, ParticipantStore):
        standing, trail = journal.standing(), journal.trail()
        return seen | {
            "high_water": dict(standing.high_water),
            "spent": standing.spent,
            "opened": standing.opened,
            "tag_keys": standing.tag_keys,
            "disputed": standing.disputed,
            "plans": {plan.run_id: (plan.plan_hash, plan.canonical, plan.version) for plan in journal.plans()},
            "roster": journal.roster(),
            "trail": [(row.kind, row.key, row.facts) for row in trail if row.key is not None],
            "notes": [(row.kind, row.facts) for row in trail if row.key is None and row.kind == "refused"],
            "records": [(row.kind, row.facts) for row in trail if row.key is None and row.kind != "refused"],
        }
    return seen | {
        "high_water": journal.kept.high_water,
        "spent": journal.kept.spent,
        "opened": journal.kept.opened,
        "tag_keys": journal.kept.tag_keys,
        "disputed": journal.kept.disputed,
        "plans": journal.plans,
        "roster": journal.roster,
        "trail": journal.trail,
        "notes": journal.notes,
        "records": journal.records,
    }


@settings(max_examples=40)
@given(operations=st.lists(OPERATIONS, max_size=12))
def test_the_journal_does_what_its_twin_in_memory_does(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, tuple[object, ...]]]
) -> None:
    folder, twin, key = tmp_path_factory.mktemp("twin"), ParticipantMemory(), Seed(b"k" * 32)
    store = open_store(folder, key, SimulatedClock(), SeededEntropy(1, "twin"), create=True)
    for operation in operations:
        assert outcome(store, operation) == outcome(twin, operation)
    assert held(store) == held(twin)
    store.close()
    again = open_store(folder, key, SimulatedClock(), SeededEntropy(2, "twin"))
    assert held(again) == held(twin)
    again.close()
