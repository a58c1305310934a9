"""A participant that also writes down its own quantised integers: `python -m tests.recording_participant`, for tests.

It is the production participant with a bench around the production bench; what it records never leaves its folder and
is the only source of the expected sums.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from fedveil_cli import participating
from fedveil_cli.main import main
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import Manifest, Purpose
from fedveil_common.noise_links import Coins
from fedveil_common.plan import Plan
from fedveil_common.provenance import Lineage
from fedveil_common.secret import Seed
from fedveil_participant.ports import Bench
from fedveil_participant.store import ParticipantStore
from numpy.typing import NDArray

_PLAIN = participating.table_bench


class RecordingBench:
    """Hands everything to the real bench; keeps each encoded vector under its purpose and step."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def accept(self, plan: Plan) -> bytes:
        return self._bench.accept(plan)

    def sketch(self, version: bytes) -> bytes:
        return self._bench.sketch(version)

    def rows(self, plan: Plan, version: bytes) -> int:
        return self._bench.rows(plan, version)

    def contribution(
        self, plan: Plan, version: bytes, purpose: Purpose, lineage: Lineage | None, fresh: Callable[[], Seed]
    ) -> Sequence[NDArray[np.float64]]:
        return self._bench.contribution(plan, version, purpose, lineage, fresh)

    def encode(self, plan: Plan, manifest: Manifest, values: NDArray[np.float64], coins: Coins, start: int) -> Signed:
        made = self._bench.encode(plan, manifest, values, coins, start)
        assert start == 0, "a test's vector is one piece"
        data = made.astype("<i8").tobytes()
        path = self._folder / f"{manifest.purpose.value}-{manifest.step}.i64"
        # encoded again after a crash: the same vector, or two would be masked under one T2
        if path.exists():
            assert path.read_bytes() == data
        path.write_bytes(data)
        return made


def recording_bench(datasets: Mapping[str, Path], store: ParticipantStore) -> Bench:
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    return RecordingBench(_PLAIN(datasets, store), home / "recorded")


if __name__ == "__main__":
    participating.table_bench = recording_bench
    sys.exit(main())
