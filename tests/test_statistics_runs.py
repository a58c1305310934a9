"""Whole statistics runs without noise: the answers are numpy's over the union, and nothing is asked twice."""

import json

import numpy as np
import pytest
from encrypted_federation import KEY_ID, book_of
from federation import FIVE, RUN, THREE, die_after, run, trail
from fedveil_common import plan as plans
from fedveil_common.errors import PeerError
from fedveil_common.ids import RunId
from fedveil_common.messages import Purpose
from fedveil_common.published import PublishedRound
from fedveil_common.statistics import vector
from fedveil_common.table import Table
from fedveil_participant import lineage, tally, update
from fedveil_participant.data.csv_source import Source
from numpy.typing import NDArray
from statistics_federation import Column, accept, answers, asking, check_exact, columns, statistics_bytes, union

AGAIN = RunId("run-2")


def test_the_answers_are_those_over_all_rows() -> None:
    cluster = asking()
    assert run(cluster, statistics_bytes()) == "finished"
    check_exact(answers(cluster, RUN), FIVE)
    state = cluster.coordinator.state_of(RUN)
    assert [record.purpose for record in state.records] == [Purpose.STATISTICS]
    assert state.ended is not None
    assert state.ended.model == ()


def test_every_participant_reads_the_same_answers_from_the_signed_sum() -> None:
    cluster = asking(THREE)
    assert run(cluster, statistics_bytes()) == "finished"
    shown = json.loads(json.dumps(answers(cluster, RUN)))
    for member in cluster.members.values():
        stored = json.loads(member.memory.statistics[RUN])
        assert stored["answers"] == shown
        assert (stored["run_id"], stored["opened_in"], stored["survivors"]) == (RUN, RUN, 3)
        assert member.memory.ends[RUN][1:] == ("finished", b"")


def test_under_paillier_too() -> None:
    plan = statistics_bytes(kind=f"paillier, key: {KEY_ID}", bits=", value_bits: 48")
    cluster = asking(THREE, book=book_of(THREE, THREE, 2), canonical=plan)
    assert run(cluster, plan) == "finished"
    check_exact(answers(cluster, RUN), THREE)


def test_a_cell_has_its_lower_edge_and_the_last_one_both() -> None:
    plan = plans.parse_canonical(statistics_bytes(queries="    - {histogram: chol, edges: [150, 200, 300]}\n"))
    values = np.array([149.9, 150.0, 199.9, 200.0, 299.9, 300.0, 300.1, 500.0, np.nan])
    table = Table(rows=len(values), numbers={"chol": values}, codes={}, target=None)
    (part,) = vector.parts(plan)
    assert tally.cells_of(plan, table, part).tolist() == [-1, 0, 0, 1, 1, 1, -1, -1, -1]
    (counts,) = tally.tally(plan, Source(table, bytes(32), np.zeros(9, dtype=np.uint64)))
    assert counts.tolist() == np.histogram(values[:-1], bins=[150, 200, 300])[0].tolist() == [2, 3]


def test_own_cells_below_the_smallest_are_sent_as_nothing() -> None:
    least = 9
    plan = statistics_bytes(min_cell=least)
    cluster = asking(canonical=plan)
    assert run(cluster, plan) == "finished"
    each = [np.histogram(one.age, bins=10, range=(0, 100))[0] for one in columns()]
    shown = np.sum([np.where(cells < least, 0, cells) for cells in each], axis=0)
    assert (shown != np.sum(each, axis=0)).any(), "something is below"
    found = answers(cluster, RUN)
    assert found[4]["counts"] == shown.tolist()
    severe = [int((one.diagnosis == "severe").sum()) for one in columns()]
    assert found[7]["counts"][2] == sum(count for count in severe if count >= least)  # type: ignore[index]
    assert 0 < sum(count for count in severe if count >= least) < sum(severe)


