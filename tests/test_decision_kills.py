"""A decision about a model by a process that is killed before each change of the coordinator's database."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from federation import FIVE, RUN
from fedveil_common.registry import status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.stages import Stage
from fedveil_coordinator.store import open_store

from tests.release_office import OPERATOR, ReleaseOffice, release_office


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[ReleaseOffice]:
    with release_office(tmp_path / "elsewhere") as office:
        yield office


def test_a_process_that_is_killed_in_a_decision_leaves_the_whole_of_it_or_nothing(
    ended: ReleaseOffice, tmp_path: Path
) -> None:
    """Really killed: before each change of the database and before its commit, until one gets through."""

    def office() -> ReleaseOffice:
        store = open_store(tmp_path / "op", ended.clock, create=True)
        return ReleaseOffice(ended.cluster, store, ended.trust, ended.key)

    prepared = office()
    prepared.countersign(*FIVE)
    ref = ModelRef.of(prepared.candidate().manifest)
    prepared.store.close()
    kills, exits = 0, [-signal.SIGKILL]
    while exits[-1]:
        kills += 1
        child = os.fork()
        if not child:
            try:
                deciding = office().registry
                dying_at(kills)
                deciding.promote(RUN, Stage.RELEASED, OPERATOR, "")
                os._exit(0)
            finally:
                os._exit(1)
        exits.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with contextlib.closing(sqlite3.connect(tmp_path / "op" / "coordinator.db")) as database:
            ((decided, audited, document),) = database.execute(
                "SELECT (SELECT count(*) FROM stages), (SELECT count(*) FROM audit WHERE what = 'stage'), document "
                "FROM status"
            )
        listed = status.contents(document)
        assert decided == audited == listed.statements
        assert listed.stage_of(ref) is {1: None, 2: Stage.RELEASED}[decided]
    assert decided == 2
    assert set(exits[:-1]) == {-signal.SIGKILL}
    assert kills > 4
    again = office()
    assert again.registry.stage(ref.model_id) is Stage.RELEASED, "what the kills left behind is a log that can be read"
    again.store.close()


def dying_at(number: int) -> None:
    """This process is killed before it changes a database for this time, or commits."""
    left = [number]

    def change(*_: object) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def execute(connection: object, cursor: object, text: str, *_: object) -> None:
        if not text.startswith("SELECT"):
            change()

    sa.event.listen(sa.Engine, "before_cursor_execute", execute)
    sa.event.listen(sa.Engine, "commit", change)
