"""A model card: what a verified model file says of itself, and, set apart, what a home's record adds.

Promise: every fact outside of `record` follows from what the coordinator signed (manifest, and by its hashes plan and
standardisation; the roster of the time); `record` says whose word it is. Text from outside (names, purposes) stands in
Markdown as text: none of its characters is markup, and none is a control character. Pure.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedveil_common import jcs, private_sum
from fedveil_common.modelfile import ModelFile, ModelManifest
from fedveil_common.noise import rests_on
from fedveil_common.plan import (
    BinaryTarget,
    CategoryTarget,
    Feature,
    FloatFeature,
    FloatTarget,
    Missing,
    ModelKind,
    NoiseSource,
    Plan,
    Target,
    Unit,
)
from fedveil_common.registry.status import date
from fedveil_common.roster import Roster

Facts = dict[str, jcs.Json]

_MARKUP = re.compile(r"[!#$&()*+\-./:<=>@\[\]\\^_`{|}~]")
"""All ASCII punctuation that means something somewhere in Markdown; the rest is spared for who reads the source."""

_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
"""Not every reader of Markdown knows that these can be escaped; all know them so, and none makes HTML of them."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The bytes of the verified file, and the fingerprint (32 bytes) that it was verified from."""

    data: bytes
    fingerprint: bytes


def facts(
    file: ModelFile,
    manifest: ModelManifest,
    roster: Roster,
    origin: Origin,
    record: Mapping[str, jcs.Json] | None,
    status: Mapping[str, jcs.Json] | None = None,
) -> Facts:
    """The card as a JSON value. `record`: what a home adds (a run's report), None where there is none; `status`: what
    the newest status list says of the model, None where there is none.
    """
    plan = file.plan
    known = roster.version == manifest.roster_version  # another version names others than those of the signing
    return {
        "model": {
            "plan": plan.name,
            "kind": plan.model.kind.value,
            "inputs": plan.data.inputs,
            "hidden": list(plan.model.hidden),
            "parameters": len(file.model),
            "federation_id": manifest.federation_id,
            "run_id": manifest.run_id,
            "round": manifest.round,
        },
        "purpose": {
            "purpose": plan.purpose,
            "controller": plan.controller,
            "legal_basis": plan.legal_basis,
            "contact": plan.contact,
            "retention_days": plan.retention_days,
        },
        "data": {
            "dataset": plan.data.dataset,
            "columns": [_column(feature) for feature in plan.data.features],
            "target": _target(plan.data.target),
            "person": plan.data.person,
            "min_rows": plan.data.min_rows,
            "standardise": plan.data.standardise.value,
        },
        "training": {
            "strategy": plan.strategy.kind,
            "rounds_planned": plan.training.rounds,
            "weight": plan.training.weight.value,
            "metrics": [metric.value for metric in plan.evaluation.metrics],
            "holdout": plan.evaluation.holdout,
            "continues": [leg.run for leg in plan.continues],
        },
        "members": list(roster.participants) if known else None,
        "least_participants": plan.cohort.min_participants,
        "protection": {
            "kind": plan.protection.kind,
            "value_bits": plan.protection.value_bits,
            "update_norm": plan.protection.update_norm,
            "max_corrupt": plan.cohort.max_corrupt,
            "rests_on": rests_on(plan),
        },
        "privacy": _privacy(plan, manifest.round),
        "limits": list(limits(plan)),
        "digests": {
            "fingerprint": origin.fingerprint.hex(),
            "plan_hash": manifest.plan_hash.hex(),
            "model_hash": manifest.model_hash.hex(),
            "standardisation_hash": manifest.standardisation_hash.hex(),
            "transcript": manifest.transcript.hex(),
            "file_sha256": hashlib.sha256(origin.data).hexdigest(),
            "roster_version": manifest.roster_version,
        },
        "status": None if status is None else dict(status),
        "record": None if record is None else dict(record),
    }


