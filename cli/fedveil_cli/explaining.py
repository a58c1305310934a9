"""What `plan explain` says, sentence by sentence: who could learn what, what the sums say, who can stop a run.

Promise: every figure comes from `cohort_figures` and `exposure`, which ask the functions that participants refuse by;
no sentence says more than docs/protocol.md 2.7 argues or less than SECURITY.md admits. Where sizes matter the weakest
case is told: the smallest cohort, which a coordinator may choose by saying that nobody else is there.
"""

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite

from fedveil_common import layout, private_sum
from fedveil_common.jcs import Json
from fedveil_common.noise import rests_on
from fedveil_common.paillier.public_key import Terms
from fedveil_common.plan import (
    CategoryFeature,
    FloatFeature,
    Metric,
    Missing,
    NoiseSource,
    Plan,
    PrivacySpec,
    Unit,
    Weight,
)

from fedveil_cli import explaining_statistics, exposure, tight_estimate
from fedveil_cli.cipher_traffic import traffic
from fedveil_cli.cohort_figures import CohortFigures
from fedveil_cli.statement import Statement

TOPICS = {
    "who": "Who could learn what",
    "sums": "What the sums say",
    "stopping": "Who can stop it",
    "cost": "What it costs",
}


def statements(plan: Plan, cohorts: Sequence[CohortFigures], terms: Terms | None = None) -> list[Statement]:
    """All that is said about a plan whose possible cohorts, ascending and at least one, have these figures. `terms`: of
    the key that a plan under paillier names, if somebody gave them.
    """
    statistics = plan.statistics
    return [
        *_coordinator(cohorts[0], cohorts[-1], terms),
        *(_holders(plan, terms) if plan.protection.key else ()),
        *_members(cohorts[0], cohorts[-1]),
        *(
            _sums(plan, cohorts[-1])
            if statistics is None
            else explaining_statistics.sums(plan, statistics, cohorts[-1])
        ),
        *(_columns(plan) if statistics is None else (_INVENTED,)),
        *_stopping(cohorts[0], cohorts[-1], terms),
        _bytes(plan, cohorts[-1], terms),
    ]


def _coordinator(small: CohortFigures, large: CohortFigures, terms: Terms | None) -> list[Statement]:
    c = small.corrupt
    alone, with_c = exposure.coalition(small, 0, True).group, exposure.coalition(small, c, True).group
    opening = None if terms is None else terms.threshold
    certain, certain_large = exposure.single_from(small, opening), exposure.single_from(large, opening)
    hidden = "encrypted" if small.encrypted else "masked"
    keys = ", and sooner if enough of them hold the key" if small.encrypted else ""
    larger = f", and with {certain_large} in one of {large.members}" if large is not small else ""
    size: dict[str, Json] = {"cohort": small.members}
    return [
        Statement(
            "coordinator_alone",
            "who",
            "The coordinator alone reads every message, leaves out whom it likes and can say that only "
            f"{small.members} are there. From the {hidden} updates it gets the sum of at least {alone} organisations, "
            "or nothing.",
            size | {"colluders": 0, "group": alone},
        ),
        Statement(
            "false_sum",
            "who",
            _FALSE_SUM_ENCRYPTED if small.encrypted else _FALSE_SUM_MASKED,
            {},
        ),
        Statement(
            "coordinator_with_c",
            "who",
            f"The coordinator and {_people(c)} together: the sum of the others, at least {with_c} of them. "
            f"That is the bound of the protocol: c = {c}, the largest of max_corrupt, a fifth of the "
            "roster and 1. An organisation that also runs the coordinator counts in it, and so do organisations under "
            "one roof.",
            size | {"colluders": c, "group": with_c},
        ),
        Statement(
            "coordinator_with_more",
            "who",
            f"The coordinator and {_people(c + 1)} or more: nothing is promised, take it that they read single "
            f"updates. It is certain with {_people(certain)} in a cohort of {small.members}{larger}{keys}.",
            size | {"colluders": c + 1, "certain_from": certain, "certain_from_in_largest": certain_large},
        ),
        Statement(
            "membership",
            "who",
            "Who is a member rests on the operator, who holds the governance key. With more than "
            f"{c} organisation{'s' if c > 1 else ''} of its own making it is beyond the bound: compare names and the "
            "fingerprint out of band.",
            {"colluders": c},
        ),
    ]


