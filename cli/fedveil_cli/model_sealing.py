"""`model seal` and `model rewrap`: a model on its way to somebody else's machine.

Promise: what is sealed is a model file by its header and length; no signature is checked, so that it takes the memory
of a few chunks. The status list travels in clear beside the sealed file: it is signed, and no secret.
What reads a list is loaded where there is one: without arithmetic the program starts in half the time.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedveil_common.exchange import sealed_model
from fedveil_common.sealing import files

from fedveil_cli import sealing_commands
from fedveil_cli.companions import check_places, companion
from fedveil_cli.output import Output
from fedveil_cli.sealing_commands import check_out, reading, real_path, wrapping
from fedveil_cli.world import real_world

if TYPE_CHECKING:
    from fedveil_cli.model_status import Found


def seal(
    file: pathlib.Path,
    out: pathlib.Path,
    to: Sequence[pathlib.Path],
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`model seal`, with a copy of the status list that stands beside the model.

    PeerError `bad_model_file`, `bad_document`, `wrong_federation`; PolicyRefusal `model_withdrawn` by that list, whose
    signature is not checked either: who changes it can only keep this copy from being made. Those of `data seal`.
    """
    check_places(out, file, *to, passphrase_file)
    with reading(file) as source:
        check_out(source, out, *to, passphrase_file)
        length = os.fstat(source.fileno()).st_size
        manifest = sealed_model.manifest_of(source, length)
        listed = _carried(file)
        if listed is not None:
            from fedveil_cli import model_status

            model_status.check_carried(listed, manifest)
        source.seek(0)
        subject = sealed_model.subject_of(manifest)
        wrap = wrapping(to, passphrase_file, subject, output)
        made = files.seal(source, length, real_path(out), subject, wrap, real_world().entropy)
    beside = _carry(listed, out)
    what = f"sealed {length} bytes of {file.name}; its signatures were not checked"
    sealing_commands.say(made, out, what, output, {"status_file": str(beside) if beside else None})


def rewrap(
    file: pathlib.Path,
    out: pathlib.Path,
    to: Sequence[pathlib.Path],
    key: pathlib.Path | None,
    reencrypt: bool,
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`model rewrap`: as `data rewrap`, for sealed models; the status list goes along. Which model of a run is in the
    file, only who opens it knows: no stage is asked for here.
    """
    check_places(out, file, key, *to, passphrase_file)
    listed = _carried(file)
    sealing_commands.rewrap(file, out, to, key, reencrypt, passphrase_file, output, sealed_model.KIND)
    _carry(listed, out)


def _carried(file: pathlib.Path) -> "Found | None":
    if not os.path.exists(companion(file)):
        return None
    from fedveil_cli import model_status

    return model_status.carried(file)


def _carry(listed: "Found | None", out: pathlib.Path) -> pathlib.Path | None:
    if listed is None:
        return None
    from fedveil_cli import model_status

    return model_status.carry(listed, out)
