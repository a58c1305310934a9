"""`python -m tests.tapped_command`: the command line with a tap at the gate, for tests that look for planted values.

TAP: every byte that the gate lets through is appended to this file. LEAK: the bench hands over, as its update, bytes of
its own table (`record`), or integers that nothing is known of (any other word): the worst training code there could be,
under the production's protection. BARE: this process masks and unmasks nothing, as the demo's unprotected runs.
"""

import base64
import csv
import hashlib
import os
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from fedveil_cli import demo_unprotected, participating
from fedveil_cli.main import main
from fedveil_common import gate
from fedveil_common import layout as layouts
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import Manifest, Purpose
from fedveil_common.noise_links import Coins
from fedveil_common.plan import Plan
from fedveil_common.provenance import Lineage
from fedveil_common.secret import Seed
from fedveil_participant import enrolment_client
from fedveil_participant.ports import Bench
from fedveil_participant.store import ParticipantStore
from numpy.typing import NDArray

TAP, LEAK, BARE = "FEDVEIL_TEST_TAP", "FEDVEIL_TEST_LEAK", "FEDVEIL_TEST_BARE"
RECORD = "record"
CELLS = ("age", "lactate", "ward")


def canaries(cells: Mapping[str, str]) -> dict[str, bytes]:
    """What of a record is looked for: its text, base64 of it, its numbers as float64 and float32, little-endian; and
    integers of the grid made from it, as packed words.
    """
    numbers = [float(cells[name]) for name in CELLS[:2]]
    text = cells["ward"].encode()
    return {
        "text": text,
        "base64": base64.b64encode(text),
        "float64": struct.pack("<2d", *numbers),
        "float32": struct.pack("<2f", *numbers),
        "grid": hashlib.sha256(text).digest()[:16],
    }


def planted(table: Path) -> dict[str, bytes]:
    """The canaries of the first record of a table."""
    with table.open(newline="") as stream:
        return canaries(next(csv.DictReader(stream)))


class LeakingBench:
    """A bench whose update is the record. `encode` places bytes in the low 32 bits of the integers, which is how they
    lie in a packed input of a ring of 32 bits and more.
    """

    def __init__(self, bench: Bench, table: Path, what: str) -> None:
        self._bench, self._table, self._what = bench, table, what

    def accept(self, plan: Plan) -> bytes:
        return self._bench.accept(plan)

    def sketch(self, version: bytes) -> bytes:
        return self._bench.sketch(version)

    def rows(self, plan: Plan, version: bytes) -> int:
        return self._bench.rows(plan, version)

    def contribution(
        self, plan: Plan, version: bytes, purpose: Purpose, lineage: Lineage | None, fresh: Callable[[], Seed]
    ) -> Sequence[NDArray[np.float64]]:
        shape = layouts.layout_for(plan, purpose, 0 if lineage is None else lineage.step)
        return [np.ones(shape.length)]

    def encode(self, plan: Plan, manifest: Manifest, values: NDArray[np.float64], coins: Coins, start: int) -> Signed:
        made = self._bench.encode(plan, manifest, values, coins, start)
        assert start == 0, "a test's vector is one piece"
        where = layouts.layout_for(plan, manifest.purpose, manifest.step).slices().get(layouts.UPDATE)
        if where is None:
            return made
        made[where] = np.frombuffer(self._bytes(4 * (where.stop - where.start)), dtype="<u4").astype(made.dtype)
        return made

    def _bytes(self, count: int) -> bytes:
        if self._what != RECORD:
            return hashlib.shake_256(self._what.encode()).digest(count)
        laid = b"".join(one + bytes(-len(one) % 4) for one in planted(self._table).values())
        assert len(laid) <= count, "the record does not fit into the update"
        return laid + bytes(count - len(laid))


def leaking_bench(datasets: Mapping[str, Path], store: ParticipantStore) -> Bench:
    return LeakingBench(_PLAIN(datasets, store), datasets["visits"], os.environ[LEAK])


def tap(file: Path) -> None:
    """From now on what passes the gate is in `file` too: what leaves is what the serialiser returned."""
    stream = file.open("ab", buffering=0)
    passing, asking, answer = gate.Gate._pass, gate.https, enrolment_client.gate.https

    def tapped(self: gate.Gate, kind: str) -> Callable[[gate.Outgoing], bytes]:
        serialise = passing(self, kind)

        def both(message: gate.Outgoing) -> bytes:
            data = serialise(message)
            stream.write(data)
            return data

        return both

    def https(outbox: gate.Outbox, kind: str, body: bytes) -> tuple[str, str]:
        stream.write(body)
        return asking(outbox, kind, body)

    assert answer is asking
    gate.Gate._pass, gate.https = tapped, https  # type: ignore[method-assign]


_PLAIN = participating.table_bench

if __name__ == "__main__":
    if TAP in os.environ:
        tap(Path(os.environ[TAP]))
    if LEAK in os.environ:
        participating.table_bench = leaking_bench
    if BARE in os.environ:
        demo_unprotected.remove_protection()
    sys.exit(main())
