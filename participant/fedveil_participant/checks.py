"""Every refusal of a participant, one function a rule: FLSA/1 section 2.6, the checks before each send.

Each function returns what it established or raises a typed error; the round machine calls them through this module, so
the list of what a participant insists on can be read here from top to bottom. A failed check sends nothing, moves no
state and reveals nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedveil_common import layout, noise_links, private_sum, strategies, transcript, wire
from fedveil_common import noise as noises
from fedveil_common.crypto import agreement, signing
from fedveil_common.crypto.labels import h, u32
from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import COORDINATOR, OrgId, RunId
from fedveil_common.masking import checksum, quorum, ring, shares
from fedveil_common.messages import (
    AbortCertificate,
    AbortRequest,
    AbortVote,
    Advert,
    BlobType,
    Certificate,
    Header,
    Manifest,
    Purpose,
    Result,
    ShareAck,
    ShareMsg,
    ShareOpening,
    SignedBlob,
    Vote,
)
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.plan import Plan
from fedveil_common.provenance import Lineage
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey

from fedveil_participant.data import difference
from fedveil_participant.events import SpentKey
from fedveil_participant.stages import Frame, Held, PeerKeys

MIN_CHANGED_ROWS = 10
"""Fewer rows than this are looked upon as one person, or a few, when two exact sums are subtracted."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What this organisation insists on, whatever the plan says. The floors are the protocol's own; what follows
    `corrupt` is its policy's: the fewest members of a cohort and of a sum, how many `known` organisations besides it
    must be in each, and the most bytes of a masked input (0: no limit).

    `min_changed_rows`: without differential privacy, what was asked of one version of the data is asked of another only
    if at least so many rows were added or removed; 1 .. `difference.MOST_ROWS`.
    """

    min_honest: int = 2
    min_survivors: int = 3
    corrupt: int = 1
    min_changed_rows: int = MIN_CHANGED_ROWS
    smallest_cohort: int = 0
    smallest_sum: int = 0
    known: frozenset[OrgId] = frozenset()
    known_in_cohort: int = 0
    known_in_sum: int = 0
    input_bytes: int = 0


@dataclass(frozen=True, slots=True)
class AcceptedPlan:
    """A plan this organisation agreed to by its hash, and the version of the data it would run on. `keys`: the key that
    is pinned for it, one under protection paillier.
    """

    plan: Plan
    plan_hash: bytes
    version: bytes
    keys: tuple[KeyUse, ...] = ()


# --- the offer (M0) ---------------------------------------------------------------------------------------------------


def coordinator_signature(blob: SignedBlob, roster: Roster, expected: BlobType) -> None:
    """The blob is the coordinator's, under the key the roster gives it."""
    if blob.signer_id != COORDINATOR:
        raise PeerError("wrong_signer", f"{expected} signed by {blob.signer_id}", peer=blob.signer_id)
    signing.verify(blob, roster.coordinator_key, expected)


def member_signature(blob: SignedBlob, roster: Roster, members: Iterable[OrgId], expected: BlobType) -> None:
    """The blob is by one of `members`, under the key the roster gives that member."""
    if blob.signer_id not in members:
        raise PeerError(
            "not_a_member", f"{expected} signed by {blob.signer_id}, who is not in this set", peer=blob.signer_id
        )
    signing.verify(blob, roster.key_of(blob.signer_id), expected)


def manifest_is_newer(manifest: Manifest, high_water: Mapping[RunId, tuple[int, int]]) -> None:
    """(round, attempt) lies above everything this participant ever took part in for that run."""
    seen = high_water.get(manifest.key.run_id, (0, 0))
    if (manifest.key.round, manifest.key.attempt) <= seen:
        raise PeerError(
            "replayed_manifest", f"round {manifest.key.round} attempt {manifest.key.attempt} is not after {seen}"
        )


def manifest_roster(manifest: Manifest, roster: Roster, me: OrgId) -> None:
    """The manifest binds the pinned roster; I and every cohort member stand in it."""
    if manifest.federation_id != roster.federation_id:
        raise PeerError("wrong_federation", "the manifest is of another federation")
    if (manifest.roster_version, manifest.roster_hash) != (roster.version, roster.hash):
        raise PeerError(
            "wrong_roster", f"the manifest binds roster version {manifest.roster_version}, mine is {roster.version}"
        )
    strangers = set(manifest.cohort) - set(roster.participants)
    if strangers:
        raise PeerError("not_in_roster", f"cohort members not in the roster: {', '.join(sorted(strangers))}")
    if me not in manifest.cohort:
        raise PeerError("not_in_cohort", "the manifest's cohort does not contain me")


