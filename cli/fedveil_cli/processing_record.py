"""The record of processing (GDPR Art. 30) of an organisation, from what its home has on record. Pure after `collect`.

Promise: nothing in it is typed in by anybody: purposes and legal bases are those of the approved plans; runs, rounds
and bytes those of the journal; approvals, masks, exclusions and withdrawals the notes made when they happened. What a
plan does not say is named as missing, not guessed. It holds no value of the data.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from fedveil_common import plan as plans
from fedveil_common.dp import budget
from fedveil_common.ids import RunId
from fedveil_common.jcs import Json
from fedveil_common.plan import Plan
from fedveil_common.succession import roster_of_its_time
from fedveil_participant.membership import Membership
from fedveil_participant.retention import RETENTION, WHY_FOR_GOOD
from fedveil_participant.store import Books, Sent, TrailRow, data_sets

from fedveil_cli import outbox_commands
from fedveil_cli.spending_report import DataSetBook, timestamp

Record = dict[str, Json]

NOT_SAID = "not said in the plan"
ANSWERS = frozenset({"plan_answered"})
"""Notes about a plan that say what the coordinator heard, and are no decision of a person."""

WITHDRAWN = frozenset({"plan_withdrawn"})
DATA_RULES = frozenset({"data_masked", data_sets.EXCLUDED, data_sets.ADMITTED, data_sets.FORGOTTEN})


def collect(member: Membership, books: Books, now_s: float) -> Record:
    """Everything, as plain values. Reads the journal only."""
    trail, sent = books.trail(), books.outbox()
    stored = {one.run_id: one for one in books.plans()}
    known = {run: plans.parse_canonical(one.canonical) for run, one in stored.items()}
    by_hash: dict[str, list[RunId]] = {}
    for run, one in stored.items():
        by_hash.setdefault(one.plan_hash.hex(), []).append(run)
    signed = books.roster() or member.signed_roster
    roster = roster_of_its_time(signed, member.trust)
    return {
        "organisation": member.org_id,
        "federation": member.federation_id,
        "made": timestamp(now_s),
        "recipients": {
            "coordinator": {"address": member.address, "protocol_key": roster.coordinator_key.hex()},
            "participants_of_sums_and_models": [org for org in roster.participants if org != member.org_id],
            "roster_version": roster.version,
        },
        "processings": [
            _processing(digest, known[runs[0]], [_run(run, known[run], books, trail, sent) for run in runs], trail)
            for digest, runs in by_hash.items()
        ],
        "data_sets": [_data_set(name, books, known, trail) for name in _names(books, known)],
        "decisions_on_plans_that_never_ran": [_note(row) for row in trail if _decides(row) and not _ran(row, by_hash)],
        "withdrawals": [_note(row) for row in trail if row.kind in WITHDRAWN],
        "trainers": [_note(row) for row in trail if row.kind.startswith("trainer")],
        "sent": list[Json](outbox_commands.totals_of([outbox_commands.examined(one, ()) for one in _unread(sent)])),
        "retention": [{"where": one.where, "what": one.what, "until": one.until} for one in RETENTION],
    }


def _unread(sent: Iterable[Sent]) -> list[Sent]:
    """Messages for their bytes alone: receipts are `outbox`'s."""
    return [Sent(one.seq, one.wall_s, one.kind, one.size_bytes, one.digest, one.what, one.key) for one in sent]


def _processing(digest: str, plan: Plan, runs: Sequence[Record], trail: Sequence[TrailRow]) -> Record:
    privacy = plan.privacy
    return {
        "plan": plan.name,
        "plan_hash": digest,
        "kind": plan.kind.value,
        "purpose": plan.purpose,
        "controller": plan.controller,
        "legal_basis": plan.legal_basis,
        "contact": plan.contact,
        "retention_days": plan.retention_days,
        "data_set": plan.data.dataset,
        "columns": list[Json](_columns(plan)),
        "protection": plan.protection.kind,
        "privacy": None
        if privacy is None
        else {"unit": privacy.unit.value, "noise": privacy.noise.value, "max_epsilon": privacy.max_epsilon},
        "approvals": [_note(row) for row in trail if _decides(row) and _ran(row, [digest])],
        "runs": list[Json](runs),
    }