def test_a_column_of_which_a_member_has_few_values_is_not_summed_there() -> None:
    counts = [int((~np.isnan(one.chol)).sum()) for one in columns()]
    least = sorted(counts)[1]  # one member has fewer
    plan = statistics_bytes(min_cell=least)
    cluster = asking(canonical=plan)
    assert run(cluster, plan) == "finished"
    enough = np.concatenate([one.chol for one, count in zip(columns(), counts, strict=True) if count >= least])
    total, mean = answers(cluster, RUN)[1:3]
    assert total["value"] == pytest.approx(np.nansum(enough), rel=1e-7)
    assert mean["rows"] == int((~np.isnan(enough)).sum()) == sum(counts) - min(counts)


def test_the_same_questions_are_answered_from_the_first_sum() -> None:
    cluster = asking(THREE)
    assert run(cluster, statistics_bytes()) == "finished"
    other = statistics_bytes().replace(b'"asked"', b'"asked-again"')
    accept(cluster, other)
    assert run(cluster, other, AGAIN) == "finished"
    assert answers(cluster, AGAIN) == answers(cluster, RUN)
    assert cluster.coordinator.state_of(AGAIN).records == ()
    assert [run_id for run_id, _ in cluster.memory.sums] == [RUN]


def test_a_member_that_came_later_reads_the_first_answer_too() -> None:
    """Those that were in it have it; the others check the sum as any newcomer does, and nothing is summed again."""
    cluster = asking(FIVE)
    late = FIVE[4]
    cluster.kill_member(late)
    assert run(cluster, statistics_bytes()) == "finished"
    assert late not in cluster.coordinator.state_of(RUN).records[0].cohort
    cluster.start_member(late)
    cluster.settle()
    assert run(cluster, statistics_bytes(), AGAIN) == "finished"
    stored = json.loads(cluster.members[late].memory.statistics[AGAIN])
    assert stored["answers"] == json.loads(json.dumps(answers(cluster, RUN)))
    assert (stored["run_id"], stored["opened_in"], stored["survivors"]) == (AGAIN, RUN, 4)
    assert [run_id for run_id, _ in cluster.memory.sums] == [RUN]
    assert all(member.memory.ends[AGAIN][1] == "finished" for member in cluster.members.values())