_FALSE_SUM_MASKED = (
    "A coordinator that signed a false sum would choose the next model. Every member checks each sum against a "
    "checksum that the dealers alone can make, and makes parts of it again from the masked inputs; who finds "
    "it false leaves the run. What may escape is a few false leaves of a model of more than 16384 parameters, "
    "signed with the help of a corrupt member."
)
_FALSE_SUM_ENCRYPTED = (
    "A coordinator that signed a false sum would choose the next model. Every input and every answer of a holder "
    "carries a proof: whoever has them and the record of the key makes the sum again."
)


def _holders(plan: Plan, terms: Terms | None) -> list[Statement]:
    """What the key adds: in figures if its terms are known, else in words."""
    key = plan.protection.key
    opening, fewer = "A threshold of the holders", "one holder fewer than the threshold"
    figures: dict[str, Json] = {}
    bits = ""
    if terms is not None:
        holders, t = len(terms.holders), terms.threshold
        opening = f"Any {t} of the {holders} holders ({', '.join(terms.holders)})"
        fewer = f"up to {t - 1} of the {holders} holders"
        figures = {"holders": holders, "threshold": t}
        bits = f" of {int(terms.n).bit_length()} bits"
    return [
        Statement(
            "holders_together",
            "who",
            f"{opening} of the key {key} together open every input that somebody recorded in this epoch of the key, "
            "each update by itself. They need no coordinator for it, and nobody sees it. Once all have moved on to the "
            "next epoch (`fedveil key refresh`) and erased their seeds, what was recorded before stays shut.",
            figures,
        ),
        Statement(
            "holders_below",
            "who",
            f"The coordinator with {fewer}: the certified sum and nothing else, while no more members are corrupt than "
            "above, holders among them.",
            {} if terms is None else {"below": terms.threshold - 1},
        ),
        Statement(
            "factors",
            "who",
            f"Whoever knows the factors of the modulus{bits} opens everything that was ever encrypted under it: a "
            "dealer who kept them, or who factors it one day. Nothing here is post-quantum: with a quantum computer "
            "every recorded input opens.",
            {} if terms is None else {"bits": int(terms.n).bit_length()},
        ),
    ]


def _members(small: CohortFigures, large: CohortFigures) -> list[Statement]:
    n, least = large.members, small.min_survivors
    one = exposure.coalition(small, 1, False).group
    return [
        Statement(
            "one_member",
            "who",
            f"One member alone: the sum of the others in the sum, {n - 1} if all of {n} stay, never fewer than {one}.",
            {"cohort": small.members, "colluders": 1, "group": one, "group_if_all_stay": n - 1},
        ),
        Statement(
            "all_but_two",
            "who",
            "All members in a sum but two, without the coordinator: the sum of the two.",
            {"cohort": n, "colluders": n - 2, "group": exposure.coalition(large, n - 2, False).full_group},
        ),
        Statement(
            "all_but_one",
            "who",
            "All members in a sum but one, without the coordinator: the update of that one, by subtraction from the "
            f"published sum. {n - 1} of {n} if all stay; {_people(least - 1)} where drop-outs leave only the {least} "
            f"that a sum of a cohort of {small.members} needs.",
            {
                "cohort": n,
                "colluders": n - 1,
                "group": exposure.coalition(large, n - 1, False).full_group,
                "colluders_after_drops": least - 1,
            },
        ),
        Statement(
            "network",
            "who",
            "Someone on the network: who talks to the coordinator, from where, when, for how long, and how many bytes. "
            "Not what (mutual TLS; shares are encrypted end to end besides).",
            {},
        ),
    ]


