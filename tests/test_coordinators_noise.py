"""Noise of the coordinator under masked (A5): it alone sees the exact sum; nobody can rebuild it, nobody checks it."""

from dataclasses import replace

import numpy as np
import pytest
from federation import FIVE, RUN, expected_sum, federation, journal, parse, resigned
from fedveil_cli.run_commands import privacy_text
from fedveil_common import noise, private_sum, published, transcript
from fedveil_common import plan as plans
from fedveil_common.dp import gaussian
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import RunId
from fedveil_common.messages import BlobType, Header, Manifest, Purpose, Result, Reveal
from fedveil_coordinator.events import SumReady
from fedveil_coordinator.reporting import privacy_report
from fedveil_participant import lineage as lineages
from fedveil_participant.checking import SumDownload
from fedveil_participant.stages import Inputting
from fedveil_simulation.cluster import Cluster
from private_federation import private_plan

PLAN = private_plan(by="coordinator", rounds=2, model="{kind: mlp, hidden: [64]}")
LENGTH = 449


def played(cluster: Cluster, plan: plans.Plan = PLAN) -> str:
    cluster.start_run(RUN, plans.canonical(plan))
    cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", 400_000.0)
    return cluster.memory.runs[RUN][2]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    made = federation(plan=plans.canonical(PLAN))
    assert played(made) == "finished"
    return made


def test_what_opens_is_the_exact_sum_with_the_plans_noise(cluster: Cluster) -> None:
    assert PLAN.privacy is not None
    variance = private_sum.grid(PLAN, PLAN.privacy).variance
    added = [cluster.memory.read_sum(RUN, number) - expected_sum(cluster, number) for number in (1, 2)]
    whole = np.concatenate(added).astype(np.float64)
    assert abs(float((whole**2).mean()) / variance - 1) < 0.25, "898 squares: one standard deviation is 0.047"
    assert not np.array_equal(*added), "drawn anew for every sum"
    assert np.abs(whole).max() <= noise.coordinator_cap(PLAN) == gaussian.table(variance).bound
    for number in (1, 2):
        manifest, result = said_of_sum(cluster, number)
        assert manifest.noise == "coordinator"
        assert (result.tag_sum, result.removal, result.noise_left) == (b"", (), variance)


def said_of_sum(cluster: Cluster, number: int) -> tuple[Manifest, Result]:
    offered, signed = cluster.coordinator.sums.source(RUN, number)
    manifest = published.body_of(offered, BlobType.MANIFEST, Manifest)
    return manifest, published.body_of(signed, BlobType.RESULT, Result)


def test_the_participants_add_none_and_derive_the_model(cluster: Cluster) -> None:
    for org in FIVE:
        memory = journal(cluster, org)
        for vector in memory.encoded.values():
            assert np.abs(vector).max() <= PLAN.protection.max_value
        (end,) = memory.ends.values()
        assert end[1] == "finished"
        assert end[2], "the model that follows from the noisy sums is stored"


def test_no_participant_can_rebuild_the_exact_sum(cluster: Cluster) -> None:
    """Nothing that proves a sum is served; nothing that went out holds a seed, a share of one, or a tag; the inputs are
    no longer there either.
    """
    for number in (1, 2):
        with pytest.raises(ConfigError) as caught:
            cluster.published(RUN, number)
        assert caught.value.code == "round_not_published"
        with pytest.raises(ConfigError) as caught:
            list(cluster.archive.leaves(RUN, number, [0]))
        assert caught.value.code == "round_not_published"
    assert not cluster.memory.inputs, "no protected input is kept"
    secret = {one for packet in cluster.sent if not packet.outward for one in reveals_of(parse(packet))}
    assert len(secret) > 2 * 5 * 4
    told = b"".join(packet.data for packet in cluster.sent if packet.outward)
    assert not any(one in told for one in secret)
    for org in FIVE:
        for _, stage in journal(cluster, org).stages:
            assert not getattr(stage, "tag_key", ()), "no checksum key is made"
    exact = [expected_sum(cluster, number).astype("<i8").tobytes() for number in (1, 2)]
    assert all(cluster.memory.read_sum(RUN, n).astype("<i8").tobytes() != exact[n - 1] for n in (1, 2))


