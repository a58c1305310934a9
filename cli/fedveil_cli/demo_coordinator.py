"""The demo's coordinator process: the production one, which also keeps a copy of every upload as it came out of TLS.

Run as `python -m fedveil_cli.demo_coordinator HOME PASSPHRASE_FILE COPIES`. It exists so that the demo can show what a
curious coordinator holds in its hands; `fedveil serve` keeps nothing of the kind.
"""

import sys
from pathlib import Path

from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.ports import LeafSpool
from fedveil_common.secret import Passphrase

from fedveil_cli.service_commands import configure_logging, software
from fedveil_cli.serving import serve
from fedveil_cli.world import real_world


class CopyingSpool:
    """Hands everything on, and copies it to a file of its own."""

    def __init__(self, spool: LeafSpool, copy: Path) -> None:
        self._spool = spool
        self._copy = copy
        self._part = copy.with_name(f"{copy.name}.part")
        self._stream = self._part.open("ab" if spool.first_missing else "wb", buffering=0)

    @property
    def first_missing(self) -> int:
        """How many leaves came before."""
        return self._spool.first_missing

    def write(self, index: int, data: bytes | bytearray) -> None:
        """One verified leaf; an upload's come in order."""
        self._stream.write(data)
        self._spool.write(index, data)

    def finish(self) -> None:
        """The upload is complete."""
        self._part.replace(self._copy)
        self._spool.finish()

    def close(self) -> None:
        """The upload has ended, or goes on later."""
        self._stream.close()
        self._spool.close()


def main(home: Path, passphrase_file: Path, copies: Path) -> None:
    """Serve `home` until SIGTERM, copying uploads to COPIES/RUN.ROUND.ORG.packed."""
    configure_logging()
    copies.mkdir(exist_ok=True)

    def wrap(key: AttemptKey, org_id: OrgId, spool: LeafSpool) -> LeafSpool:
        return CopyingSpool(spool, copies / f"{key.run_id}.{key.round}.{org_id}.packed")

    passphrase = Passphrase(passphrase_file.read_bytes().strip())
    serve(home, passphrase, real_world(), software(), lambda where: None, wrap)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
