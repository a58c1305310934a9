"""What a model file proves of its release: the statement, and the members that derived the same model.

A released file is the model file with more signatures: the coordinator's over the manifest, its stage statement, then
the countersignatures. Promise: nothing stands among them that does not verify and belong; a file without a statement
is a model of a run, and says nothing of a release. Source: docs/registry.md, section 3.
"""

from dataclasses import dataclass, replace

from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.modelfile import ModelFile, ModelHead, ModelManifest, lineage_text
from fedveil_common.noise import rests_on
from fedveil_common.pki.governance import Trust
from fedveil_common.registry import countersignature, statement
from fedveil_common.registry.identity import model_id
from fedveil_common.registry.statement import OPERATOR_ONLY, QUORUM, ReleaseFacts, Statement
from fedveil_common.roster import Roster


@dataclass(frozen=True, slots=True)
class Release:
    """A release as its file proves it. `countersigned`: the members, sorted; nobody where it rests on the operator."""

    statement: Statement
    facts: ReleaseFacts
    countersigned: tuple[OrgId, ...]
    cohort: tuple[OrgId, ...]
    quorum: int

    @property
    def operator_only(self) -> bool:
        """Whether no member could vouch for the model."""
        return self.facts.rests_on == OPERATOR_ONLY


def released_file(file: ModelFile, said: SignedBlob, countersignatures: tuple[SignedBlob, ...]) -> ModelFile:
    """`file` as it is released: under the statement and the countersignatures, sorted by signer."""
    ordered = sorted(countersignatures, key=lambda blob: blob.signer_id)
    return replace(file, signatures=(file.signatures[0], said, *ordered))


def read_release(file: ModelFile | ModelHead, manifest: ModelManifest, roster: Roster, trust: Trust) -> Release | None:
    """The release that a verified model file proves; None if it claims none. `manifest`, `roster`, `trust`: what its
    first signature was verified to be and under (`roster`: of any version if there is no release).

    PeerError `not_released_here`, those of `statement.verify` and `countersignature.check_quorum`.
    """
    further = file.signatures[1:]
    if not further:
        return None
    first, *blobs = further
    if first.type is not BlobType.STAGE:
        raise _misplaced("a signature stands in it without a statement of its release")
    said = statement.verify(first, trust)
    if not said.releases(model_id(manifest)):
        raise _misplaced("the stage statement in it releases another model")
    if len(said.release) != 1 or said.release[0].plan_hash != manifest.plan_hash:
        raise _misplaced("the stage statement in it says nothing of this plan")
    facts = said.release[0]
    if file.lineage != lineage_text(manifest, facts.steps):
        raise _misplaced(f"the statement releases a model after {facts.steps} steps, and the file says otherwise")
    due = OPERATOR_ONLY if rests_on(file.plan) == "coordinator" else QUORUM
    if facts.rests_on != due:
        raise _misplaced(f"by its plan a release rests on {due}, this one says {facts.rests_on}")
    if due == OPERATOR_ONLY:
        if blobs:
            raise _misplaced("nobody but the coordinator can vouch for this model, and somebody does")
        return Release(said, facts, (), (), 0)
    if not blobs:
        raise PeerError(
            "no_quorum",
            "the model is called released, and no participant countersigned it",
            not_done="the release was not accepted",
            next_step="export it again from the operator",
        )
    expected = countersignature.parse(blobs[0].body)
    if expected.model.model_id != model_id(manifest) or expected.roster_version != manifest.roster_version:
        raise _misplaced("what stands in it was countersigned for another model")
    signers = countersignature.check_quorum(blobs, expected, file.plan, roster)
    return Release(said, facts, signers, expected.cohort, expected.quorum)


def accept_operator_only(release: Release | None, accepted: bool) -> None:
    """Returns unless the release rests on the operator alone and whoever asks did not accept that. PolicyRefusal
    `operator_signed_only`.
    """
    if release is not None and release.operator_only and not accepted:
        raise PolicyRefusal(
            "operator_signed_only",
            "only the operator signed this release: the coordinator added the noise, so no participant could check it",
            not_done="the model was not accepted",
            next_step="--accept-operator-only, if you trust the operator with that",
        )


def _misplaced(why: str) -> PeerError:
    return PeerError(
        "not_released_here",
        f"the signatures of this model file do not fit together: {why}",
        not_done="the model was not accepted",
        next_step="export it again with `fedveil model export`; if it stays so, tell the operator",
    )