def reveals_of(message: object) -> list[bytes]:
    blob = getattr(message, "reveal", None)
    if blob is None:
        return []
    body = published.body_of(blob, BlobType.REVEAL, Reveal)
    return [body.self_seed, *(share for _, share in (*body.self_shares, *body.key_shares))]


def test_headers_carry_no_tag(cluster: Cluster) -> None:
    bodies = [
        published.body_of(stage.header, BlobType.HEADER, Header)
        for org in FIVE
        for kind, stage in journal(cluster, org).stages
        if kind == "input" and isinstance(stage, Inputting)
    ]
    assert len(bodies) == 10
    assert not any(body.tag_ok for body in bodies)


def test_it_is_said_that_all_rests_on_the_coordinator(cluster: Cluster) -> None:
    report = privacy_report(cluster.coordinator.state_of(RUN))
    assert isinstance(report, dict)
    assert report["rests_on"] == "coordinator"
    assert "integrity and privacy rest on the coordinator" in privacy_text(report)
    assert noise.rests_on(private_plan()) == "members"


def test_the_bound_of_a_sum_has_room_for_the_coordinators_noise_and_no_more(cluster: Cluster) -> None:
    basis = lineages.Basis(cluster.charter.roster, frozenset())
    downloaded, _ = lineages.fetch(cluster.download, RUN, 1, lineages.Expected.of(PLAN, Purpose.TRAIN, 0), basis)
    inputs = 5 * PLAN.protection.max_value
    assert downloaded.bound == inputs + noise.coordinator_cap(PLAN) > inputs


def test_a_sum_that_says_so_under_another_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that claims its own noise where the plan has the members' would escape every check: a late member
    is shown such a round. Stopped by `lineage.fetch`.
    """
    plan = private_plan(rounds=1)
    shown = federation(plan=plans.canonical(plan))
    assert played(shown, plan) == "finished"
    real = shown.download

    def lying(run_id: RunId, number: int) -> SumDownload:
        honest = real(run_id, number)
        return replace(honest, manifest=resigned(shown.charter, honest.manifest, noise="coordinator"))

    basis = lineages.Basis(shown.charter.roster, frozenset())
    lineages.fetch(real, RUN, 1, lineages.Expected.of(plan, Purpose.TRAIN, 0), basis)
    with pytest.raises(PeerError) as caught:
        lineages.fetch(lying, RUN, 1, lineages.Expected.of(plan, Purpose.TRAIN, 0), basis)
    assert caught.value.code == "wrong_sum"
    monkeypatch.setattr(lineages.private_sum, "noise_of", lambda plan: "coordinator")
    monkeypatch.setattr(lineages.member_noise, "check_settling", lambda *arguments: None)
    downloaded, _ = lineages.fetch(lying, RUN, 1, lineages.Expected.of(plan, Purpose.TRAIN, 0), basis)
    assert downloaded.unproved, "without the check nothing of it would be looked at"


def test_a_coordinator_that_dies_while_opening_publishes_one_noise_only() -> None:
    """Killed after the sum was written and before its result was signed: what was never signed was never released, and
    what is served afterwards is under the one result that there is.
    """
    cluster = federation(plan=plans.canonical(PLAN))
    sums: list[bytes] = []
    driver = cluster.coordinator
    real = driver.post

    def post(event: object) -> None:
        if isinstance(event, SumReady) and not sums:
            sums.append(cluster.memory.read_sum(RUN, 1).tobytes())
            cluster.restart_coordinator()
            return
        real(event)  # type: ignore[arg-type]

    driver.post = post  # type: ignore[method-assign]
    assert played(cluster) == "finished"
    assert len(sums) == 1
    assert cluster.memory.read_sum(RUN, 1).tobytes() != sums[0]
    _, result = said_of_sum(cluster, 1)
    seen = {
        one.result
        for member in cluster.members.values()
        if member.driver is not None
        for one in member.driver.state.opened
        if one.round == 1 and one.result
    }
    assert len(seen) == 1
    packed = cluster.memory.open_sum(RUN, 1).packed(0)
    assert transcript.leaf_root([transcript.sum_leaf(result.t3, 0, packed)]) == result.leaf_root
