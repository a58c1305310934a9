"""Final models at rest: one sealed file in `models/` for each run that ended with one; the row of the end names it.

Promise: a model is durable before the row that names it; it opens as the model of its run and of no other; whoever has
the folder and not the journal key sees how large it is. A home of an earlier release kept models in clear: whoever
holds the home's lock seals them (`seal_what_is_in_clear`), and until then they are read as they are.
"""

import hashlib
from pathlib import Path

from fedveil_common import durable
from fedveil_common.database import Database
from fedveil_common.errors import StorageError
from fedveil_common.ids import RunId
from fedveil_common.ports import Entropy
from fedveil_common.sealedfile import SealedFiles, sealed_head
from fedveil_common.secret import Seed

from fedveil_participant.store import tables

FOLDER = "models"


class Models:
    """Any thread. Every method may raise StorageError.

    Whoever only reads beside the holder of the home's lock says `sweep=False`, and calls neither `keep_only` nor
    `seal_what_is_in_clear`: a half-written file may be the holder's.
    """

    def __init__(self, home: Path, key: Seed, entropy: Entropy, *, sweep: bool = True) -> None:
        self._folder = home / FOLDER
        self._files = SealedFiles(self._folder, key, entropy, sweep=sweep)

    def put(self, run_id: RunId, model_file: bytes) -> bytes:
        """The model is durable; its name, 32 bytes."""
        return self._files.write([memoryview(model_file)], len(model_file), *_context(run_id))

    def get(self, run_id: RunId, name: bytes) -> bytes:
        """The model file. StorageError `sealed_file_missing`; IntegrityError `sealed_file_damaged`, `aead_failed`."""
        in_clear = self._in_clear(name)
        if in_clear is not None:
            return in_clear
        with self._files.open(name, *_context(run_id)) as file:
            return file.read(0, file.length)

    def keep_only(self, names: frozenset[bytes]) -> None:
        """Removes every other file (left by a crash between file and row)."""
        self._files.keep_only(names)

    def seal_what_is_in_clear(self, database: Database) -> int:
        """Seals the models of an earlier release, one after the other, each with its row; returns how many. One that
        cannot be read, or not be written for want of space, stays as it is until the next time: it keeps nobody from
        starting.
        """
        with database.read() as connection:
            rows = [row for row in tables.ENDS.select(connection) if row.blob("model")]
        sealed = 0
        for row in rows:
            run_id, before = RunId(row.text("run_id")), row.blob("model")
            try:
                model_file = self._in_clear(before)
                if model_file is None:
                    continue
                name = self.put(run_id, model_file)
            except StorageError:
                continue
            with database.write() as connection:
                tables.ENDS.change(connection, {"run_id": run_id}, model=name)
            self._files.delete(before)
            sealed += 1
        return sealed

    def _in_clear(self, name: bytes) -> bytes | None:
        """A model of an earlier release: its name is the SHA-256 of what is in the file. A sealed one is told by its
        first bytes, so that a start does not read through all of them.
        """
        path = self._folder / name.hex()
        with durable.storing(path):
            try:
                with path.open("rb") as file:
                    head = file.read(len(sealed_head(name)))
                    if head == sealed_head(name):
                        return None
                    found = head + file.read()
            except FileNotFoundError:
                return None
        return found if hashlib.sha256(found).digest() == name else None


def _context(run_id: RunId) -> tuple[bytes, bytes]:
    return b"model", run_id.encode()