def _decides(row: TrailRow) -> bool:
    """Whether a note is somebody's decision on a plan, a rule's included."""
    return row.kind not in ANSWERS and row.kind.startswith(("plan_", "policy_"))


def _ran(row: TrailRow, digests: Iterable[str]) -> bool:
    """Whether it is about one of these plans, by whatever name it gives the hash."""
    return not {value for _, value in row.facts}.isdisjoint(digests)


def _columns(plan: Plan) -> list[str]:
    found = [one.name for one in plan.data.features]
    if plan.statistics is None:
        found.append(plan.data.target.column)
    if plan.data.person is not None:
        found.append(plan.data.person)
    return list(dict.fromkeys(found))


def _run(run: RunId, plan: Plan, books: Books, trail: Sequence[TrailRow], sent: Sequence[Sent]) -> Record:
    rows = [row for row in trail if row.run == run]
    (end,) = [one for one in books.ends() if one.run_id == run] or (None,)
    mine = [one for one in sent if one.key is not None and one.key.run_id == run]
    rounds = {row.key.round for row in rows if row.key is not None and row.kind == "input"}
    reads = [row for row in rows if row.kind == "data_read"]
    return {
        "run": run,
        "first": timestamp(min((row.wall_s for row in rows), default=0.0)),
        "ended": None if end is None else timestamp(end.wall_s),
        "how": None if end is None else end.code,
        "rounds_with_an_input": len(rounds),
        "bytes_sent": sum(one.size_bytes for one in mine),
        "reads": [
            {
                "time": timestamp(row.wall_s),
                "rows": row.fact("rows"),
                "round": row.fact("round"),
                "why": row.fact("why"),
            }
            for row in reads
        ],
    }


def _names(books: Books, known: Mapping[RunId, Plan]) -> list[str]:
    return sorted({*books.registrations(), *(plan.data.dataset for plan in known.values())})


def _data_set(name: str, books: Books, known: Mapping[RunId, Plan], trail: Sequence[TrailRow]) -> Record:
    limit = books.lifetimes().get(name)
    ledger = budget.fold(row.entry for row in books.ledger_rows() if row.dataset == name)
    book = DataSetBook(name, ledger, limit, known, ())
    about = [row for row in trail if name in {row.fact("dataset"), row.fact("name"), row.fact("data")}]
    registered = books.registrations().get(name)
    return {
        "name": name,
        "source": None if registered is None else registered.source.shown,
        "registered": [_note(row) for row in about if row.kind == data_sets.REGISTERED],
        "masks_and_exclusions": [_note(row) for row in about if row.kind in DATA_RULES],
        "epsilon_spent": book.spent if math.isfinite(book.spent) else None,
        "delta": book.delta,
        "max_epsilon": None if limit is None else limit.max_epsilon,
        "runs_with_exact_sums": [
            run for run, plan in known.items() if plan.data.dataset == name and plan.privacy is None
        ],
    }


def _note(row: TrailRow) -> Record:
    return {"time": timestamp(row.wall_s), "kind": row.kind, "facts": {key: value for key, value in row.facts}}


# --- as text ----------------------------------------------------------------------------------------------------------


