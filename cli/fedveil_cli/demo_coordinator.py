"""The demo's coordinator process: the production one, which also keeps a copy of every upload as it came out of TLS.

Run as `python -m fedveil_cli.demo_coordinator HOME PASSPHRASE_FILE COPIES`. It exists so that the demo can show what a
curious coordinator holds in its hands; `fedveil serve` keeps nothing of the kind.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.ports import LeafSpool
from fedveil_common.secret import Passphrase

from fedveil_cli.service_commands import configure_logging, software
from fedveil_cli.serving import serve
from fedveil_cli.world import real_world


@dataclass(frozen=True, slots=True)
class Copy:
    """Which upload a copy is of: a protected input, or with a quorum a holder's partial decryptions."""

    run_id: str
    round: int
    attempt: int
    org_id: str
    quorum: str = ""

    @property
    def name(self) -> str:
        """Of the file: RUN.ROUND-ATTEMPT.ORG.packed, or RUN.ROUND-ATTEMPT.ORG.INDICES.answer."""
        place = f"{self.run_id}.{self.round}-{self.attempt}.{self.org_id}"
        return f"{place}.{self.quorum}.answer" if self.quorum else f"{place}.packed"

    @classmethod
    def of(cls, name: str) -> Self:
        """The copy with this name."""
        run_id, place, org_id, *quorum, _ = name.split(".")
        number, attempt = map(int, place.split("-"))
        return cls(run_id, number, attempt, org_id, *quorum)


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
    """Serve `home` until SIGTERM, copying every upload into `copies`."""
    configure_logging()
    copies.mkdir(exist_ok=True)

    def wrap(key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...], spool: LeafSpool) -> LeafSpool:
        copy = Copy(key.run_id, key.round, key.attempt, org_id, "-".join(map(str, quorum)))
        return CopyingSpool(spool, copies / copy.name)

    passphrase = Passphrase(passphrase_file.read_bytes().strip())
    serve(home, passphrase, real_world(), software(), lambda where: None, wrap)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
