"""How many plans wait for somebody's word, and which of them make room for others."""

from pathlib import Path

import pytest
from fedveil_common.ids import RunId
from fedveil_participant.store import consents

from tests.consent_house import NOISY, OWNER, digest, house


def test_too_many_plans_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consents, "MAX_OFFERS", 2)
    with house(tmp_path) as home:
        assert [home.offer(f"r{number}").code for number in range(3)] == [
            "consent_pending",
            "consent_pending",
            "too_many_pending",
        ]
        assert home.orders.pending(OWNER)["full"] is True
        assert home.offer("r2").said == "consent_pending", "the coordinator does not hear how many wait"
        assert [one.run_id for one in home.store.offers()] == ["r0", "r1"], "what is still offered stays"


def test_what_is_offered_no_more_does_not_keep_out_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consents, "MAX_OFFERS", 2)
    with house(tmp_path) as home:
        home.offer("r0")
        home.offer("r1", NOISY)
        home.orders.deny(OWNER, plan_hash=digest(NOISY))
        assert home.offer("r2").code == "consent_pending", "what was denied waits for nobody"
        assert [one.run_id for one in home.store.offers()] == ["r0", "r2"]
        assert home.offer("r1", NOISY).code == "consent_denied", "the denial stays"
        home.desk.begin_session()
        assert home.offer("r2").code == "consent_pending"
        assert home.offer("r3").code == "consent_pending"
        assert [one.run_id for one in home.store.offers()] == ["r2", "r3"], "r0 was not offered in this session"
        dropped = [dict(row.facts) for row in home.store.trail() if row.kind == "offer_dropped"]
        assert [(one["run"], one["why"]) for one in dropped] == [("r1", "denied"), ("r0", "not offered any more")]


def test_offers_of_ended_runs_do_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consents, "MAX_OFFERS", 2)
    with house(tmp_path) as home:
        for number in range(5):
            assert home.offer(f"r{number}").code == "consent_pending"
            home.store.save_end(RunId(f"r{number}"), b"", "aborted", b"")
        assert [one.run_id for one in home.store.offers()] == ["r2", "r3", "r4"]
