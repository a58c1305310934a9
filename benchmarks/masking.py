"""What masking costs on one core: the limit of the machine, the floor of the arithmetic, and the product's own path.

    python benchmarks/masking.py [--coordinates 1000000] [--peers 9] [--repeats 15] [--json]

No network, no disk, one thread. Each repetition measures everything in turn, so that ratios are of neighbours in time;
what is printed are medians over the repetitions, of wall time and of CPU time, and ratios are medians of the ratios of
CPU time (the machine may be shared).

- `limit`: AES-256-CTR into a buffer of 256 KiB that exists, added to words that are in the cache. Nothing else.
- `expansion`: the same amount by the product: keys derived (`masks.self_key`), streams set up, added to one vector
  (`masks.streams`), at d = --coordinates and at d = 10,000. Goal: at least 0.85 of the limit.
- `floor`: one participant's vector by bare loops of numpy and AES, the parts measured one after the other and added up:
  quantise with stochastic rounding (53 random bits a coordinate), one mask for each peer and one of its own, pack.
- `protect`: the product's fused pass (`protecting.protect` with `update.encode`) over the same vector. Its leaf hashes
  are replaced by nothing here and stand beside it as `leaf_hash`; `protect_with_hash` is the whole. Goal: at most 1.3
  floors.
- `unmask`: the coordinator's `opening.open_leaves` over the inputs of peers + 1 members, none or 3 dropped; inputs are
  unpacked from memory, the sum is packed and hashed.

--peers is 8 to 15: with 16-bit values the ring then has 20 bits, which is what the bare loop packs.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from fedveil_common import layout, transcript
from fedveil_common.ids import OrgId
from fedveil_common.masking import checksum, masks, packing, ring
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.secret import Seed
from fedveil_coordinator import opening
from fedveil_participant import protecting, update
from numpy.typing import NDArray

CHUNK = 256 * 1024
SMALL = 10_000
VALUE_BITS = 16
T2, T3 = b"\x02" * 32, b"\x03" * 32
GOALS = {"expansion_of_limit": 0.85, "protect_of_floor": 1.3}

Cost = tuple[float, float]
"""(wall seconds, CPU seconds)."""


def cost(work: Callable[[], object]) -> Cost:
    """What one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def stream() -> Any:
    """A keystream under a fresh key."""
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()


# --- bare loops -------------------------------------------------------------------------------------------------------