def manifest_quorum(manifest: Manifest, roster: Roster, limits: Limits, stated_corrupt: int) -> None:
    """Cohort size, c, q, t and min_survivors obey the formulas and are not below what I insist on (A1)."""
    local = quorum.corrupt_bound(max(limits.corrupt, stated_corrupt), len(roster.participants))
    quorum.check_parameters(
        len(manifest.cohort),
        manifest.corrupt,
        manifest.quorum,
        manifest.threshold,
        manifest.min_survivors,
        local,
        limits.min_honest,
    )
    if manifest.min_survivors < limits.min_survivors:
        raise PolicyRefusal(
            "cohort_too_small",
            f"{manifest.min_survivors} survivors would do, this organisation asks for {limits.min_survivors}",
        )


def manifest_corrupt(manifest: Manifest, roster: Roster, stated_corrupt: int) -> None:
    """C is exactly what plan and roster give: a larger one would let more of a dealer's shares be opened in public."""
    due = quorum.corrupt_bound(stated_corrupt, len(roster.participants))
    if manifest.corrupt != due:
        raise PeerError("wrong_corrupt_bound", f"plan and roster give c = {due}, the manifest says {manifest.corrupt}")


def manifest_no_wrap(manifest: Manifest) -> None:
    """The sum of the largest inputs cannot wrap around the ring (2.5.5)."""
    quorum.check_no_wrap(len(manifest.cohort), manifest.value_bits, manifest.ring_bits)


def manifest_cohort_size(manifest: Manifest, plan: Plan) -> None:
    """The cohort is at least as large as the plan that was agreed to says."""
    if len(manifest.cohort) < plan.cohort.min_participants:
        raise PeerError(
            "cohort_too_small", f"{len(manifest.cohort)} invited, the plan asks for {plan.cohort.min_participants}"
        )


def manifest_follows_plan(manifest: Manifest, accepted: AcceptedPlan) -> None:
    """Everything that the plan determines stands in the manifest as the plan has it; nothing else is possible."""
    plan = accepted.plan
    if (manifest.purpose is Purpose.STATISTICS) != (plan.statistics is not None):
        raise PeerError("manifest_differs_from_plan", f"a sum of purpose {manifest.purpose} in a {plan.kind} plan")
    noise = noises.coordinator_cap(plan)
    bits = private_sum.value_bits(plan, len(manifest.cohort), manifest.quorum, manifest.corrupt)
    expected: dict[str, object] = {
        "plan_hash": accepted.plan_hash,
        "protection": plan.protection.kind,
        "graph": "none" if accepted.keys else "complete",
        "ring_bits": ring.smallest(len(manifest.cohort), bits, noise),
        "value_bits": bits,
        "update_norm": plan.protection.update_norm,
        "leaf_coordinates": transcript.LEAF_COORDINATES,
        "prg": "none" if accepted.keys else "AES256CTR",
        "noise": private_sum.noise_of(plan),
        "dataset": plan.data.dataset,
        "progress_s": plan.cohort.progress_s,
        "hard_limit_s": plan.cohort.hard_limit_s,
    }
    for name, value in expected.items():
        if getattr(manifest, name) != value:
            raise PeerError(
                "manifest_differs_from_plan", f"{name} is {getattr(manifest, name)!r}, the plan says {value!r}"
            )
    wanted = layout.layout_for(plan, manifest.purpose, manifest.step)
    if manifest.length != wanted.length or manifest.layout_hash != wanted.hash:
        raise PeerError("manifest_differs_from_plan", "the layout of the vector is not the one of the plan")
    manifest_place_in_plan(manifest, plan)


