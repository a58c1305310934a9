"""P5: the coordinator's own noise as ciphertexts, committed to in the offer and added like an input.

No plan of this release asks for noise; here a plan does, by a fixed vector, so that the whole path is walked.
"""

from dataclasses import replace

import numpy as np
import pytest
from encrypted_federation import encrypted_federation, encrypted_plan
from federation import RUN, THREE, Tap, expected_sum, manifest_of, run, signed, trail
from fedveil_common import noise
from fedveil_common.ids import COORDINATOR
from fedveil_common.messages import BlobType, Manifest, Noise, Offer, QuorumCall
from fedveil_coordinator import facts
from fedveil_participant import encrypted_checks
from fedveil_simulation.cluster import Cluster
from numpy.typing import NDArray

CAP = 3


class Fixed:
    """A fixed vector: 3, -3, 0, 1, -1, 3 ..."""

    def draw(self, manifest: Manifest) -> NDArray[np.int64]:
        return np.resize(np.array([CAP, -CAP, 0, 1, -1], np.int64), manifest.length)


def noisy(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(noise, "coordinator_cap", lambda plan: CAP)
    cluster = encrypted_federation(threshold=2)
    cluster.coordinator.noise_source = Fixed()
    return cluster


def play(cluster: Cluster) -> str:
    cluster.start_run(RUN, encrypted_plan())
    cluster.play(lambda: cluster.ended(RUN), 2_000.0)
    return cluster.memory.runs[RUN][2]


def test_P5_the_sum_is_that_of_the_inputs_and_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = noisy(monkeypatch)
    assert play(cluster) == "finished", "every participant audited every sum"
    for number in (1, 2):
        opened = cluster.memory.read_sum(RUN, number)
        added = opened - expected_sum(cluster, number)
        np.testing.assert_array_equal(added, np.resize(np.array([CAP, -CAP, 0, 1, -1]), len(opened)))


def test_P5_the_offer_commits_to_it_before_any_input(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = noisy(monkeypatch)
    assert play(cluster) == "finished"
    recorded = [facts.decode(kind, body) for kind, body in cluster.memory.facts(RUN)]
    for fact in recorded:
        if isinstance(fact, facts.Offered):
            (named,) = manifest_of(fact.manifest).encryption
            assert (bool(named.noise), named.noise_cap) == (True, CAP)
            assert len(fact.noise) == 1
    assert {(run_id, org) for run_id, _, org in cluster.memory.kept} >= {(RUN, COORDINATOR)}


def test_P5_it_does_not_count_as_a_survivor(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = noisy(monkeypatch)
    assert play(cluster) == "finished"
    recorded = [facts.decode(kind, body) for kind, body in cluster.memory.facts(RUN)]
    assert {fact.survivors for fact in recorded if isinstance(fact, facts.Proposed)} == {THREE}


def test_P5_a_coordinator_that_restarts_offers_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = noisy(monkeypatch)
    cluster.start_run(RUN, encrypted_plan())
    cluster.play(lambda: any(kind == "InputAccepted" for kind, _ in cluster.memory.facts(RUN)))
    cluster.restart_coordinator()
    cluster.coordinator.noise_source = Fixed()
    cluster.play(lambda: cluster.ended(RUN), 2_000.0)
    assert cluster.memory.runs[RUN][2] == "finished"
    added = cluster.memory.read_sum(RUN, 1) - expected_sum(cluster, 1)
    assert int(np.abs(added).max()) == CAP


def test_P5_noise_that_the_plan_does_not_have_is_refused() -> None:
    """The manifest commits to some; the plan asks for none: nobody adverts."""
    plan = encrypted_plan(wait_s=20)
    cluster = encrypted_federation(threshold=2, plan=plan)

    def bend(packet: object, message: object) -> list[object]:
        if isinstance(message, Offer):
            manifest = manifest_of(message.manifest)
            (named,) = manifest.encryption
            changed = replace(manifest, encryption=(replace(named, noise=bytes(32), noise_cap=1),))
            return [Offer(signed(cluster.charter, COORDINATOR, BlobType.MANIFEST, changed))]
        return [message]

    cluster.route = Tap(bend)  # type: ignore[arg-type]
    assert run(cluster, plan) != "finished"
    for org in THREE:
        assert "advert" not in trail(cluster, org)
        assert ("code", "manifest_differs_from_plan") in [fact for _, said in notes(cluster, org) for fact in said]


def notes(cluster: Cluster, org: object) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    return cluster.members[org].memory.notes  # type: ignore[index]


@pytest.mark.parametrize("what", ["none", "another", "two offers"])
def test_P5_a_holder_decrypts_only_with_the_noise_that_was_committed_to(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Stopped by `encrypted_checks.agreed_noise`: the manifest, and so T0, holds the hash of the one noise."""
    cluster = noisy(monkeypatch)

    def bend(packet: object, message: object) -> list[object]:
        if not isinstance(message, QuorumCall):
            return [message]
        if what == "none":
            return [replace(message, noise=())]
        body = body_of_noise(message)
        changed = replace(body, nonce=bytes(32)) if what == "two offers" else replace(body, bodies_hash=bytes(32))
        return [replace(message, noise=(signed(cluster.charter, COORDINATOR, BlobType.NOISE, changed),))]

    cluster.route = Tap(bend)  # type: ignore[arg-type]
    assert play(cluster) == "model_spent"
    assert not cluster.memory.sums
    for org in THREE[:2]:
        assert "reveal" not in trail(cluster, org)
        assert ("code", "wrong_noise") in [fact for _, said in notes(cluster, org) for fact in said]


def body_of_noise(call: QuorumCall) -> Noise:
    from federation import body_of

    body = body_of(call.noise[0])
    assert isinstance(body, Noise)
    return body


def test_P5_with_the_check_gone_a_holder_multiplies_another_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced: `agreed_noise` believes what it is told; the proof of the noise is what is left then."""
    cluster = noisy(monkeypatch)
    monkeypatch.setattr(encrypted_checks, "agreed_noise", lambda blobs, manifest, roster: None)

    def bend(packet: object, message: object) -> list[object]:
        if isinstance(message, QuorumCall):
            changed = replace(body_of_noise(message), nonce=bytes(32))
            return [replace(message, noise=(signed(cluster.charter, COORDINATOR, BlobType.NOISE, changed),))]
        return [message]

    cluster.route = Tap(bend)  # type: ignore[arg-type]
    play(cluster)
    assert "reveal" in trail(cluster, THREE[0])
