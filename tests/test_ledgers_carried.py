"""What a member that lost its journal had spent: the coordinator's signed record, and the ledger that goes on."""

import io
import json
import sys
from pathlib import Path

import pytest
from federation import FIVE, RUN, die_after, federation, journal, parse, resigned
from fedveil_cli import carrying, main
from fedveil_common import jcs, private_sum, spending_record
from fedveil_common import plan as plans
from fedveil_common.dp import budget
from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.messages import PlanAnswer
from fedveil_common.spending_record import SpendingRecord
from fedveil_coordinator import facts
from fedveil_coordinator.spending_records import recorded_run
from fedveil_participant import membership
from fedveil_participant.store import ParticipantStore, journal_key, make_journal_key, open_store
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.ports import SeededEntropy, SimulatedClock
from private_federation import private_plan, said_of

ORG = FIVE[1]
PLAN = private_plan()
CANONICAL = plans.canonical(PLAN)


def played(plan: bytes = CANONICAL) -> Cluster:
    cluster = federation(plan=plan)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    return cluster


def record_of(cluster: Cluster, org: OrgId = ORG, plan: bytes = CANONICAL) -> SpendingRecord:
    run = recorded_run(RUN, plan, cluster.memory.facts(RUN), org)
    return SpendingRecord(cluster.charter.roster.federation_id, org, 5.0, (run,))


def own_ledger(cluster: Cluster, org: OrgId = ORG) -> budget.Ledger:
    return budget.fold(one.entry for one in journal(cluster, org).kept.ledger)


def test_the_record_is_never_below_what_the_member_itself_wrote_down() -> None:
    cluster = played()
    carried = budget.fold(spending_record.reservations(record_of(cluster), "table"))
    assert carried.spent(RUN).epsilon(1e-5) == own_ledger(cluster).spent(RUN).epsilon(1e-5) > 0
    assert carried.account(RUN).attempts.keys() == own_ledger(cluster).account(RUN).attempts.keys()
    assert spending_record.reservations(record_of(cluster), "another") == ()


def test_an_attempt_that_was_certified_as_aborted_does_not_count_and_any_other_does() -> None:
    """Too few are left for the first attempt: it is aborted. The member that was away all the time was invited to it,
    and nobody but itself knows that it sent nothing.
    """
    cluster = federation(plan=CANONICAL)
    for org in FIVE[3:]:
        die_after(cluster, org, "advert", 1, lambda org=org: cluster.start_member(org))  # type: ignore[misc]
    cluster.start_run(RUN, CANONICAL)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    (aborts,) = [
        [kind for kind, _ in cluster.memory.facts(RUN)].count("AbortCertified"),
    ]
    run = record_of(cluster).runs[0]
    offers = [kind for kind, _ in cluster.memory.facts(RUN)].count("Offered")
    assert len(run.attempts) == offers - aborts
    assert record_of(cluster, OrgId("stranger")).runs[0].attempts == ()
    assert spending_record.reservations(record_of(cluster), "table")


def test_what_an_abort_certificate_takes_off_is_the_offer_before_it_and_nothing_else() -> None:
    """An attempt too many in the record is spent for nothing; one too few makes a ledger too small."""
    cluster = played()
    first = facts.Offered(cluster.published(RUN, 1).manifest)
    others = facts.Offered(resigned(cluster.charter, first.manifest, cohort=tuple(org for org in FIVE if org != ORG)))
    exact = facts.Offered(resigned(cluster.charter, first.manifest, noise="none"))
    aborted = facts.AbortCertified(FIVE[:3])

    def counted(*said: facts.Fact) -> int:
        recorded = [(type(one).__name__, facts.encode(one)) for one in said]
        return len(recorded_run(RUN, CANONICAL, recorded, ORG).attempts)

    assert counted(first) == counted(first, others) == 1
    assert counted(others) == counted(exact) == counted(first, aborted) == 0
    assert counted(first, first, aborted) == counted(first, aborted, first) == 1
    assert counted(first, others, aborted) == counted(first, exact, aborted) == 1, "that attempt was not aborted"


def test_a_record_is_believed_under_the_coordinators_key_for_this_member_alone() -> None:
    cluster = played()
    charter, record = cluster.charter, record_of(cluster)
    data = spending_record.to_file(record, charter.coordinator_key)
    key, federation_id = charter.roster.coordinator_key, charter.roster.federation_id
    assert spending_record.read(data, key, federation_id, ORG) == record
    outer = json.loads(data)
    body = json.loads(outer["record"])
    body["runs"] = []
    lighter = jcs.dumps({"record": jcs.dumps(body).decode(), "sig": outer["sig"]})
    others = spending_record.to_file(record, charter.member_keys[ORG])
    for bad in (lighter, others, data[:-1], b"", b"{}", b'{"record": 1, "sig": "00"}', b"[]"):
        with pytest.raises(PeerError) as caught:
            spending_record.read(bad, key, federation_id, ORG)
        assert caught.value.code == "bad_spending_record"
    for place, org in ((federation_id, FIVE[2]), (FederationId("another-1"), ORG)):
        with pytest.raises(PeerError) as caught:
            spending_record.read(data, key, place, org)
        assert caught.value.code == "bad_spending_record"