def manifest_place_in_plan(manifest: Manifest, plan: Plan) -> None:
    """Purpose, step, references and round fit together: what is summed is the next thing the plan sums, in the one
    round that it has for it.
    """
    steps, standardise = plan.training.rounds, layout.needs_standardise(plan)
    fits = {
        Purpose.STANDARDISE: standardise
        and not plan.continues
        and manifest.step == 0
        and not manifest.standardise
        and not manifest.previous,
        Purpose.TRAIN: plan.statistics is None and 0 <= manifest.step < steps,
        Purpose.EVALUATE: manifest.step == steps and bool(plan.evaluation.metrics),
        Purpose.STATISTICS: plan.statistics is not None
        and manifest.step == 0
        and not manifest.standardise
        and not manifest.previous,
    }[manifest.purpose]
    if not layout.is_query(manifest.purpose):
        fits = fits and bool(manifest.standardise) == standardise and bool(manifest.previous) == (manifest.step > 0)
    own = bool(manifest.standardise) and manifest.standardise[0].run_id == manifest.key.run_id
    if own:  # a continued run answers the query, so this one has no round for it
        fits = fits and manifest.standardise[0].round == 1 and not plan.continues
    fits = fits and manifest.key.round == manifest.step + (2 if own else 1)
    if layout.is_query(manifest.purpose):
        fits = fits and manifest.query_digest == layout.query_digest(plan) and not manifest.model_hash
    else:
        fits = fits and bool(manifest.query_digest) == strategies.has_state(plan) and bool(manifest.model_hash)
    if not fits:
        raise PeerError(
            "manifest_differs_from_plan", f"a {manifest.purpose} sum at step {manifest.step} is not the plan's next"
        )


def not_disputed(run_id: RunId, disputed: Iterable[RunId]) -> None:
    """No sum of this run was found to be false."""
    if run_id in disputed:
        raise PeerError(
            "sum_disputed",
            f"an earlier sum of run {run_id} was not that of its inputs",
            not_done="nothing was trained, no key was made",
            next_step="keep the participant's folder and call the other organisations; fedveil verify shows the round",
        )


def spent_key(manifest: Manifest, accepted: AcceptedPlan) -> SpentKey:
    """Under which key this opening is spent (A2)."""
    return SpentKey(
        manifest.dataset,
        _spent_version(manifest, accepted),
        manifest.purpose,
        manifest.model_hash or manifest.query_digest,
    )


def update_key(manifest: Manifest, accepted: AcceptedPlan) -> SpentKey:
    """The plan's step that asks: it is answered once for a data version, whatever model it is asked about."""
    step = h("step", accepted.plan_hash, manifest.purpose.value.encode(), u32(manifest.step))
    return SpentKey(manifest.dataset, _spent_version(manifest, accepted), manifest.purpose, step)


def _spent_version(manifest: Manifest, accepted: AcceptedPlan) -> bytes:
    """The data version; with differential privacy the run, since no refusal may depend on records (D6): there the
    ledger counts what was asked before.
    """
    if accepted.plan.privacy is None:
        return accepted.version
    return h("private-run", manifest.dataset.encode(), manifest.key.run_id.encode())


def not_spent(
    keys: Iterable[SpentKey],
    spent: Iterable[SpentKey],
    sketches: Mapping[bytes, bytes] | None = None,
    min_changed_rows: int = MIN_CHANGED_ROWS,
) -> None:
    """This data version was not yet opened under any of these: a second sum would expose differences. Nor was one that
    differs in fewer than `min_changed_rows` rows: the difference would be about these few. `sketches`: by version; one
    that has none is compared by its label.
    """
    known = sketches or {}
    asked = {(key.version, key.purpose, key.subject) for key in keys}  # whatever name the table was registered under
    subjects = {(purpose, subject): version for version, purpose, subject in asked}
    for one in spent:
        version = subjects.get((one.purpose, one.subject))
        if version is None:
            continue
        if one.version == version:
            raise _model_spent("this data set version was already summed for this model, this question or this step")
        if version in known and one.version in known:
            changed = difference.changed_rows(known[version], known[one.version])
            if changed < min_changed_rows:
                raise _model_spent(
                    f"a version of this data set that differs in {changed} rows was already summed for this model, "
                    f"this question or this step, and at least {min_changed_rows} must differ"
                )


def _model_spent(what: str) -> PolicyRefusal:
    return PolicyRefusal(
        "model_spent",
        what,
        not_done="no key, share or input was made",
        next_step="take another training.seed, or new data; an answer stands in the run that asked for it",
    )


def abort_certificates_complete(manifest: Manifest) -> None:
    """A9: the manifest carries one abort certificate for each earlier attempt of its round."""
    names = {certificate.t0 for certificate in manifest.abort_certificates}
    if len(manifest.abort_certificates) != manifest.key.attempt - 1 or len(names) != len(manifest.abort_certificates):
        raise PeerError(
            "abort_certificate_missing", f"attempt {manifest.key.attempt} carries {len(names)} abort certificates"
        )


