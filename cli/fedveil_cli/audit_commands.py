"""`audit show|verify|export`: what happened in a home, whether its records are whole, and copies for those who ask.

Promise: everything here is offline and reads only; it works beside a participant that runs. On an operator's home
`show` and `verify` read the coordinator's own log, which `serve` must not be writing then (`data_folder_in_use`).
"""

import contextlib
import json
import pathlib

from fedveil_common import record_file
from fedveil_common.crypto import signing
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError
from fedveil_common.jcs import Json
from fedveil_common.named_file import open_named
from fedveil_common.record_file import Owner, RecordFile
from fedveil_common.secret import Passphrase
from fedveil_coordinator.store import open_store as open_coordinator_store
from fedveil_coordinator.store.records import AuditRow
from fedveil_participant import membership
from fedveil_participant.membership import Membership
from fedveil_participant.store import Books, TrailRow

from fedveil_cli import data_home, processing_record
from fedveil_cli.files import unreadable, write_file
from fedveil_cli.output import Output, TextTable
from fedveil_cli.service_commands import is_operator
from fedveil_cli.spending_report import timestamp
from fedveil_cli.world import real_world

__all__ = ["export", "export_processing", "is_operator", "show", "verify", "verify_file"]


def show(home: pathlib.Path, run: str | None, kind: str | None, passphrase: Passphrase | None, output: Output) -> None:
    """`audit show`."""
    if is_operator(home):
        with FolderLock(home):
            rows = [_order(row) for row in _coordinator_rows(home)]
    else:
        with data_home.looking(home, passphrase, real_world()) as books:
            rows = [_event(row) for row in books.trail()]
    found = [row for row in rows if run in {None, row["run"]} and kind in {None, row["kind"]}]
    table = TextTable(("number", "time", "kind", "run", "round", "attempt", "facts"), [_cells(row) for row in found])
    output.result({"rows": list[Json](found)}, [table if found else "nothing of that is on record"])


def verify(home: pathlib.Path, against: pathlib.Path | None, passphrase: Passphrase | None, output: Output) -> None:
    """`audit verify`. StorageError `database_damaged`; IntegrityError `records_rewritten`, `head_not_signed`,
    `records_damaged`; ConfigError `other_records` for an export of somebody else.
    """
    if is_operator(home):
        if against is not None:
            raise ConfigError(
                "other_records", "--against is for an organisation's home", next_step="fedveil audit verify"
            )
        with FolderLock(home):
            count = len(_coordinator_rows(home))
        said = f"{count} rows of the coordinator's log are whole: digests, numbers and chain"
        output.result({"rows": {"audit": count}, "checkpoints": 0, "uncovered": count}, [said, NO_CHECKPOINTS])
        return
    member = membership.load_membership(home)
    with data_home.looking(home, passphrase, real_world()) as books:
        owner = _owner(member, books)
        checked = books.check_records(owner)
        if against is not None:
            earlier = _read(against)
            if earlier.owner != owner:
                raise ConfigError(
                    "other_records",
                    f"{str(against)!r} is an export of {earlier.owner.org_id} under another key, and not of this home",
                    next_step="name an export that `fedveil audit export` made in this home",
                )
            books.compare(earlier.head)
    lines = [f"{name}: {count} rows, whole" for name, count in checked.rows.items()]
    lines.append(f"{checked.checkpoints} signed checkpoints hold; {checked.uncovered} rows stand behind the last")
    if against is not None:
        lines.append(f"the records go on from {str(against)!r}")
    value = {"rows": dict(checked.rows), "checkpoints": checked.checkpoints, "uncovered": checked.uncovered}
    output.result(value, lines)


NO_CHECKPOINTS = "they are not signed: the chain guards against the disk, not against who may write the file"


def verify_file(file: pathlib.Path, output: Output) -> None:
    """`audit verify --file`: errors of `record_file.read`. Whose key it is, the reader must know from elsewhere."""
    found = _read(file)
    rows = {name: len(table) for name, table in found.tables.items()}
    key = found.owner.protocol_key.hex()
    output.result(
        {
            "federation": found.owner.federation_id,
            "organisation": found.owner.org_id,
            "protocol_key": key,
            "rows": rows,
        },
        [
            f"records of {found.owner.org_id} in {found.owner.federation_id}",
            *(f"{name}: {count} rows, whole" for name, count in rows.items()),
            f"signed under {key}: the roster of the federation says whether that is the organisation's key",
        ],
    )


def export(home: pathlib.Path, out: pathlib.Path | None, passphrase: Passphrase | None, output: Output) -> None:
    """`audit export`. StorageError `file_unwritable`."""
    member = membership.load_membership(home)
    with data_home.looking(home, passphrase, real_world()) as books:
        lines = list(books.export(books.protocol_key(), member.federation_id, member.org_id))
    if out is None:
        texts = [line.decode().rstrip("\n") for line in lines]
        output.result({"lines": list[Json](texts)}, texts)
        return
    write_file(out, "the export", b"".join(lines))
    output.result({"file": str(out), "rows": len(lines) - 2}, [f"{len(lines) - 2} rows and a signed head: {out}"])


def export_processing(
    home: pathlib.Path, out: pathlib.Path | None, passphrase: Passphrase | None, output: Output
) -> None:
    """`audit export --dpo`: text, or JSON under --json or into a file that is named .json."""
    member = membership.load_membership(home)
    world = real_world()
    with data_home.looking(home, passphrase, world) as books:
        value = processing_record.collect(member, books, world.clock.wall_s())
    lines = processing_record.text(value)
    if out is None:
        output.result(value, lines)
        return
    as_json = output.as_json or out.suffix == ".json"
    data = json.dumps(value, allow_nan=False, indent=2) if as_json else "\n".join(lines)
    write_file(out, "the record of processing", data.encode() + b"\n")
    output.result({"file": str(out)}, [f"the record of processing: {out}"])


# --- rows -------------------------------------------------------------------------------------------------------------


def _event(row: TrailRow) -> dict[str, Json]:
    key = row.key
    return {
        "number": row.seq,
        "time": timestamp(row.wall_s),
        "kind": row.kind,
        "run": row.run,
        "round": 0 if key is None else key.round,
        "attempt": 0 if key is None else key.attempt,
        "facts": {name: value for name, value in row.facts},
    }


def _order(row: AuditRow) -> dict[str, Json]:
    return {
        "number": row.seq,
        "time": timestamp(row.wall_s),
        "kind": row.what,
        "run": row.detail.get("run", ""),
        "round": 0,
        "attempt": 0,
        "facts": {"who": row.who, **row.detail},
    }


def _cells(row: dict[str, Json]) -> tuple[str, ...]:
    facts = row["facts"]
    assert isinstance(facts, dict), "made above"
    told = " ".join(f"{name}={value}" for name, value in facts.items() if value != "")
    return (*("" if row[name] == 0 else str(row[name]) for name in row if name != "facts"), told)


def _coordinator_rows(home: pathlib.Path) -> list[AuditRow]:
    with contextlib.closing(open_coordinator_store(home, real_world().clock)) as store:
        return store.records.audit_rows()


def _owner(member: Membership, found: Books) -> Owner:
    return Owner(member.federation_id, member.org_id, signing.public_key(found.protocol_key()))


def _read(file: pathlib.Path) -> RecordFile:
    try:
        with open_named(file, pipe=True) as stream:
            return record_file.read(iter(lambda: stream.readline(record_file.MAX_LINE + 1), b""))
    except OSError as error:
        raise unreadable(file, "the export", error) from None