def _noisy_sums(plan: Plan, privacy: PrivacySpec, large: CohortFigures) -> list[Statement]:
    """What differential privacy promises of the opened sums, to whom, and under what it holds."""
    sums = private_sum.sums_allowed(plan, privacy)
    one, whole = private_sum.spent(plan, privacy, 1), private_sum.spent(plan, privacy, sums)
    person = plan.data.person is not None
    whole_one = privacy.unit is Unit.PARTICIPANT
    unit = f"person (column {plan.data.person})" if person else "record (one row)"
    unit = "participant, with all of its records" if whole_one else unit
    what = "clipped updates" if whole_one else "clipped gradients"
    what += " and of measures of the model" if plan.evaluation.metrics else ""
    rows = "" if person or whole_one else " Several rows of one person add up; name data.person to protect the person."
    twice = private_sum.spent(plan, privacy, sums, organisations=2)
    of_two = f"epsilon {twice:.3g}" if isfinite(twice) else "no epsilon that the slack of the draws leaves room for"
    noise = private_sum.model_noise(plan, privacy)
    own = privacy.noise is NoiseSource.COORDINATOR
    against = (
        f"every member and whoever sees a model, while at most c = {large.corrupt} members collude, none of them with "
        "the coordinator,"
        if own
        else f"everyone, the coordinator and every member included, while at most c = {large.corrupt} of them collude"
    )
    return [
        Statement(
            "noisy_sums",
            "sums",
            f"{sums} sums of {what} open, nothing else; the protection is of each {unit}, against "
            f"{against} and however many drop out: epsilon {one:.3g} for the first, {whole:.3g} for the run, at delta "
            f"{privacy.delta:g}.{rows}",
            {"sums": sums, "epsilon_of_one_step": one, "epsilon": whole, "delta": privacy.delta},
        ),
        tight_estimate.statement(plan, privacy),
        *(_of_coordinator(plan) if own else []),
        Statement(
            "same_person",
            "sums",
            f"One who is in the data of two organisations has {of_two} for the run: both move the same sums.",
            {"epsilon_of_two": twice if isfinite(twice) else None},
        ),
        *(_following(plan, privacy) if privacy.adaptive is not None else []),
        Statement(
            "noise_on_the_model",
            "sums",
            f"The noise moves each coordinate of a step's mean by {noise:.3g} (one standard deviation) at least; what "
            f"is averaged is clipped to norm {privacy.clip_norm:g}.",
            {"noise": noise},
        ),
        *(_noisy_measures(plan, privacy, sums) if plan.evaluation.metrics else ()),
        Statement(
            "not_covered",
            "sums",
            "Not covered: that an organisation takes part, min_rows, when and how long it works; a member that adds no "
            "noise of its own is counted among the c.",
            {},
        ),
    ]


def _following(plan: Plan, privacy: PrivacySpec) -> list[Statement]:
    """What a clip norm that follows the updates opens, and how well it can."""
    assert privacy.adaptive is not None, "asked for such plans only"
    noise = 4 * privacy.noise_multiplier / plan.cohort.min_participants
    return [
        Statement(
            "clip_follows",
            "sums",
            f"The clip norm follows the updates, from {privacy.clip_norm:g} towards the one that a share of "
            f"{privacy.adaptive.quantile:g} of them does not exceed, by a factor of e^{privacy.adaptive.rate:g} a step "
            f"at most. Each sum also opens how many were within it, with noise: {noise:.2g} on the share.",
            {"quantile": privacy.adaptive.quantile, "rate": privacy.adaptive.rate, "noise_of_share": noise},
        )
    ]


def _of_coordinator(plan: Plan) -> list[Statement]:
    """What nobody is promised where the coordinator adds the noise."""
    encrypted = bool(plan.protection.key)
    how = "it can subtract the noise that it added" if encrypted else "it opens the exact sum and adds the noise to it"
    proof = (
        ""
        if encrypted
        else " Integrity rests on it too: what would prove a sum would give the exact one away, so no member checks it."
    )
    return [
        Statement(
            "against_the_coordinator",
            "sums",
            f"Against the coordinator there is no epsilon: {how}, or add none.{proof}",
            {"epsilon_against_coordinator": None, "rests_on": rests_on(plan)},
        )
    ]