def abort_certificate(certificate: AbortCertificate, frame: Frame, roster: Roster) -> None:
    """A8: at least N+c-q+1 abort votes over my T0 by distinct members of its cohort."""
    manifest = frame.manifest
    if certificate.t0 != frame.t0:
        raise PeerError("wrong_transcript", "the abort certificate is over another attempt")
    signers = [vote.signer_id for vote in certificate.votes]
    if len(set(signers)) != len(signers):
        raise PeerError("duplicate_signer", "a signer appears twice in the abort certificate")
    for vote in certificate.votes:
        member_signature(vote, roster, manifest.cohort, BlobType.ABORT)
        body = wire.parse_body(BlobType.ABORT, vote.body)
        if body != AbortVote(frame.t0, manifest.key.attempt):
            raise PeerError("wrong_transcript", "an abort vote is over another attempt", peer=vote.signer_id)
    needed = quorum.abort_threshold(len(manifest.cohort), manifest.corrupt)
    if len(signers) < needed:
        raise PeerError("abort_certificate_too_small", f"{len(signers)} abort votes, {needed} are needed")


def abort_request(blob: SignedBlob, frame: Frame, roster: Roster) -> AbortRequest:
    """The coordinator's signed wish to end exactly my attempt."""
    coordinator_signature(blob, roster, BlobType.ABORT_REQUEST)
    body = wire.parse_body(BlobType.ABORT_REQUEST, blob.body)
    assert isinstance(body, AbortRequest)
    if (body.t0, body.attempt) != (frame.t0, frame.key.attempt):
        raise PeerError("wrong_transcript", "the abort request is for another attempt")
    return body


def derived_model(manifest: Manifest, model_hash: bytes) -> None:
    """The model I re-derived from my own previous model and the sums is the one the manifest is about."""
    if manifest.model_hash and manifest.model_hash != model_hash:
        raise PeerError(
            "model_not_derived",
            "the manifest's model is not what the plan's strategy makes of the opened sums",
            not_done="nothing was trained, no key was made",
        )


def derived_state(manifest: Manifest, state_hash: bytes) -> None:
    """The strategy's moments that I re-derived are those that the manifest binds beside the model.

    The model's hash does not bind them: different sums can lead to one model and other moments. Bound in T0, they are
    the same for the whole cohort, and one who missed rounds finds here whether it walked the sums that the others saw.
    """
    if manifest.model_hash and manifest.query_digest != state_hash:
        raise PeerError(
            "state_not_derived",
            "the moments of the plan's strategy are not what the opened sums lead to",
            not_done="nothing was trained, no key was made",
            next_step="keep the participant's folder and call the operator",
        )


def not_stopped(lineage: Lineage) -> None:
    """The plan's stopping rule did not end the run before: the losses in the sums that I walked say so."""
    if lineage.verdict.stopped:
        raise PeerError(
            "run_has_stopped",
            f"by the plan's stopping rule the run ended after {lineage.step} steps",
            not_done="nothing was trained, no key was made, no model was stored",
        )


def final_private_step(plan: Plan, step: int) -> None:
    """A run that a privacy budget ended made no more steps than the plan's max_epsilon allows. Fewer are possible: the
    budgets of organisations may end it before.
    """
    due = private_sum.steps_allowed(plan, plan.privacy) if plan.privacy is not None else 0
    if step > due:
        raise PeerError(
            "wrong_final_model",
            f"the signed model is that of step {step}, the plan's privacy budget allows {due} steps",
            not_done="the model was not stored",
            next_step="keep the participant's folder and call the operator",
        )


def final_step(walked: Lineage, step: int) -> None:
    """A finished run ends with the model that the plan names: the best one where its stopping rule ended the run, else
    the last. `walked`: the walk to the end of the run.
    """
    verdict = walked.verdict
    due = verdict.best if verdict.stopped else walked.plan.training.rounds
    if step != due:
        raise PeerError(
            "wrong_final_model",
            f"the signed model is that of step {step}, by the plan the final one is that of step {due}",
            not_done="the model was not stored",
            next_step="keep the participant's folder and call the operator",
        )


# --- key set (M2) -----------------------------------------------------------------------------------------------------


def advert_signature(blob: SignedBlob, roster: Roster, manifest: Manifest) -> None:
    """An advert is signed by a cohort member under its roster key."""
    member_signature(blob, roster, manifest.cohort, BlobType.ADVERT)