@pytest.mark.parametrize(
    "attempts",
    [[[1, 1, "00", "train"]], [["1", 1, "00", "train", 0]], [[1, 1, "zz", "train", 0]], [[1, 1, "00", "x", 0]], 5],
)
def test_a_signed_record_that_says_nonsense_is_refused(attempts: object) -> None:
    from fedveil_common.crypto import signing

    charter = federation(start=False).charter
    run = {"run": "r", "plan": CANONICAL.decode(), "attempts": attempts}
    value = {"federation": charter.roster.federation_id, "org": ORG, "as_of_s": 1.0, "runs": [run]}
    body = jcs.dumps(value)  # type: ignore[arg-type]
    sig = signing.sign_bytes(charter.coordinator_key, "spending-record", body)
    data = jcs.dumps({"record": body.decode(), "sig": sig.hex()})
    with pytest.raises(PeerError) as caught:
        spending_record.read(data, charter.roster.coordinator_key, charter.roster.federation_id, ORG)
    assert caught.value.code == "bad_spending_record"


# --- the store and the commands ---------------------------------------------------------------------------------------


def store_in(folder: Path, *, create: bool = False) -> ParticipantStore:
    if create:
        make_journal_key(folder, None, SeededEntropy(1, "key"))
    entropy = SeededEntropy(2, "store")
    return open_store(folder, journal_key(folder, None), SimulatedClock(), entropy, create=create)


def test_a_rekeyed_home_takes_part_in_no_private_sum_until_its_ledger_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = played()
    store = store_in(tmp_path, create=True)
    store.admit_ledger("table")  # a first membership has lost nothing
    store.mark_rekeyed()
    store.forgive_spent("table", "known not to be summed")
    with pytest.raises(PolicyRefusal) as caught:
        store.admit_ledger("table")
    assert caught.value.code == "ledger_not_carried"
    store.close()
    file = tmp_path / "spent.json"
    file.write_bytes(spending_record.to_file(record_of(cluster), cluster.charter.coordinator_key))

    class Member:
        federation_id, org_id = cluster.charter.roster.federation_id, ORG

        class trust:
            class last:
                coordinator = cluster.charter.roster.coordinator_key

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(membership, "load_membership", lambda home: Member)
    words = ["budget", "carry", "table", "--record", str(file), "--home", str(tmp_path), "--json"]
    assert main.main(words) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (first["attempts"], first["new"]) == (3, 3)
    assert main.main(words) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (again["attempts"], again["new"], again["epsilon"]) == (3, 0, first["epsilon"])
    store = store_in(tmp_path)
    store.admit_ledger("table")
    with pytest.raises(PolicyRefusal):
        store.admit_ledger("another")
    ledger = budget.fold(row.entry for row in store.ledger_rows() if row.dataset == "table")
    assert PLAN.privacy is not None
    assert ledger.spent(RUN).epsilon(1e-5) == private_sum.spent(PLAN, PLAN.privacy, 3)
    store.close()
    file.write_bytes(file.read_bytes().replace(b"sig", b"gis"))
    assert main.main(words) != 0
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "bad_spending_record"


def test_the_operator_writes_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Admin:
        def spending_record(self, org: str) -> bytes:
            return b"{}" + org.encode()

    monkeypatch.setattr(carrying, "connect", lambda home: Admin())
    out = tmp_path / "acme.json"
    assert main.main(["budget", "record", "acme", "--out", str(out), "--home", str(tmp_path)]) == 0
    assert out.read_bytes() == b"{}acme"
    assert "acme may have spent" in capsys.readouterr().out


def test_a_private_plan_asks_for_the_ledger_and_an_exact_one_for_the_version() -> None:
    cluster = federation(plan=CANONICAL)
    memory = journal(cluster, ORG)

    def lost(dataset: str) -> None:
        raise PolicyRefusal("ledger_not_carried", "lost")

    memory.admit_ledger = lost  # type: ignore[method-assign]
    memory.admit_version = lost  # type: ignore[method-assign, assignment]
    cluster.start_run(RUN, CANONICAL)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    said = [parse(packet) for packet in cluster.sent if packet.org_id == ORG and not packet.outward]
    assert [one.code for one in said if isinstance(one, PlanAnswer)] == ["ledger_not_carried"]
    assert ORG not in said_of(cluster, 1)[0].cohort
