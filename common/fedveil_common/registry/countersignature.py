"""A participant's signature over a model that it derived itself, and how many of them make a release.

Promise: a quorum of countersignatures is q distinct members of the final round's cohort, each under the key of the
roster version that the model's manifest names, all over one body; q follows from the size of the cohort and a bound of
corrupt members that is not below what plan and roster ask for. So nobody who shrinks the bound gains a release.
Source: docs/registry.md, section 3; sealing.md 7 of the design.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.limits import MAX_MEMBERS
from fedveil_common.masking import quorum
from fedveil_common.messages import BlobType, Manifest, SignedBlob
from fedveil_common.modelfile import ModelManifest
from fedveil_common.pki import documents
from fedveil_common.plan import Plan
from fedveil_common.registry.identity import MEMBERS, ModelRef
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey

WHAT = "countersignature"


@dataclass(frozen=True, slots=True)
class Countersigned:
    """What is countersigned: a model, and who made the sum of its last round. `cohort`: sorted ids; `corrupt`,
    `quorum`: as in that round's manifest. Known to every member.
    """

    federation_id: FederationId
    model: ModelRef
    roster_version: int
    cohort: tuple[OrgId, ...]
    corrupt: int
    quorum: int

    def to_bytes(self) -> bytes:
        """The RFC 8785 JSON body that each member signs."""
        return jcs.dumps(
            {
                "cohort": list(self.cohort),
                "corrupt": self.corrupt,
                "federation_id": self.federation_id,
                "quorum": self.quorum,
                "roster_version": self.roster_version,
                **self.model.to_json(),
            }
        )


def of_round(manifest: ModelManifest, last: Manifest) -> Countersigned:
    """What is countersigned of the model in `manifest`, whose last train round had the manifest `last`.

    PeerError `wrong_transcript` if the two are of different rounds.
    """
    if (last.key.run_id, last.key.round, last.federation_id) != (
        manifest.run_id,
        manifest.round,
        manifest.federation_id,
    ):
        raise PeerError("wrong_transcript", "the model's last round is another one than its manifest names")
    return Countersigned(
        manifest.federation_id,
        ModelRef.of(manifest),
        manifest.roster_version,
        last.cohort,
        last.corrupt,
        last.quorum,
    )


def parse(body: bytes) -> Countersigned:
    """The body of a countersignature. PeerError `bad_document`."""
    names = {"cohort", "corrupt", "federation_id", "quorum", "roster_version"} | MEMBERS
    fields = documents.Fields(documents.canonical(body, WHAT), WHAT, names)
    found = Countersigned(
        FederationId(fields.name("federation_id")),
        ModelRef.from_fields(fields),
        fields.integer("roster_version"),
        documents.names(fields.value("cohort"), WHAT, MAX_MEMBERS),
        fields.integer("corrupt"),
        fields.integer("quorum"),
    )
    documents.must_equal(found.to_bytes(), body, WHAT)
    return found


def sign(body: Countersigned, org_id: OrgId, key: PrivateKey) -> SignedBlob:
    """`body`, signed by a member that derived this model. Deterministic."""
    return signing.sign(key, org_id, BlobType.COUNTERSIGNATURE, body.to_bytes())


def check(blob: SignedBlob, expected: Countersigned, roster: Roster) -> None:
    """Returns if `blob` is a cohort member's signature over exactly `expected`; `roster`: the version it names.

    PeerError `countersigned_by_stranger`, `not_in_roster`, `wrong_countersignature`, `wrong_type`, `bad_signature`.
    """
    if blob.signer_id not in expected.cohort:
        raise PeerError(
            "countersigned_by_stranger",
            f"{blob.signer_id} countersigned a model whose last round was made without it",
            peer=blob.signer_id,
        )
    signing.verify(blob, roster.key_of(blob.signer_id), BlobType.COUNTERSIGNATURE)
    if blob.body != expected.to_bytes():
        raise PeerError(
            "wrong_countersignature",
            f"{blob.signer_id} countersigned something else than this model and its last round",
            peer=blob.signer_id,
        )


def needed(expected: Countersigned, plan: Plan, roster: Roster) -> int:
    """How many must countersign: the quorum of the last round, or that of its cohort for as many corrupt members as the
    roster of the model's manifest makes likely, where this is more (the roster grew, or the bound was stated low).

    PeerError `wrong_roster`, `corrupt_bound_too_small`, `wrong_quorum`, `cohort_too_small`, `cohort_too_large`.
    """
    if (roster.version, roster.federation_id) != (expected.roster_version, expected.federation_id):
        raise PeerError(
            "wrong_roster",
            f"the model was signed under roster {expected.roster_version} of {expected.federation_id}, "
            f"this is {roster.version} of {roster.federation_id}",
        )
    size, q = len(expected.cohort), expected.quorum
    quorum.check_parameters(size, expected.corrupt, q, q, max(q, 3), plan.cohort.max_corrupt)
    bound = quorum.corrupt_bound(plan.cohort.max_corrupt, len(roster.participants))
    return max(q, quorum.quorum(size, bound))


def check_quorum(blobs: Sequence[SignedBlob], expected: Countersigned, plan: Plan, roster: Roster) -> tuple[OrgId, ...]:
    """The members that countersigned, sorted, if they are a quorum. One that does not belong spoils the release.

    PeerError `no_quorum`, `countersigned_twice`, and those of `check` and `needed`.
    """
    least = needed(expected, plan, roster)
    signers = [blob.signer_id for blob in blobs]
    if len(set(signers)) != len(signers):
        raise PeerError("countersigned_twice", "a member stands twice among the countersignatures")
    for blob in blobs:
        check(blob, expected, roster)
    if len(signers) < least:
        raise PeerError(
            "no_quorum",
            f"{len(signers)} members of the last round's cohort countersigned, {least} must",
            not_done="the release was not accepted",
            next_step="export it again from the operator once enough participants have countersigned",
        )
    return tuple(sorted(signers))