def advert_of(blob: SignedBlob, frame: Frame) -> Advert:
    """The advert's body, if it is about my attempt and says the same name as its signer."""
    body = wire.parse_body(BlobType.ADVERT, blob.body)
    assert isinstance(body, Advert)
    if body.t0 != frame.t0:
        raise PeerError("wrong_transcript", "an advert is for another attempt", peer=blob.signer_id)
    if body.org_id != blob.signer_id:
        raise PeerError(
            "wrong_signer", f"an advert of {body.org_id} is signed by {blob.signer_id}", peer=blob.signer_id
        )
    return body


def own_advert(adverts: Mapping[OrgId, SignedBlob], mine: SignedBlob) -> None:
    """My own advert stands in the key set byte for byte."""
    if adverts.get(mine.signer_id) != mine:
        raise PeerError("own_advert_altered", "my advert is missing from the key set or was altered")


def fresh_keys(adverts: Iterable[Advert]) -> None:
    """All mask and channel keys are pairwise distinct, canonical and not of low order."""
    seen: set[bytes] = set()
    for advert in adverts:
        for key in (advert.mask_key, advert.channel_key):
            agreement.check_public_key(key)
            if key in seen:
                raise PeerError("key_reused", "one public key appears twice in the key set", peer=advert.org_id)
            seen.add(key)


def enough(count: int, manifest: Manifest, what: str) -> None:
    """At least q members in a set."""
    if count < manifest.quorum:
        raise PeerError("below_quorum", f"{what}: {count} members, the quorum is {manifest.quorum}")


# --- shares (M4) ------------------------------------------------------------------------------------------------------


def received_share(
    blob: SignedBlob, t1: bytes, t0: bytes, me: OrgId, x: int, channel_key: PrivateKey, dealer: PeerKeys, roster: Roster
) -> Held:
    """The shares in one ShareMsg, if everything about it is right; PeerError otherwise, never another exception."""
    if blob.signer_id != dealer.org_id:
        raise PeerError("wrong_signer", "a share was signed by another", peer=blob.signer_id)
    signing.verify(blob, roster.key_of(dealer.org_id), BlobType.SHARE)
    body = wire.parse_body(BlobType.SHARE, blob.body)
    assert isinstance(body, ShareMsg)
    if (body.t1, body.dealer, body.recipient) != (t1, dealer.org_id, me):
        raise PeerError("wrong_transcript", "a share is of another attempt, dealer or recipient", peer=dealer.org_id)
    opened = shares.open_share(body, x, channel_key, dealer.channel_key, dealer.kappa_commit, t0)
    return Held(dealer.org_id, opened.key_share, opened.self_share, (opened.kappa,))


def complaint(blob: SignedBlob, t1: bytes, me: OrgId, members: Sequence[OrgId], roster: Roster) -> OrgId:
    """Who complains about me, if the signed ack really does, under my T1."""
    member_signature(blob, roster, members, BlobType.SHARE_ACK)
    body = wire.parse_body(BlobType.SHARE_ACK, blob.body)
    assert isinstance(body, ShareAck)
    if body.t1 != t1 or body.org_id != blob.signer_id or me not in body.bad_dealers:
        raise PeerError(
            "wrong_transcript", "an ack names another attempt, or does not complain about me", peer=blob.signer_id
        )
    return blob.signer_id


def openings_bounded(complainers: Iterable[OrgId], manifest: Manifest) -> None:
    """A11: few enough of my shares are opened in public that c corrupt members lack one for either secret."""
    count, bound = len(set(complainers)), quorum.opening_bound(len(manifest.cohort), manifest.corrupt)
    if count > bound:
        raise PeerError("too_many_complaints", f"{count} complaints would open more than {bound} shares")


def opening_answers(blob: SignedBlob, delivered: SignedBlob, t1: bytes, me: OrgId, roster: Roster) -> Held:
    """The shares a dealer opened for me in public, if they match the commitments in what it first sent me."""
    signing.verify(blob, roster.key_of(delivered.signer_id), BlobType.SHARE_OPENING)
    body = wire.parse_body(BlobType.SHARE_OPENING, blob.body)
    message = wire.parse_body(BlobType.SHARE, delivered.body)
    assert isinstance(body, ShareOpening)
    assert isinstance(message, ShareMsg)
    if (blob.signer_id, body.t1, body.dealer, body.recipient) != (delivered.signer_id, t1, delivered.signer_id, me):
        raise PeerError(
            "wrong_transcript", "an opening is of another attempt, dealer or recipient", peer=blob.signer_id
        )
    key_share, self_share = shares.check_opening(body, message)
    return Held(body.dealer, key_share, self_share)