def _noisy_measures(plan: Plan, privacy: PrivacySpec, sums: int) -> list[Statement]:
    """What measuring costs, and what is left of its figures."""
    training, holdout = private_sum.costs(plan, privacy, sums)
    measured = sum(layout.evaluation_due(plan, step) for step in range(min(sums, plan.training.rounds)))
    measured += sums > plan.training.rounds
    records = "persons" if plan.data.person is not None else "records"
    if holdout > training:
        verdict = "Measuring is what costs more here: with a larger evaluation.every it costs less."
    else:
        verdict = "Training is what costs more here: measuring adds nothing to the epsilon of the run."
    expected = plan.evaluation.holdout * privacy.rows
    least = private_sum.least_count(plan, privacy)
    count = least / private_sum.LEAST_DEVIATIONS
    loss = plan.evaluation.loss_cap
    usable = f"{count / expected:.2g} on an accuracy and {loss * count / expected:.2g} on a loss"
    if expected <= least:
        usable = f"too much: below {least:.3g} {records} nothing is measured"
    return [
        Statement(
            "price_of_measuring",
            "sums",
            f"A record trains or is held out, never both: for the run epsilon {training:.3g} for one that trains, "
            f"{holdout:.3g} for one that is held out, in {measured} sums that measure. {verdict}",
            {"epsilon_of_training": training, "epsilon_of_holdout": holdout, "sums_that_measure": measured},
        ),
        Statement(
            "noise_on_measures",
            "sums",
            f"The noise on a count of {records} is {count:.3g} (one standard deviation) at least; of the "
            f"{expected:.3g} {records} that are held out if {privacy.rows} is right, that is {usable}.",
            {"noise_of_a_count": count, "holdout_expected": expected, "least_count": least, "loss_cap": loss},
        ),
    ]


def _sums(plan: Plan, large: CohortFigures) -> list[Statement]:
    if plan.privacy is not None:
        return _noisy_sums(plan, plan.privacy, large)
    steps, cap = plan.training.rounds, plan.training.weight_cap
    standardise = layout.needs_standardise(plan)
    evaluations = sum(layout.evaluation_due(plan, step) for step in range(steps)) + 1
    moments = "1 of moments, unless an earlier run asked for the same, " if standardise else ""
    found = [
        Statement(
            "exact_sums",
            "sums",
            f"privacy: none. Without differential privacy the coordinator and every member see "
            f"{steps + 1 + standardise} sums exactly ({moments}{steps} of updates, 1 that measures the last model), "
            "who is in each, and every model. A sum, a series of sums and a model say something about the data behind "
            "them.",
            {"sums": steps + 1 + standardise, "standardise": int(standardise), "train": steps, "evaluate": 1},
        )
    ]
    if plan.training.weight is Weight.ROWS and steps > 1:
        # Each of at most N and N - 1 stochastically rounded weights is off by less than one step of the grid.
        within = (2 * large.members - 1) * cap / plan.protection.max_value
        found.append(
            Statement(
                "training_rows",
                "sums",
                f"The sum of weights, which are rows, is open {steps} times. Who is in one and misses another shows "
                f"its training rows in the difference, to within {within:.3g}, or that it has {cap} or more.",
                {"sums": steps, "rows_within": within, "weight_cap": cap},
            )
        )
    found.append(
        Statement(
            "holdout_rows",
            "sums",
            f"The sum of holdout rows is open {evaluations} times and exact. Who is in one and misses another shows "
            f"its holdout rows in the difference, or that it has {cap} or more.",
            {"sums": evaluations, "weight_cap": cap},
        )
    )
    if Metric.AUC in plan.evaluation.metrics:
        cells = 2 * layout.SCORE_BINS
        found.append(
            Statement(
                "histogram_cells",
                "sums",
                f"The metric auc opens {cells} cells of a histogram of scores {evaluations} times. A cell into which "
                "rows of one organisation alone fall is that organisation's count.",
                {"cells": cells, "sums": evaluations},
            )
        )
    return found


def _columns(plan: Plan) -> list[Statement]:
    categories = [feature for feature in plan.data.features if isinstance(feature, CategoryFeature)]
    empty = [
        feature.name
        for feature in plan.data.features
        if isinstance(feature, FloatFeature) and feature.missing is not Missing.ERROR
    ]
    inputs = sum(len(feature.values) - 1 for feature in categories)
    under = "" if plan.privacy is None else ", under the noise"
    text = f"A coordinate that only one organisation fills is opened as it is{under}."
    if categories:
        text += (
            f" {inputs} of {plan.data.inputs} inputs stand for one value of a category "
            f"({', '.join(feature.name for feature in categories)}): whoever alone has that value shows its own number."
        )
    if empty:
        text += f" So does whoever alone fills a column that may be empty ({', '.join(empty)})."
    figures: dict[str, Json] = {
        "categories": [feature.name for feature in categories],
        "one_value_inputs": inputs,
        "may_be_empty": list(empty),
    }
    return [
        Statement("single_organisation", "sums", text, figures),
        _INVENTED,
    ]


