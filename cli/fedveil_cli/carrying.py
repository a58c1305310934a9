"""`budget record` and `budget carry`: the ledger of an organisation that lost its journal, from what others know.

Promise: a ledger is never begun anew while somebody knows what was spent: after a re-key a data set takes part in no
private sum until the coordinator's signed record of it is in its ledger. Carrying only ever adds.
"""

import hashlib
import pathlib
from datetime import UTC, datetime

from fedveil_common import spending_record
from fedveil_common.database import FolderLock
from fedveil_common.dp import budget
from fedveil_common.ids import check_name
from fedveil_common.secret import Passphrase
from fedveil_participant import membership
from fedveil_participant.store import journal_key, open_store

from fedveil_cli import spending_report
from fedveil_cli.files import check_writable, read_file, write_file
from fedveil_cli.output import Output
from fedveil_cli.run_commands import connect
from fedveil_cli.world import real_world

MAX_RECORD = 64 * 1024**2


def record(home: pathlib.Path, org: str, out: pathlib.Path, output: Output) -> None:
    """`budget record ORG --out FILE`. ConfigError `unknown_member`."""
    check_name(org, "the organisation")
    data = connect(home).spending_record(org)
    write_file(out, "the record", data)
    output.result({"org": org, "file": str(out), "size_bytes": len(data)}, [f"what {org} may have spent: {out}"])


def carry(home: pathlib.Path, name: str, path: pathlib.Path, passphrase: Passphrase | None, output: Output) -> None:
    """`budget carry NAME --record FILE`. PeerError `bad_spending_record`; ConfigError `data_folder_in_use`."""
    world = real_world()
    member = membership.load_membership(home)
    check_name(name, "the data set")
    data = read_file(path, "the record", MAX_RECORD)
    found = spending_record.read(data, member.trust.last.coordinator, member.federation_id, member.org_id)
    entries = spending_record.reservations(found, name)
    check_writable(home)
    with FolderLock(home):
        store = open_store(home, journal_key(home, passphrase), world.clock, world.entropy)
        try:
            fresh = store.carry(name, entries, hashlib.sha256(data).digest(), found.as_of_s)
            ledger = budget.fold(row.entry for row in store.ledger_rows() if row.dataset == name)
            limit = store.lifetimes().get(name)
        finally:
            store.close()
    delta = limit.delta if limit is not None else spending_report.DEFAULT_DELTA
    when = datetime.fromtimestamp(found.as_of_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    spent = ledger.lifetime().lifetime_epsilon(delta)
    output.result(
        {
            "dataset": name,
            "attempts": len(entries),
            "new": fresh,
            "epsilon": spending_report.finite(spent),
            "delta": delta,
            "as_of_s": found.as_of_s,
        },
        [
            f"{name}: {len(entries)} attempts by the coordinator's record as of {when}, {fresh} of them new here",
            f"epsilon {spending_report.shown(spent)} over all runs, at delta {delta:g}, from the next start of "
            "`fedveil participate` on",
        ],
    )
    if not entries:
        output.warn(f"by the record {name} spent nothing; if it did under another name, carry that name too")