def dealers(
    named: Sequence[OrgId], members: Iterable[OrgId], held: Iterable[OrgId], me: OrgId, manifest: Manifest
) -> None:
    """U2: at least q, within U1, with me in it, and I hold usable shares of every other dealer."""
    enough(len(named), manifest, "dealers")
    if not set(named) <= set(members) or me not in named:
        raise PeerError("wrong_dealers", "the dealer set is not within the key set, or leaves me out")
    lacking = set(named) - set(held) - {me}
    if lacking:
        raise PeerError("share_missing", f"no usable share of {', '.join(sorted(lacking))}")


# --- proposal, certificate, result (M6, M8, M10) ------------------------------------------------------------------


def header_of(blob: SignedBlob, t2: bytes, members: Sequence[OrgId], manifest: Manifest, roster: Roster) -> Header:
    """A survivor's header: signed by it, under my T2, of exactly the agreed shape."""
    member_signature(blob, roster, members, BlobType.HEADER)
    body = wire.parse_body(BlobType.HEADER, blob.body)
    assert isinstance(body, Header)
    if body.t2 != t2 or body.org_id != blob.signer_id:
        raise PeerError("wrong_transcript", "a header is of another attempt or of another member", peer=blob.signer_id)
    leaves = -(-manifest.length // manifest.leaf_coordinates)
    if (body.length, body.ring_bits, body.leaf_count) != (manifest.length, manifest.ring_bits, leaves):
        raise PeerError("wrong_shape", "a header announces another vector than the manifest", peer=blob.signer_id)
    if not noise_links.check_chain_end(manifest, len(members), body.noise_chain):
        raise PeerError("wrong_shape", "a header's noise chain is not what the manifest asks for", peer=blob.signer_id)
    try:
        checksum.from_bytes(body.masked_tag)
    except PeerError as error:
        raise PeerError(error.code, error.what, peer=blob.signer_id) from None
    return body


def enough_survivors(count: int, manifest: Manifest, limits: Limits) -> None:
    """|U3| >= max(q, min_survivors), mine included."""
    needed = max(manifest.quorum, manifest.min_survivors, limits.min_survivors)
    if count < needed:
        raise PeerError("too_few_survivors", f"{count} inputs, {needed} are needed", not_done="no vote was cast")


def own_header(headers: Mapping[OrgId, SignedBlob], me: OrgId, mine: SignedBlob | None) -> None:
    """If I am counted as a survivor, my header stands there byte for byte."""
    if me in headers and headers[me] != mine:
        raise PeerError("own_header_altered", "my header was altered, or I never sent one", not_done="no vote was cast")


def vote_certificate(
    certificate: Certificate, t3: bytes, members: Sequence[OrgId], manifest: Manifest, roster: Roster
) -> None:
    """M8: at least q votes over exactly the T3 I voted for, by distinct members of U2."""
    if certificate.t3 != t3:
        raise PeerError(
            "wrong_transcript", "the certificate is over another set of inputs", not_done="nothing was revealed"
        )
    signers = [vote.signer_id for vote in certificate.votes]
    if len(set(signers)) != len(signers):
        raise PeerError(
            "duplicate_signer", "a signer appears twice in the certificate", not_done="nothing was revealed"
        )
    for vote in certificate.votes:
        member_signature(vote, roster, members, BlobType.VOTE)
        if wire.parse_body(BlobType.VOTE, vote.body) != Vote(t3):
            raise PeerError("wrong_transcript", "a vote is over another set of inputs", peer=vote.signer_id)
    if len(signers) < manifest.quorum:
        raise PeerError(
            "certificate_too_small",
            f"{len(signers)} votes, the quorum is {manifest.quorum}",
            not_done="nothing was revealed",
        )


def result_of(blob: SignedBlob, t3: bytes, survivors: int, length: int, roster: Roster) -> Result:
    """The signed Result, if it is about the sum I revealed for."""
    coordinator_signature(blob, roster, BlobType.RESULT)
    body = wire.parse_body(BlobType.RESULT, blob.body)
    assert isinstance(body, Result)
    if (body.t3, body.survivors, body.length) != (t3, survivors, length):
        raise PeerError("wrong_transcript", "the result is of another set of inputs")
    return body
