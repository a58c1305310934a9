"""The countersignatures that this participant made, one small file for each run in the folder `countersignatures`.

    RUN.signed   made, and sent whenever the coordinator asks again      RUN.held   made, and waits for the owner's word

Promise: a file is durable before its content leaves; what is held leaves only after `decide`, or once it is made anew
without its owner being asked; there are never both files of a run. It is no secret: whoever has the released model has
it too. Any thread or process.
"""

from pathlib import Path

from fedveil_common import durable, wire
from fedveil_common.errors import ConfigError
from fedveil_common.ids import RunId, check_name
from fedveil_common.messages import SignedBlob

FOLDER = "countersignatures"


class CountersignatureFiles:
    """Methods may raise StorageError; IntegrityError has no part here: what was damaged is refused by its reader."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def _path(self, run_id: str, suffix: str) -> Path:
        return self._folder / f"{check_name(run_id, 'the run')}{suffix}"

    def put(self, run_id: RunId, blob: SignedBlob, *, held: bool) -> None:
        """A countersignature is durable. What its owner decided about an earlier copy stays."""
        durable.make_folder(self._folder)
        signed, waits = self._path(run_id, ".signed"), self._path(run_id, ".held")
        if signed.exists():
            durable.remove(waits)  # left by an earlier release: what may leave waits for nobody
            return
        if not held and not waits.exists():
            durable.write_file(signed, wire.encode_blob(blob))
            return
        durable.write_file(waits, wire.encode_blob(blob))
        if not held:
            self._let_go(run_id)

    def get(self, run_id: RunId) -> tuple[SignedBlob, ...]:
        """The countersignature of a run that may leave; empty if there is none. PeerError `malformed` if damaged."""
        path = self._path(run_id, ".signed")
        with durable.storing(path):
            return (wire.parse_blob(path.read_bytes()),) if path.exists() else ()

    def held(self, run_id: RunId) -> bool:
        """Whether the owner is still to decide."""
        return self._path(run_id, ".held").exists() and not self._path(run_id, ".signed").exists()

    def waiting(self) -> list[str]:
        """The runs whose countersignatures are held, sorted."""
        found = sorted(path.stem for path in self._folder.glob("*.held")) if self._folder.exists() else []
        return [run for run in found if self.held(RunId(run))]

    def decide(self, run_id: RunId, *, sign: bool) -> None:
        """The owner lets the countersignature go, or drops it. ConfigError `not_held` if none waits."""
        path = self._path(run_id, ".held")
        if not self.held(run_id):
            raise ConfigError(
                "not_held",
                f"no countersignature of run {run_id} waits here",
                next_step="`fedveil model countersign` without a run lists what waits",
            )
        if sign:
            self._let_go(run_id)
        else:
            durable.remove(path)

    def _let_go(self, run_id: RunId) -> None:
        """What was held may leave: the one file becomes the other, so that no crash leaves both."""
        path = self._path(run_id, ".held")
        with durable.storing(path):
            path.rename(self._path(run_id, ".signed"))
        durable.sync_folder(self._folder)
