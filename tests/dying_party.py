"""A participant or coordinator that ends itself by SIGKILL at a record of its journal: `python -m tests.dying_party`.

The production command with its journal wrapped; DIES_AT="NUMBER MOMENT" counts the records of this process from 0.
MOMENT: `before` (the transaction is written and about to be committed) or `after` (it is durable, and nothing that
follows from it was done). A participant writes down its own quantised integers, as `recording_participant` does, and in
SECRETS_TO what of its stages must never be anywhere else: mask key, channel key and kappa, in hex.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fedveil_cli import participating
from fedveil_cli.main import main
from fedveil_coordinator.store.journal import CoordinatorJournal
from fedveil_participant.stages import Acked, Advertised, Encoding, Shared
from fedveil_participant.store import ParticipantStore

from tests.recording_participant import recording_bench


def die(*_: object) -> None:
    """No handler runs, no buffer is written."""
    os.kill(os.getpid(), signal.SIGKILL)


def confess(*arguments: object) -> None:
    """Write the secrets of a stage down."""
    for stage in (one for one in arguments if isinstance(one, Advertised | Shared | Acked | Encoding)):
        found = [
            getattr(stage, name).expose().hex() for name in ("mask_key", "channel_key", "kappa") if hasattr(stage, name)
        ]
        with Path(os.environ["SECRETS_TO"]).open("a") as file:
            file.writelines(f"{secret}\n" for secret in found)


def dying(write: Callable[..., Any], number: int, moment: str) -> Callable[..., Any]:
    """The method of a journal that writes a record; the process ends at the record of this number."""
    left = [number]

    def counted(journal: Any, *arguments: Any) -> None:
        confess(*arguments)
        left[0] -= 1
        if left[0] == -1 and moment == "before":
            sa.event.listen(journal._database.engine, "commit", die)
        write(journal, *arguments)
        if left[0] == -1:
            die()

    return counted


if __name__ == "__main__":
    number, moment = os.environ["DIES_AT"].split()
    owner, name = (ParticipantStore, "save") if "participate" in sys.argv else (CoordinatorJournal, "append")
    setattr(owner, name, dying(getattr(owner, name), int(number), moment))
    participating.table_bench = recording_bench
    sys.exit(main())