def limits(plan: Plan) -> tuple[str, ...]:
    """What the model does not protect against and what its figures do not show: our own sentences, with ids in them."""
    found = [
        "Nobody checked that the participants' data are true, or that they trained on them.",
        f"{plan.protection.kind.capitalize()} updates hide each organisation's update while a sum is made. They do not "
        "limit what the finished model tells of the data behind it.",
    ]
    privacy = plan.privacy
    if privacy is None:
        found.append(
            "There is no differential privacy: whoever has the model may find out whether a record was among its data."
        )
    else:
        of = _unit(plan)
        found.append(
            f"Differential privacy is for each {of}, up to epsilon {privacy.max_epsilon:g}: what many records have in "
            "common is not hidden, and other uses of the same data cost more."
        )
        if privacy.noise is NoiseSource.COORDINATOR:
            found.append("The coordinator added the noise and can subtract it: there is no epsilon against it.")
    if rests_on(plan) == "coordinator":
        found.append("The coordinator alone saw the exact sums: no participant could check what it published.")
    if plan.evaluation.metrics:
        share = f"{100 * plan.evaluation.holdout:g} %"
        found.append(
            f"Figures are of {share} of each participant's own rows, as it measured them itself. They say nothing of "
            "data from elsewhere, and little where few rows were held out."
        )
    else:
        found.append("Nothing was measured on rows that did not train.")
    if plan.model.kind is ModelKind.TRAINER:
        found.append(f"What the parameters mean is known to the code of the trainer {plan.model.trainer} alone.")
    else:
        found.append("Values outside of the ranges and categories of the columns were never seen in training.")
    found.append("A card does not say whether the model was withdrawn after it was made.")
    return tuple(found)