_INVENTED = Statement(
    "invented_data",
    "sums",
    "Nothing proves what is behind an update: a member can train on invented data, and the sanity check of the "
    "public sum finds only what is gross.",
    {},
)


def _stopping(small: CohortFigures, large: CohortFigures, terms: Terms | None) -> list[Statement]:
    absent = exposure.stopped_by_absence(large.roster, small.members)
    dead = exposure.dead_from(large)
    may = "Nobody" if large.may_drop == 0 else f"{large.may_drop}"
    needed: dict[str, Json] = {} if large.encrypted else {"threshold": large.threshold}
    there = f"{large.threshold} must be there"
    never = f"With {dead} or more gone for the whole hard limit it can be neither opened nor aborted:"
    if large.encrypted:
        there, never = "a threshold of the key's holders must be there", "If it can be neither opened nor aborted then,"
    if large.encrypted and terms is not None:
        there = f"{terms.threshold} of the {len(terms.holders)} holders of the key must be there"
        needed = {"holders": len(terms.holders), "holders_needed": terms.threshold}
    burns = "" if large.encrypted else " by dealing false shares"
    return [
        Statement(
            "drop_outs",
            "stopping",
            f"{may} of a cohort of {large.members} may vanish before the vote on who is in the sum: it is opened over "
            f"those whose input is there. From that vote on {there}, or come back within the "
            "hard limit, or the run ends.",
            {"cohort": large.members, "may_drop": large.may_drop, **needed},
        ),
        Statement(
            "aborted",
            "stopping",
            f"If more vanish before it, {large.abort_threshold} members must sign that the attempt is over; it is then "
            f"tried again with those who are there, {small.members} at least. {never} the run ends and its "
            "updates are spent.",
            {
                "cohort": large.members,
                "abort_threshold": large.abort_threshold,
                "smallest_cohort": small.members,
                **({} if large.encrypted else {"dead_from": dead}),
            },
        ),
        Statement(
            "stopped_by_members",
            "stopping",
            f"{_people(absent)} of the roster, staying away from the beginning, stop{'s' if absent == 1 else ''} it. "
            f"One that misbehaves can delay it, burn an attempt{burns}, or end it by vanishing at the wrong moment.",
            {"roster": large.roster, "members": absent},
        ),
        Statement(
            "stopped_by_operator",
            "stopping",
            "The operator, and whoever runs the coordinator, can stop it at any time, keep its result back, or publish "
            "it to some only.",
            {},
        ),
    ]


def _bytes(plan: Plan, large: CohortFigures, terms: Terms | None) -> Statement:
    """Of one train sum, for one participant of the largest cohort."""
    size: dict[str, Json] = {"cohort": large.members}
    what = "a train sum" if plan.statistics is None else "the sum"
    if not large.encrypted:
        up, down = large.vector_up, large.vector_down
        text = (
            f"{what.capitalize()} takes each participant {up} bytes up and {down} down, beside messages of about "
            f"{large.messages_up} and {large.messages_down}, and what it downloads to check sums."
        )
        beside = {"messages_up_about": large.messages_up, "messages_down_about": large.messages_down}
        return Statement("bytes", "cost", text, size | {"up": up, "down": down} | beside)
    if terms is None:
        text = (
            f"How many bytes {what} takes is the choice of the key {plan.protection.key}, not of the plan: its "
            "modulus and its columns say it (`plan explain --key TERMS`)."
        )
        return Statement("bytes", "cost", text, {})
    found = traffic(plan, large, terms)
    text = (
        f"{what.capitalize()} is {found.ciphertexts} ciphertexts under {found.blocks} "
        f"header{'' if found.blocks == 1 else 's'}. It takes each participant {found.input_up} bytes up, and down "
        f"{found.sum_down} for the sum and {found.checks_down} to check it; a holder that answers {found.answer_up} up "
        f"and {found.headers_down} down besides. Messages are not counted."
    )
    return Statement("bytes", "cost", text, size | asdict(found))


def _people(count: int) -> str:
    return "1 member" if count == 1 else f"{count} members"
