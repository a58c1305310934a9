"""What a holder keeps of keys of Paillier protection in its home: one sealed file for each thing and key id.

paillier/KEY-ID.ceremony   a ceremony under way, with the seed of all that it draws
paillier/KEY-ID.refresh    a refresh under way, likewise
paillier/KEY-ID.key        the holder's seeds in the newest epoch, with the terms
paillier/KEY-ID.said       the messages of the last ceremony or refresh that ended, to be sent again
paillier/KEY-ID.pin        which key a participant encrypts under
paillier/KEY-ID.record     the public record of that key
paillier/KEY-ID.claims     which runs its newest epoch served

Promise: a file is whole and durable or not there; without the journal key it shows its size alone, and it opens as
nothing else than what it is called. Replacing or erasing one unlinks the old ciphertext; a copy of the disk from before
still has it. A file that somebody put back from such a copy is not recognised. Hold the `FolderLock` of the home.
"""

import enum
from pathlib import Path

from fedveil_common import durable
from fedveil_common.errors import IntegrityError, StorageError
from fedveil_common.ids import check_name
from fedveil_common.ports import Entropy
from fedveil_common.sealer import Sealer
from fedveil_common.secret import Secret, Seed

FOLDER = "paillier"


class Thing(enum.Enum):
    """What a file holds; its value is the end of the file's name."""

    CEREMONY = "ceremony"
    REFRESH = "refresh"
    KEY = "key"
    SAID = "said"
    PIN = "pin"
    RECORD = "record"
    CLAIMS = "claims"


class HolderFiles:
    """The folder `paillier/` of a home, which is made when the first file is written."""

    def __init__(self, home: Path, key: Seed, entropy: Entropy) -> None:
        """`key`: the journal key."""
        self._folder = home / FOLDER
        self._sealer = Sealer(key, entropy)
        if self._folder.is_dir():
            durable.sweep(self._folder)

    def ids(self, thing: Thing) -> tuple[str, ...]:
        """The key ids of which there is such a file."""
        return tuple(sorted(path.stem for path in self._folder.glob(f"*.{thing.value}")))

    def read(self, thing: Thing, key_id: str) -> Secret | None:
        """What was written; None if nothing was. StorageError `holder_file_damaged`."""
        path = self._path(thing, key_id)
        with durable.storing(path):
            if not path.exists():
                return None
            sealed = path.read_bytes()
        try:
            return Secret(self._sealer.open(sealed, *_name(thing, key_id)))
        except IntegrityError as error:
            raise StorageError(
                "holder_file_damaged",
                f"{path} does not open under the journal key of this home",
                not_done="nothing of it was used and nothing was sent",
                next_step="check the disk; a key that is lost is made anew with the other holders, under another id",
            ) from error

    def write(self, thing: Thing, key_id: str, content: Secret) -> None:
        """`content` is durable, in the place of what was there."""
        path = self._path(thing, key_id)
        durable.make_folder(self._folder)
        durable.write_file(path, self._sealer.seal(content.expose(), *_name(thing, key_id)))

    def erase(self, thing: Thing, key_id: str) -> None:
        """The file is gone, durably; no error if it was not there."""
        if self._folder.is_dir():
            durable.remove(self._path(thing, key_id))

    def _path(self, thing: Thing, key_id: str) -> Path:
        return self._folder / f"{check_name(key_id, 'the key id')}.{thing.value}"


def _name(thing: Thing, key_id: str) -> tuple[bytes, ...]:
    return b"paillier", thing.value.encode(), key_id.encode()
