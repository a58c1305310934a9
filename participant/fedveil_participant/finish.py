"""The end of a run at a participant: the final model, or the answers, are stored only as they are derived here.

Promise: a stored model file carries the coordinator's signature over exactly the model, plan and standardisation that
this participant re-derived itself from the opened sums, and that of a finished run the model which the plan names.
Source: FLSA/1 section 2.6; A18 (docs/protocol.md).
"""

import base64
from dataclasses import dataclass

from fedveil_common import decode, jcs, layout, modelfile
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, FederationId
from fedveil_common.messages import BlobType, Purpose, RunEnded, SignedBlob
from fedveil_common.statistics import answers as reading

from fedveil_participant import checks, round
from fedveil_participant.countersigning import countersign
from fedveil_participant.lineage import Walk, Walker, basis_of


@dataclass(frozen=True, slots=True)
class Results:
    """What a run left here: a model file, or the answers of a statistics run, as they are stored; and this
    participant's countersignature of the model, if it vouches for it.
    """

    model: bytes = b""
    answers: bytes = b""
    countersignature: tuple[SignedBlob, ...] = ()


def results(
    message: RunEnded,
    accepted: checks.AcceptedPlan | None,
    walker: Walker,
    state: round.State,
    signed_roster: bytes,
    trust_chain: bytes,
) -> Results:
    """What there is to store. Raises as `final_model` and `answers`."""
    if accepted is not None and message.model:
        return final_model(message, accepted, walker, state, signed_roster, trust_chain)
    if accepted is None or accepted.plan.statistics is None or message.code != "finished" or not message.standardise:
        return Results()
    return Results(answers=answers(message, accepted, walker, state))


def final_model(
    message: RunEnded,
    accepted: checks.AcceptedPlan,
    walker: Walker,
    state: round.State,
    signed_roster: bytes,
    trust_chain: bytes,
) -> Results:
    """The model file to store, and the countersignature. PeerError `model_not_derived` or `bad_signature`: nothing is
    stored then.
    """
    plan = accepted.plan
    checks.not_disputed(message.run_id, state.disputed)
    blob, standardise = message.model[0], message.standardise
    checks.coordinator_signature(blob, state.roster, BlobType.MODEL)
    manifest = modelfile.parse_manifest(blob.body)
    if (manifest.run_id, manifest.federation_id) != (message.run_id, FederationId(state.roster.federation_id)):
        raise PeerError("wrong_transcript", "the signed model is of another run or federation", peer=COORDINATOR)
    own = bool(standardise) and standardise[0].run_id == message.run_id
    step = manifest.round - (1 if own and layout.needs_standardise(plan) else 0)
    if accepted.plan_hash != message.plan_hash or not 1 <= step <= plan.training.rounds:
        raise PeerError("wrong_transcript", f"the signed model is of step {step} of another plan", peer=COORDINATOR)

    def walked(to: int) -> Walk:
        return walker.walk(plan, message.run_id, standardise, to, (), basis_of(state))

    walk = walked(step)
    lineage = walk.lineage
    checks.not_stopped(lineage)
    if message.code == "finished":
        checks.final_step(walked(plan.training.rounds).lineage if plan.evaluation.stop else lineage, step)
    elif message.code == "budget_spent":
        checks.final_private_step(plan, step)
    file = modelfile.ModelFile(
        plan=plan,
        model=lineage.model,
        standardisation=lineage.standardisation,
        lineage=modelfile.lineage_text(manifest, step),
        signatures=(blob,),
        trust_chain=base64.b64encode(trust_chain).decode(),
        roster=base64.b64encode(signed_roster).decode(),
    )
    try:
        modelfile.verify_model(file, state.roster.coordinator_key)
    except PeerError as error:
        raise PeerError(
            "model_not_derived",
            f"the signed model is not the one derived here ({error.code})",
            peer=COORDINATOR,
            not_done="the model was not stored",
            next_step="keep the participant's folder and call the operator",
        ) from error
    return Results(modelfile.write_model(file), countersignature=countersign(manifest, walk.last[0], state))


def answers(message: RunEnded, accepted: checks.AcceptedPlan, walker: Walker, state: round.State) -> bytes:
    """The answers to store, as JSON: read here from the sum that the coordinator signed. Raises PeerError: then nothing
    is stored; IntegrityError `model_rejected`.
    """
    plan, ref = accepted.plan, message.standardise[0]
    checks.not_disputed(message.run_id, state.disputed)
    if accepted.plan_hash != message.plan_hash:
        raise PeerError("wrong_transcript", "the run ended under another plan", peer=COORDINATOR)
    place = (ref.run_id, ref.round)
    own = ref.run_id == message.run_id
    seen = any((one.run_id, one.round) == place and one.result for one in state.opened)  # that result alone is believed
    opened, _ = walker.answer(plan, Purpose.STATISTICS, ref, basis_of(state), audited=own or not seen)
    variance = opened.result.noise_left
    decoded = decode.decode(layout.layout_for(plan, Purpose.STATISTICS, 0), opened.settled)
    reading.check_sum(plan, decoded, opened.result.survivors, variance)
    return jcs.dumps(
        {
            "run_id": message.run_id,
            "plan": plan.name,
            "plan_hash": accepted.plan_hash.hex(),
            "opened_in": ref.run_id,
            "survivors": opened.result.survivors,
            "answers": reading.to_json(plan, reading.answers(plan, decoded, variance)),
        }
    )