def test_an_answer_of_another_run_that_proves_nothing_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator could name any old run, and with it answers of its choice: who has not seen that result itself
    looks at the round. Without that the newcomer stores what it is shown.
    """
    cluster = asking(FIVE)
    late = FIVE[4]
    cluster.kill_member(late)
    assert run(cluster, statistics_bytes()) == "finished"
    cluster.start_member(late)
    cluster.settle()

    def nothing(run_id: RunId, number: int) -> PublishedRound:
        raise PeerError("round_not_kept", "nothing is shown of it")

    monkeypatch.setattr(cluster, "published", nothing)
    cluster.start_run(AGAIN, statistics_bytes())
    cluster.play(lambda: cluster.ended(AGAIN), 2_000.0)
    assert AGAIN not in cluster.members[late].memory.statistics


@pytest.mark.parametrize("how", ["another refresh", "a coordinator that forgot"])
def test_over_the_same_rows_nobody_answers_the_same_questions_again(how: str) -> None:
    """Also not with others: a second sum over fewer members would show the one who is not in it."""
    cluster = asking(FIVE)
    assert run(cluster, statistics_bytes()) == "finished"
    plan = statistics_bytes(refresh=1) if how == "another refresh" else statistics_bytes()
    if how != "another refresh":
        cluster.memory.answers.clear()
    accept(cluster, plan)
    assert run(cluster, plan, AGAIN) == "model_spent"
    assert [run_id for run_id, _ in cluster.memory.sums] == [RUN]
    state = cluster.coordinator.state_of(AGAIN)
    assert state.ended is not None
    assert "model_spent" in (told := {code for _, code in state.ended.missing})
    assert told <= {"model_spent", ""}, "the run ended before the last of them was heard"


def test_over_new_rows_another_refresh_is_answered() -> None:
    cluster = asking(THREE)
    assert run(cluster, statistics_bytes()) == "finished"
    more = [Column(index, 60 + index) for index in range(3)]
    for org, one in zip(THREE, more, strict=True):
        cluster.members[org].data = {"table": one.csv()}
    plan = statistics_bytes(refresh=1)
    accept(cluster, plan)
    assert run(cluster, plan, AGAIN) == "finished"
    assert answers(cluster, AGAIN)[0]["value"] == 60 + 61 + 62
    assert answers(cluster, RUN)[0]["value"] == sum(len(one.age) for one in columns(THREE))


def test_other_questions_over_the_same_rows_are_asked() -> None:
    """Said by `plan explain`: without noise nothing but the cells bounds what two answers show together."""
    cluster = asking(THREE)
    assert run(cluster, statistics_bytes()) == "finished"
    plan = statistics_bytes(queries="    - {mean: age}\n")
    accept(cluster, plan)
    assert run(cluster, plan, AGAIN) == "finished"
    assert answers(cluster, AGAIN)[0]["value"] == pytest.approx(union(THREE, "age").mean(), rel=1e-9)


@pytest.mark.parametrize("kind", ["offer", "input", "vote", "reveal"])
def test_a_member_that_is_started_again_in_between(kind: str) -> None:
    cluster = asking(FIVE)
    org = FIVE[1]
    died = die_after(cluster, org, kind, 1, then=lambda: cluster.start_member(org))
    assert run(cluster, statistics_bytes()) == "finished"
    assert died
    assert trail(cluster, org, 1).count("input") == 1
    check_exact(answers(cluster, RUN), FIVE)
    assert json.loads(cluster.members[org].memory.statistics[RUN])["survivors"] == 5


def test_a_member_that_dropped_out_is_not_in_the_answers() -> None:
    cluster = asking(FIVE)
    die_after(cluster, FIVE[2], "dealers", 1)
    assert run(cluster, statistics_bytes()) == "finished"
    check_exact(answers(cluster, RUN), tuple(org for org in FIVE if org != FIVE[2]))


def test_more_rows_than_the_plan_counts_are_declined() -> None:
    plan = statistics_bytes(max_rows=60)  # FIVE have 40, 53, 66, 79, 92
    cluster = asking(FIVE, canonical=plan)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 2_000.0)
    state = cluster.coordinator.state_of(RUN)
    assert {org for org in FIVE if state.answers.get(org) == ""} <= set(FIVE[:2])
    assert dict(state.ended.missing) == dict.fromkeys(FIVE[2:], "too_many_rows") if state.ended else state.answers
    assert not cluster.memory.sums


def test_rows_that_the_plan_drops_are_in_no_answer() -> None:
    plan = statistics_bytes(missing="drop")
    cluster = asking(THREE, canonical=plan)
    assert run(cluster, plan) == "finished"
    assert answers(cluster, RUN)[0]["value"] == len(union(THREE, "chol"))


def test_a_sum_that_no_rows_give_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "tally", lambda plan, source: [np.full(1, -900.0)] * 4 + _cells(plan))
    cluster = asking(THREE)
    assert run(cluster, statistics_bytes()) == "model_rejected"
    assert all(not member.memory.statistics for member in cluster.members.values())
    assert not cluster.memory.answers


def _cells(plan: plans.Plan) -> list[NDArray[np.float64]]:
    return [np.zeros(part.length) for part in vector.parts(plan)[4:]]


def test_nobody_stores_answers_of_another_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the run names the sum by the hash of its Result; what is downloaded must be that."""
    fetched = lineage.fetch

    def other(*asked: object) -> object:
        download, found = fetched(*asked)  # type: ignore[arg-type]
        return download, type(found)(found.run_id, found.round, found.t3, bytes(32))

    monkeypatch.setattr(lineage, "fetch", other)
    cluster = asking(THREE)
    cluster.start_run(RUN, statistics_bytes())
    cluster.play(lambda: cluster.ended(RUN), 1_000.0)
    assert cluster.memory.runs[RUN][2] == "finished"
    assert all(not member.memory.statistics for member in cluster.members.values())
    assert all(not member.memory.has_end(RUN) for member in cluster.members.values())
