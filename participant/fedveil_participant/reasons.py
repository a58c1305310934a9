"""The reasons that a coordinator may hear from this participant: a closed list of codes, without counts, names or text.

Promise: a plan's answer or a refusal that leaves carries a code of this list and nothing else in words. Whatever is not
listed is this organisation's own business and leaves as `no_update`.
"""

from dataclasses import replace

from fedveil_common.errors import LocalRefusal
from fedveil_common.messages import ParticipantMessage, PlanAnswer, Refusal

_LISTED = """
    abort_certificate_missing abort_certificate_too_small abort_voted aead_failed answer_gone approval_gone bad_bodies
    bad_contribution bad_data bad_factors bad_group_element bad_headers bad_input_proof bad_key_list
    bad_key_message bad_leaf bad_length bad_lift bad_list_proof bad_opening bad_partial bad_plan bad_public_key
    bad_removal bad_ring bad_share bad_signature bad_tag below_quorum block_cap_too_small budget_spent
    certificate_too_small cohort_too_large cohort_too_small consent_denied
    consent_pending consent_withdrawn corrupt_bound_too_small data_changed
    database_busy database_damaged dataset_missing disk_failed disk_full duplicate_signer equivocation
    header_repeated headers_differ holder_epoch_differs holder_key_differs input_differs input_gone
    input_not_expected key_epoch_used key_not_pinned key_record_damaged key_record_missing key_reused
    key_threshold_too_small leaving ledger_conflict ledger_damaged ledger_not_carried low_order_key malformed
    manifest_differs_from_plan model_not_derived model_rejected model_spent model_withdrawn no_certificate
    no_holdout_rows no_proposal no_update no_weight noise_chain_broken noise_component_too_small noise_grid_too_coarse
    not_a_member not_a_secret not_in_cohort not_in_roster not_in_this_release not_opened other_key_root outside_hours
    own_advert_altered own_header_altered paused plan_not_accepted policy_refused replayed_manifest ring_file_damaged
    ring_file_missing ring_would_wrap roster_fork roster_lists_other_key roster_rollback roster_unconfirmed
    round_not_proved run_has_stopped sealed_file_damaged sealed_file_missing second_vote share_missing slot_overflow
    state_not_derived sum_disputed sum_not_signed sum_out_of_range sum_too_large too_few_rows too_few_shares
    too_few_survivors too_many_complaints too_many_failures too_many_quorums too_many_rows trainer_needed
    uncharged_block unreachable update_lost update_not_finite version_presumed_spent wrong_commitment
    wrong_corrupt_bound wrong_dealers wrong_federation wrong_final_model wrong_kappa wrong_key
    wrong_min_survivors wrong_noise wrong_quorum wrong_roster wrong_secret_dealt wrong_shape wrong_signer
    wrong_sum wrong_threshold wrong_transcript wrong_type wrong_x
"""

REASONS = frozenset(_LISTED.split())
"""Every code that may leave. `docs/errors` says what each means."""


def reason(code: str) -> str:
    """What is said in the place of `code`; an empty code (no refusal) stays empty."""
    return code if not code or code in REASONS else LocalRefusal.HEARD


def reasoned(message: ParticipantMessage) -> ParticipantMessage:
    """`message` as it may leave."""
    match message:
        case PlanAnswer() | Refusal():
            return replace(message, code=reason(message.code))
        case _:
            return message