def markdown(card: Facts) -> str:
    """The card for people."""
    model, data, digests = (_part(card, name) for name in ("model", "data", "digests"))
    lines = [f"# Model card: {_text(model['plan'])}", ""]
    lines += _section("Model", model, skip=("plan",))
    purpose = {name: value for name, value in _part(card, "purpose").items() if value is not None}
    lines += _section("Purpose", purpose) if purpose else ["## Purpose", "", "The plan states none.", ""]
    lines += ["## Data, as the plan describes them", ""]
    lines += [f"- data set: {_text(data['dataset'])}", f"- target: {_shown(data['target'])}"]
    lines += [f"- person: {_shown(data['person'])}", f"- least rows of a participant: {_shown(data['min_rows'])}"]
    lines += [f"- standardised: {_shown(data['standardise'])}", ""]
    lines += ["| column | type | values | missing |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(_shown(cell) for cell in _row(one)) + " |" for one in _list(data["columns"])]
    members = card["members"]
    lines += ["", "## Participants", "", f"- a round needs {_shown(card['least_participants'])} of them at least"]
    if members is None:
        lines.append(
            "- the file carries a later roster: who belonged to the federation at the signing is not known here"
        )
    else:
        names = _list(members)
        lines.append(f"- members at the signing, not all of whom need have taken part: {len(names)}")
        lines += [f"  - {_text(name)}" for name in names]
    lines.append("")
    lines += _section("Training", _part(card, "training"))
    lines += _section("Protection", _part(card, "protection"))
    privacy = card["privacy"]
    if isinstance(privacy, Mapping):
        lines += _section("Differential privacy", privacy)
    else:
        lines += ["## Differential privacy", "", "None: the sums are exact.", ""]
    lines += ["## Limits", "", *(f"- {one}" for one in _list(card["limits"])), ""]
    lines += _section("Digests", digests)
    lines += _VERIFY
    lines += ["", *_standing(card["status"])]
    record = card["record"]
    if isinstance(record, Mapping):
        lines += ["", *_section("Not in the signed file", record)]
    return "\n".join(lines).rstrip("\n") + "\n"


_VERIFY = [
    "## How to verify",
    "",
    "Ask the operator for the fingerprint by telephone, not by e-mail. What stands above follows from signatures:",
    "",
    "    fedveil model verify FILE --fingerprint HEX",
]


def _standing(status: jcs.Json) -> list[str]:
    """What a status list said on its day: it is signed, and no part of the model file."""
    if not isinstance(status, Mapping):
        return _section("Status", {"stage": "not known: no status list was at hand"})
    shown: Facts = {
        "stage": status["stage"] or "not released",
        "status list": status["sequence"],
        "as of": _day(status["as_of_s"]),
        "may be relied on until": _day(status["not_after_s"]),
    }
    if shown["stage"] == "withdrawn":
        shown["use"] = "nobody is to use this model any more"
    descends = status.get("descends_from_withdrawn")
    if isinstance(descends, Sequence) and descends:
        shown["goes on from"] = f"run {', '.join(str(run) for run in descends)}, whose model was withdrawn"
    return _section("Status", shown)


def _day(seconds: jcs.Json) -> str:
    assert isinstance(seconds, int)
    return date(seconds)


def _column(feature: Feature) -> jcs.Json:
    if isinstance(feature, FloatFeature):
        kind: Facts = {"type": "float", "range": [feature.lo, feature.hi], "clamp": feature.clamp}
    else:
        kind = {"type": "category", "values": list(feature.values)}
    missing: jcs.Json = feature.fill if feature.missing is Missing.VALUE else feature.missing.value
    return {"name": feature.name, **kind, "missing": missing}


def _target(target: Target) -> Facts:
    match target:
        case BinaryTarget(column=column, positive=positive):
            return {"column": column, "type": "binary", "positive": positive}
        case CategoryTarget(column=column, values=values):
            return {"column": column, "type": "category", "values": list(values)}
        case FloatTarget(column=column, lo=lo, hi=hi):
            return {"column": column, "type": "float", "range": [lo, hi]}


def _unit(plan: Plan) -> str:
    assert plan.privacy is not None
    return "person" if plan.data.person and plan.privacy.unit is Unit.RECORD else plan.privacy.unit.value


def _privacy(plan: Plan, sums: int) -> jcs.Json:
    privacy = plan.privacy
    if privacy is None:
        return "none"
    return {
        "unit": _unit(plan),
        "mechanism": privacy.mechanism.value,
        "noise_by": privacy.noise.value,
        "noise_multiplier": privacy.noise_multiplier,
        "clip_norm": privacy.clip_norm,
        "sample_rate": privacy.sample_rate,
        "delta": privacy.delta,
        "max_epsilon": privacy.max_epsilon,
        "epsilon_of_the_sums_up_to_this_model": private_sum.spent(plan, privacy, sums),
    }


def _row(column: jcs.Json) -> tuple[jcs.Json, ...]:
    assert isinstance(column, Mapping)
    values = column.get("range", column.get("values"))
    kind = f"{column['type']}, clamped" if column.get("clamp") else column["type"]
    return column["name"], kind, values, column["missing"]


def _section(title: str, members: Mapping[str, jcs.Json], skip: Sequence[str] = ()) -> list[str]:
    shown = [f"- {_text(name.replace('_', ' '))}: {_shown(one)}" for name, one in members.items() if name not in skip]
    return [f"## {title}", "", *shown, ""]


def _shown(value: jcs.Json) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case Mapping():
            return ", ".join(f"{_text(name)} {_shown(one)}" for name, one in value.items())
        case list() | tuple():
            return ", ".join(map(_shown, value)) or "none"
        case _:
            return _text(value)


def _text(value: jcs.Json) -> str:
    """Text that no reader of Markdown takes for anything else (CommonMark 2.4)."""
    printable = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(value))
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), printable)


def _part(card: Facts, name: str) -> Mapping[str, jcs.Json]:
    found = card[name]
    assert isinstance(found, Mapping)
    return found


def _list(value: jcs.Json) -> list[jcs.Json]:
    assert isinstance(value, list)
    return value
