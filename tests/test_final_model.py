"""What a participant makes of the end of a run: a final model whose signature, lineage or digest is another's is stored
by nobody and countersigned by nobody. Freshness has its tests in test_status_lists.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from federation import FIVE, RUN, federation, plan_bytes, run, signed
from fedveil_common import modelfile, wire
from fedveil_common import plan as plans
from fedveil_common.crypto import signing
from fedveil_common.errors import FedveilError
from fedveil_common.ids import COORDINATOR, FederationId, OrgId, RunId
from fedveil_common.messages import BlobType, Manifest, Offer, RunEnded, SignedBlob, SumRef
from fedveil_common.modelfile import ModelManifest
from fedveil_participant import finish
from fedveil_participant.checks import AcceptedPlan
from fedveil_participant.countersigning import countersign
from fedveil_participant.driver import Driver
from fedveil_simulation.cluster import Cluster

ME = FIVE[0]


@dataclass(frozen=True)
class Ended:
    """A run that ended, and the member that is told so again, each time differently."""

    cluster: Cluster
    driver: Driver
    message: RunEnded
    accepted: AcceptedPlan

    @property
    def manifest(self) -> ModelManifest:
        return modelfile.parse_manifest(self.message.model[0].body)

    def signed(self, **changes: object) -> SignedBlob:
        """By the coordinator, over the manifest with these changes."""
        body = replace(self.manifest, **changes).to_bytes()  # type: ignore[arg-type]
        return signing.sign(self.cluster.charter.coordinator_key, COORDINATOR, BlobType.MODEL, body)

    def told(self, message: RunEnded, accepted: AcceptedPlan | None = None) -> finish.Results:
        driver = self.driver
        signed = self.cluster.charter.notice.signed_roster, self.cluster.charter.notice.trust_chain
        return finish.final_model(message, accepted or self.accepted, driver._walker, driver.state, *signed)

    def code(self, message: RunEnded, accepted: AcceptedPlan | None = None) -> str:
        with pytest.raises(FedveilError) as caught:
            self.told(message, accepted)
        return caught.value.code


@pytest.fixture(scope="module")
def ended() -> Ended:
    plan = plan_bytes(rounds=2, standardise="federated")
    cluster = federation(FIVE, plan=plan)
    assert run(cluster, plan) == "finished"
    heard = [wire.parse_coordinator(one.data) for one in cluster.sent if one.outward and one.org_id == ME]
    message = next(one for one in heard if isinstance(one, RunEnded))
    driver = cluster.members[ME].driver
    assert driver is not None
    return Ended(cluster, driver, message, AcceptedPlan(plans.parse_canonical(plan), plans.plan_hash(plan), b"v" * 32))


def test_the_model_that_was_derived_here_is_stored_and_countersigned(ended: Ended) -> None:
    left = ended.told(ended.message)
    file = modelfile.read_model(left.model)
    assert modelfile.check_lineage(file, ended.manifest) == 2, "of three rounds one standardised"
    assert ended.manifest.round == 3
    assert [blob.signer_id for blob in left.countersignature] == [ME]
    first = replace(ended.manifest, round=1)
    none = replace(file, lineage=modelfile.lineage_text(first, 0))
    with pytest.raises(FedveilError, match="lineage_mismatch"):
        modelfile.check_lineage(none, first)


Forge = Callable[[Ended], SignedBlob]
BENT: dict[str, tuple[str, Forge]] = {
    "signature: of nobody": ("bad_signature", lambda one: replace(one.signed(), sig=bytes(64))),
    "signature: of another body": ("bad_signature", lambda one: replace(one.signed(), body=one.signed(round=2).body)),
    "signature: of a member": (
        "bad_signature",
        lambda one: signing.sign(
            one.cluster.charter.member_keys[ME], COORDINATOR, BlobType.MODEL, one.message.model[0].body
        ),
    ),
    "signature: as another message": (
        "wrong_type",
        lambda one: signing.sign(
            one.cluster.charter.coordinator_key, COORDINATOR, BlobType.RESULT, one.message.model[0].body
        ),
    ),
    "signature: in a member's name": (
        "wrong_signer",
        lambda one: signing.sign(
            one.cluster.charter.coordinator_key, OrgId("borealis"), BlobType.MODEL, one.message.model[0].body
        ),
    ),
    "lineage: another run": ("wrong_transcript", lambda one: one.signed(run_id=RunId("run-2"))),
    "lineage: another federation": ("wrong_transcript", lambda one: one.signed(federation_id=FederationId("others"))),
    "lineage: the round before": ("wrong_final_model", lambda one: one.signed(round=2)),
    "lineage: the standardise round": ("wrong_transcript", lambda one: one.signed(round=1)),
    "lineage: a round that never was": ("wrong_transcript", lambda one: one.signed(round=4)),
    "digest: of the parameters": ("model_not_derived", lambda one: one.signed(model_hash=bytes(32))),
    "digest: of the plan": ("model_not_derived", lambda one: one.signed(plan_hash=bytes(32))),
    "digest: of the standardisation": ("model_not_derived", lambda one: one.signed(standardisation_hash=bytes(32))),
    "layout": ("model_not_derived", lambda one: one.signed(layout=one.manifest.layout[::-1])),
}


@pytest.mark.parametrize("what", BENT)
def test_a_final_model_that_is_another_is_stored_by_nobody(what: str, ended: Ended) -> None:
    wanted, forge = BENT[what]
    assert ended.code(replace(ended.message, model=(forge(ended),))) == wanted


def test_who_was_not_invited_to_the_last_round_vouches_for_nothing(ended: Ended) -> None:
    cluster, state = ended.cluster, ended.driver.state
    (last,) = [one for one in manifests(ended) if one.key.round == 3]
    mine = signed(cluster.charter, COORDINATOR, BlobType.MANIFEST, last)
    assert [blob.signer_id for blob in countersign(ended.manifest, mine, state)] == [ME]
    others = signed(cluster.charter, COORDINATOR, BlobType.MANIFEST, replace(last, cohort=FIVE[1:]))
    assert countersign(ended.manifest, others, state) == ()


def manifests(ended: Ended) -> list[Manifest]:
    """Of the rounds that were offered to this member."""
    heard = [wire.parse_coordinator(one.data) for one in ended.cluster.sent if one.outward and one.org_id == ME]
    bodies = [wire.parse_body(BlobType.MANIFEST, one.manifest.body) for one in heard if isinstance(one, Offer)]
    return [one for one in bodies if isinstance(one, Manifest)]


def test_after_a_false_sum_no_model_of_that_run_is_stored(ended: Ended) -> None:
    before = ended.driver.state
    ended.driver.state = replace(before, disputed=frozenset({RUN}))
    try:
        assert ended.code(ended.message) == "sum_disputed"
    finally:
        ended.driver.state = before
    assert ended.told(ended.message).model


def test_an_end_under_another_plan_or_another_standardisation_leaves_no_model(ended: Ended) -> None:
    message, accepted = ended.message, ended.accepted
    assert ended.code(replace(message, plan_hash=bytes(32))) == "wrong_transcript"
    assert ended.code(message, replace(accepted, plan_hash=bytes(32))) == "wrong_transcript"
    (ref,) = message.standardise
    assert ended.code(replace(message, standardise=(replace(ref, result_hash=bytes(32)),)))
    assert ended.code(replace(message, standardise=()))
    assert ended.code(replace(message, standardise=(SumRef(RUN, 2, ref.result_hash),)))
