"""What a home keeps of an organisation's own trainers: which was approved for a plan, and what trainers printed.

Promise: an approval is on the disk before it counts. A log is for this operator alone (0600), holds no more than
LOG_FILE_BYTES and the one before it, and nothing of it is read by any program.
"""

import json
import os
import threading
from pathlib import Path

from fedveil_common.durable import make_folder, storing, sync_folder
from fedveil_common.errors import StorageError

LOG_FILE_BYTES = 8 * 1024 * 1024


class ApprovalFile:
    """`Approvals` in HOME/trainers/approved.json: {plan hash: digest}, in hex."""

    def __init__(self, home: Path) -> None:
        self._path = home / "trainers" / "approved.json"
        make_folder(self._path.parent)
        self._held = _read(self._path)
        self._writing = threading.Lock()

    def get(self, plan_hash: bytes) -> bytes | None:
        """The digest approved for a plan."""
        return self._held.get(plan_hash)

    def put(self, plan_hash: bytes, digest: bytes) -> None:
        """From now on this digest, durably. StorageError."""
        with self._writing:
            self._put({**self._held, plan_hash: digest})

    def _put(self, held: dict[bytes, bytes]) -> None:
        part = self._path.with_suffix(".part")
        with storing(self._path):
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
                json.dump({plan.hex(): found.hex() for plan, found in sorted(held.items())}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self._path)
        sync_folder(self._path.parent)
        self._held = held


class TrainerLogs:
    """HOME/trainers/NAME.log, and NAME.log.1 with what came before."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "trainers"
        make_folder(self._folder)

    def write(self, name: str, data: bytes) -> None:
        """Appends what the trainer `name` printed. StorageError."""
        path = self._folder / f"{name}.log"
        with storing(path):
            if path.exists() and path.stat().st_size + len(data) > LOG_FILE_BYTES:
                path.replace(path.with_suffix(".log.1"))
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as stream:
                stream.write(data)


def _read(path: Path) -> dict[bytes, bytes]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
        return {bytes.fromhex(plan): bytes.fromhex(digest) for plan, digest in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise StorageError(
            "approvals_damaged",
            f"{path} cannot be read as the record of approved trainers",
            not_done="no trainer was run",
            next_step="look at the file; without it the trainers of all plans count as not yet approved",
        ) from None