def text(record: Mapping[str, Json]) -> list[str]:
    """The record in Markdown, line by line. Texts of plans are put in as they are: whoever prints escapes them."""
    recipients = _object(record["recipients"])
    coordinator = _object(recipients["coordinator"])
    others = ", ".join(str(one) for one in _list(recipients["participants_of_sums_and_models"])) or "nobody"
    lines = [
        f"# Record of processing: {record['organisation']} in {record['federation']}",
        "",
        f"Made {record['made']} from the journal of this organisation (GDPR Art. 30).",
        "",
        "## Recipients",
        "",
        f"- the coordinator at {coordinator['address']}: protected inputs, and what `outbox` lists",
        f"- members that get the opened sums and models (roster {recipients['roster_version']}): {others}",
    ]
    for one in _list(record["processings"]):
        lines += ["", *_processing_text(_object(one))]
    lines += ["", "## Data sets", ""]
    for one in _list(record["data_sets"]):
        lines += _data_set_text(_object(one))
    never = _notes_text(record["decisions_on_plans_that_never_ran"], "none")
    lines += ["", "## Decisions on plans that never ran here", "", *never]
    lines += ["", "## Withdrawals", "", *_notes_text(record["withdrawals"], "none")]
    lines += ["", "## Own training code", "", *_notes_text(record["trainers"], "none")]
    lines += ["", "## What was sent", "", "| run | messages | bytes |", "|---|---|---|"]
    for one in _list(record["sent"]):
        total = _object(one)
        lines.append(f"| {_cell(total['run'] or '(none)')} | {total['messages']} | {total['bytes']} |")
    lines += ["", "## Retention in this home", "", "| where | what | until |", "|---|---|---|"]
    for one in _list(record["retention"]):
        kept = _object(one)
        lines.append(f"| {kept['where']} | {kept['what']} | {kept['until']} |")
    return [*lines, "", WHY_FOR_GOOD]


def _processing_text(one: Mapping[str, Json]) -> list[str]:
    privacy = one["privacy"]
    lines = [f"## Plan {one['plan']} ({one['kind']})", "", f"- hash: {one['plan_hash']}"]
    for name in ("purpose", "controller", "legal_basis", "contact", "retention_days"):
        value = one[name]
        lines.append(f"- {name.replace('_', ' ')}: {NOT_SAID if value is None else _cell(value)}")
    lines.append(f"- data set {one['data_set']}, columns: {', '.join(_cell(name) for name in _list(one['columns']))}")
    said = "none: sums are exact" if privacy is None else ", ".join(f"{k} {v}" for k, v in _object(privacy).items())
    lines += [f"- protection: {one['protection']}; differential privacy: {said}", "", "Decisions:", ""]
    lines += _notes_text(one["approvals"], "none on record")
    lines += ["", "| run | first | ended | how | rounds with an input | bytes sent | reads of the data |"]
    lines.append("|---|---|---|---|---|---|---|")
    for found in _list(one["runs"]):
        run = _object(found)
        reads = _list(run["reads"])
        rows = ", ".join(dict.fromkeys(str(_object(read)["rows"]) for read in reads))
        cells = [run[name] for name in ("run", "first", "ended", "how", "rounds_with_an_input", "bytes_sent")]
        told = f"{len(reads)} ({rows} rows)" if reads else "0"
        lines.append("| " + " | ".join(_cell("-" if cell is None else cell) for cell in (*cells, told)) + " |")
    return lines


def _data_set_text(one: Mapping[str, Json]) -> list[str]:
    spent, most = one["epsilon_spent"], one["max_epsilon"]
    exact = ", ".join(str(run) for run in _list(one["runs_with_exact_sums"]))
    return [
        f"- {one['name']}: {_cell(one['source'] or 'registered no more')}",
        f"  - epsilon spent: {'no finite one' if spent is None else f'{spent:.4g}'} at delta {one['delta']:g}, "
        f"at most {'(no limit set)' if most is None else most}"
        + (f"; no epsilon covers the exact sums of {exact}" if exact else ""),
        *(f"  {line}" for line in _notes_text(one["registered"], "no registration on record")),
        *(f"  {line}" for line in _notes_text(one["masks_and_exclusions"], "no mask and no exclusion on record")),
    ]


def _notes_text(notes: Json, none: str) -> list[str]:
    lines = []
    for one in _list(notes):
        note = _object(one)
        facts = ", ".join(f"{name} {_cell(value)}" for name, value in _object(note["facts"]).items())
        lines.append(f"- {note['time']} {note['kind']}: {facts}")
    return lines or [f"- {none}"]


def _cell(value: Json) -> str:
    """Text as one cell of a table of Markdown."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("\r", " ")


def _object(value: Json) -> Mapping[str, Json]:
    assert isinstance(value, dict), "made by `collect`"
    return value


def _list(value: Json) -> Sequence[Json]:
    assert isinstance(value, list), "made by `collect`"
    return value