def bare_expand(words: int, streams: int) -> None:
    """`streams` masks of `words` words into words that stay in the cache."""
    zeros, buffer = memoryview(bytes(CHUNK)), bytearray(CHUNK)
    drawn, held = np.frombuffer(buffer, dtype="<u4"), np.zeros(CHUNK // 4, dtype=np.uint32)
    contexts = [stream() for _ in range(streams)]
    for start in range(0, 4 * words, CHUNK):
        size = min(CHUNK, 4 * words - start)
        for context in contexts:
            context.update_into(zeros[:size], buffer)
            part = held[: size // 4]
            np.add(part, drawn[: size // 4], out=part)


def bare_quantise(values: NDArray[np.float64], scale: float, limit: int, out: NDArray[np.int32]) -> None:
    """floor(v * scale + u) with u uniform of 53 bits, clamped."""
    step = transcript.LEAF_COORDINATES
    zeros, buffer = memoryview(bytes(8 * step)), bytearray(8 * step)
    random, scaled, context = np.frombuffer(buffer, dtype="<u8"), np.empty(step), stream()
    shifted, uniform = np.empty(step, dtype=np.uint64), np.empty(step)
    for start in range(0, len(values), step):
        piece = values[start : start + step]
        n = len(piece)
        context.update_into(zeros[: 8 * n], buffer)
        np.right_shift(random[:n], np.uint64(11), out=shifted[:n])
        np.multiply(shifted[:n].view(np.int64), 2.0**-53, out=uniform[:n])
        np.multiply(piece, scale, out=scaled[:n])
        np.clip(scaled[:n], -limit, limit, out=scaled[:n])
        np.add(scaled[:n], uniform[:n], out=scaled[:n])
        np.floor(scaled[:n], out=scaled[:n])
        np.copyto(out[start : start + n], scaled[:n], casting="unsafe")


def bare_pack(words: NDArray[np.uint32]) -> int:
    """The low 20 bits of each word, leaf by leaf: 16 in two bytes, 4 and 4 side by side in one. How many bytes."""
    written = 0
    for start in range(0, len(words), transcript.LEAF_COORDINATES):
        piece = words[start : start + transcript.LEAF_COORDINATES]
        low = piece.astype("<u2")
        high = (piece >> np.uint32(16)).astype(np.uint8)
        high &= np.uint8(15)
        half = -(-len(high) // 2)
        high[: len(high) - half] |= high[half:] << np.uint8(4)
        written += low.nbytes + half
    return written


# --- the product ------------------------------------------------------------------------------------------------------


def product_expand(words: int, seeds: list[Seed], org: OrgId) -> None:
    """The same streams as the product makes them, into one vector."""
    vector = np.zeros(words, dtype=np.uint32)
    keys = [masks.MaskKey(Seed(masks.self_key(T2, seed, org)), subtract=bool(at % 2)) for at, seed in enumerate(seeds)]
    masks.streams(keys, 0, 32).apply(vector)


@contextmanager
def without_leaf_hash() -> Iterator[None]:
    """`protecting` sees a transcript whose input leaves have no hash."""
    whole = protecting.transcript
    protecting.transcript = SimpleNamespace(input_leaf=lambda t2, org, index, data: b"")  # type: ignore[assignment]
    try:
        yield
    finally:
        protecting.transcript = whole


class Vector:
    """One participant's vector of d coordinates in the ring of a cohort, with its masks."""

    def __init__(self, coordinates: int, peers: int) -> None:
        self.d, self.org, self.members = coordinates, OrgId("org-000"), peers + 1
        self.bits = ring.smallest(self.members, VALUE_BITS)
        top = (1 << (VALUE_BITS - 1)) - 1
        self.layout = layout.Layout((layout.Block(layout.UPDATE, coordinates, 5.0, top / 5.0),))
        self.values = np.sin(np.arange(coordinates, dtype=np.float64)) / np.sqrt(coordinates)
        self.scale, self.limit = self.layout.blocks[0].scale, self.layout.blocks[0].limit
        self.rounding = os.urandom(32)
        self.seeds = [Seed(os.urandom(32)) for _ in range(self.members)]
        self.keys = [masks.MaskKey(Seed(os.urandom(32)), subtract=bool(at % 2)) for at in range(self.members)]
        self.integers = np.empty(coordinates, dtype=np.int32)
        self.leaves: dict[int, bytearray] = {}

    def protect(self) -> None:
        """Encode, mask, pack and (unless it is replaced) hash."""

        def encode(start: int, count: int) -> ring.Signed:
            piece = self.values[start : start + count]
            return update.encode(self.layout, piece, self.rounding, VALUE_BITS, start).integers

        protecting.protect(self.d, self.bits, encode, self.keys, T2, self.org, self.leaves.__setitem__)

    def weigh(self) -> None:
        """The checksum of the vector's integers."""
        key = Seed(bytes(32))
        for start in range(0, self.d, 4 * transcript.LEAF_COORDINATES):
            checksum.weigh(key, start, self.integers[start : start + 4 * transcript.LEAF_COORDINATES])

    def hash_leaves(self) -> None:
        """The hash of every leaf that `protect` wrote."""
        for index, data in self.leaves.items():
            transcript.input_leaf(T2, self.org, index, data)

    def unmask(self, dropped: int) -> Callable[[], object]:
        """The opening of a sum of the members' inputs, `dropped` of them left out."""
        survivors = tuple(OrgId(f"org-{at:03}") for at in range(self.members - dropped))
        streams = [masks.MaskKey(Seed(os.urandom(32)), subtract=True) for _ in range(dropped * len(survivors))]
        keys = masks.opening_keys([os.urandom(32) for _ in survivors], streams)
        task = opening.Unmasking(T3, self.d, self.bits, survivors, keys)

        def read(org: OrgId, index: int) -> ring.Ring:
            return packing.unpack(self.leaves[index], leaf_length(self.d, index), self.bits)

        return lambda: opening.open_leaves(task, read, lambda index, data: None)


def measure(coordinates: int, peers: int, repeats: int, dropped: int = 3) -> dict[str, object]:
    """All parts, `repeats` times in turn, after one turn that is not counted."""
    vector, streams = Vector(coordinates, peers), peers + 1
    small = max(1, coordinates // SMALL)
    found: dict[str, list[Cost]] = {}
    for turn in range(repeats + 1):
        parts: dict[str, Callable[[], object]] = {
            "limit": lambda: bare_expand(coordinates, streams),
            "expansion": lambda: product_expand(coordinates, vector.seeds, vector.org),
            "expansion_small": lambda: [product_expand(SMALL, vector.seeds, vector.org) for _ in range(small)],
            "floor_quantise": lambda: bare_quantise(vector.values, vector.scale, vector.limit, vector.integers),
            "floor_masks": lambda: bare_expand(coordinates, streams),
            "floor_pack": lambda: bare_pack(vector.integers.view(np.uint32)),
            "protect": vector.protect,
        }
        costs = {}
        with without_leaf_hash():
            for name, work in parts.items():
                costs[name] = cost(work)
        costs["protect_with_hash"] = cost(vector.protect)
        costs["leaf_hash"] = cost(vector.hash_leaves)
        costs["checksum"] = cost(vector.weigh)
        costs["unmask_0_dropped"] = cost(vector.unmask(0))
        costs[f"unmask_{dropped}_dropped"] = cost(vector.unmask(dropped))
        costs["floor"] = tuple(
            sum(costs[f"floor_{part}"][at] for part in ("quantise", "masks", "pack")) for at in (0, 1)
        )
        if turn:
            for name, one in costs.items():
                found.setdefault(name, []).append(one)
    return {
        "coordinates": coordinates,
        "peers": peers,
        "repeats": repeats,
        "ring_bits": vector.bits,
        "packed_bytes": sum(len(leaf) for leaf in vector.leaves.values()),
        "leaves": leaf_count(coordinates),
        "wall_s": {name: statistics.median(one[0] for one in costs) for name, costs in found.items()},
        "cpu_s": {name: statistics.median(one[1] for one in costs) for name, costs in found.items()},
        "words_per_s": {
            "limit": words_rate(found["limit"], coordinates * streams),
            "expansion": words_rate(found["expansion"], coordinates * streams),
            "expansion_small": words_rate(found["expansion_small"], small * SMALL * streams),
        },
        "expansion_of_limit": ratio(found["limit"], found["expansion"]),
        "expansion_small_of_limit": ratio(found["limit"], found["expansion_small"]) * small * SMALL / coordinates,
        "protect_of_floor": ratio(found["protect"], found["floor"]),
        "goals": GOALS,
    }


def words_rate(costs: list[Cost], words: int) -> float:
    """Words in a second of CPU time, by the median."""
    return words / statistics.median(one[1] for one in costs)


def ratio(over: list[Cost], under: list[Cost]) -> float:
    """The median of the ratios of neighbours, in CPU time."""
    return statistics.median(a[1] / b[1] for a, b in zip(over, under, strict=True))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinates", type=int, default=1_000_000)
    parser.add_argument("--peers", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.coordinates, arguments.repeats) < 1 or not 8 <= arguments.peers <= 15:
        parser.error("--coordinates and --repeats are at least 1, --peers is 8 to 15")
    result = measure(arguments.coordinates, arguments.peers, arguments.repeats)
    if arguments.json:
        print(json.dumps(result))
        return 0
    for name, value in result.items():
        if isinstance(value, dict):
            for part, figure in value.items():
                shown = f"{figure / 1e9:.3f} G" if name == "words_per_s" else f"{figure:.5f}"
                print(f"{name + ' ' + part:<34} {shown}")
        else:
            print(f"{name:<34} {value:.3f}" if isinstance(value, float) else f"{name:<34} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
