"""`data forget`: a data set leaves the home, and a signed receipt says what was erased and what stays.

Promise: nothing that was made from its rows is left: snapshots, updates, inputs. What says that something was opened or
spent stays, because without it the same rows could be summed again; so do objections. Refused while a participant runs
on the home or a run over the data set is open. Deleting is unlinking: what a disk keeps of it is under keys of this
home.
"""

import pathlib

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import PolicyRefusal
from fedveil_common.secret import Passphrase
from fedveil_participant import membership
from fedveil_participant.store import Forgotten

from fedveil_cli import data_home
from fedveil_cli.files import write_file
from fedveil_cli.output import Output
from fedveil_cli.world import real_world

LABEL = "data-forgotten"
"""Under which a receipt is signed, over the organisation's id and the bytes of `statement`."""


def forget(
    home: pathlib.Path, name: str, out: pathlib.Path | None, passphrase: Passphrase | None, output: Output
) -> None:
    """`data forget NAME [--out FILE]`. ConfigError `unknown_dataset`, `data_folder_in_use`; PolicyRefusal
    `dataset_in_run`; SealedError `no_protocol_key`.
    """
    world = real_world()
    member = membership.load_membership(home)
    with data_home.alone(home, name, passphrase, world) as store:
        data_home.registered(store, name)
        signing_key = store.protocol_key()
        if runs := store.open_runs(name):
            raise PolicyRefusal(
                "dataset_in_run",
                f"{name} is in a run that has not ended: {', '.join(map(str, runs))}",
                not_done="nothing was erased",
                next_step="let `fedveil participate` see its end, or ask the operator for `fedveil run abort`",
            )
        found = store.forget_dataset(name)
        body = jcs.dumps(_statement(member.federation_id, member.org_id, name, world.clock.wall_s(), found))
        receipt: dict[str, jcs.Json] = {
            "org": member.org_id,
            "statement": body.decode(),
            "sig": signing.sign_bytes(signing_key, LABEL, member.org_id.encode(), body).hex(),
        }
    if out is not None:
        write_file(out, "the receipt", jcs.dumps(receipt))
    output.result(
        {"receipt": receipt, "file": "" if out is None else str(out)},
        [
            f"{name} is forgotten: its registration, {found.snapshots} snapshots, {found.updates} updates",
            f"what remains: {found.spent} records of what was opened, {found.ledger} entries of its privacy ledger, "
            f"{found.excluded} persons excluded, {found.runs} runs with their models and answers, the trail, and logs "
            "of own trainers",
            "the file or table that it was registered from is yours: it was not touched",
            f"receipt: {jcs.dumps(receipt).decode()}",
        ],
    )


def _statement(federation: str, org: str, name: str, wall_s: float, found: Forgotten) -> dict[str, jcs.Json]:
    return {
        "federation": federation,
        "org": org,
        "dataset": name,
        "wall_s": wall_s,
        "erased": {"registration": found.registration, "snapshots": found.snapshots, "updates": found.updates},
        "remains": {
            "spent": found.spent,
            "ledger": found.ledger,
            "excluded": found.excluded,
            "runs": found.runs,
        },
    }
