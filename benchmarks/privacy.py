"""What differential privacy costs: how fast noise is drawn on one core, and what it does to accuracy.

    python benchmarks/privacy.py samplers [--draws 1000000] [--repeats 9] [--json]
    python benchmarks/privacy.py accuracy [--seeds 20] [--json]

`accuracy` is described in `private_accuracy`; exit code 1 if its goal is missed.

Of `samplers`: no network, no disk, one thread. Each repetition measures everything in turn, so that ratios are of
neighbours in time; what is printed are medians over the repetitions, of CPU time (the machine may be shared).

- `limit`: 64-bit words of AES-256-CTR into a buffer of 256 KiB that exists. A draw takes one, or two above one table.
- `gaussian-S`, `skellam-S`: --draws draws of standard deviation S by the product, `laplace-S` of scale S: into an array
  of their own, in one call. Goal for the discrete Gaussian: 3 million a second at every S.
- `search`: as many words of a table of sigma 1000 looked up by binary search alone, without the product's guide table.
- `exact-gaussian-8`: the exact sampler, which is for tests, 1000 times fewer draws.
- `table_s`: making each sampler, once, by wall time.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import private_accuracy
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from fedveil_common.crypto.prg import Streams
from fedveil_common.dp import exact, gaussian, laplace, skellam
from fedveil_common.dp.cumulative import Sampler

CHUNK = 256 * 1024
SCALES = (8, 64, 1000, 4000)
FEWER = 1000
GOALS = {"gaussian_draws_per_s": 3e6}


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


# --- samplers ---------------------------------------------------------------------------------------------------------


def bare_words(count: int) -> None:
    """`count` words of a keystream, over and over into one buffer."""
    zeros, buffer = memoryview(bytes(CHUNK)), bytearray(CHUNK)
    context = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    for start in range(0, 8 * count, CHUNK):
        context.update_into(zeros[: min(CHUNK, 8 * count - start)], buffer)


def bare_search(edges: np.ndarray, count: int) -> None:
    """`count` words, each searched among the upper words of a table."""
    words = np.empty(count, dtype="<u8")
    Streams([(os.urandom(32), False)], 0, 8).fill(words)
    np.searchsorted(edges, words)


def exact_draws(count: int) -> None:
    """`count` draws of sigma 8 by the exact sampler."""
    bits = exact.bits(os.urandom(32))
    for _ in range(count):
        exact.gaussian(Fraction(64), bits)


def samplers() -> tuple[dict[str, Sampler], dict[str, float]]:
    """Every sampler by name, and how long each took to make."""
    made, took = {}, {}
    for scale in SCALES:
        for name, make, parameter in (
            ("gaussian", gaussian.table, scale * scale),
            ("laplace", laplace.table, scale),
            ("skellam", skellam.table, scale * scale),
        ):
            begun = time.perf_counter()
            made[f"{name}-{scale}"] = make(parameter)
            took[f"{name}-{scale}"] = time.perf_counter() - begun
    return made, took


def measure_samplers(draws: int, repeats: int) -> dict[str, object]:
    """All samplers, `repeats` times in turn, after one turn that is not counted."""
    made, took = samplers()
    edges = gaussian.one_table(Fraction(1000 * 1000))._high
    few = max(1, draws // FEWER)
    found: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        costs = {"limit": seconds(lambda: bare_words(draws))}
        for name, sampler in made.items():
            costs[name] = seconds(lambda sampler=sampler: sampler.draw(os.urandom(32), 0, draws))
        costs["search"] = seconds(lambda: bare_search(edges, draws))
        costs["exact-gaussian-8"] = seconds(lambda: exact_draws(few)) * draws / few
        if turn:
            for name, one in costs.items():
                found.setdefault(name, []).append(one)
    return {
        "draws": draws,
        "repeats": repeats,
        "draws_per_s": {name: draws / statistics.median(costs) for name, costs in found.items()},
        "of_limit": {
            name: statistics.median(a / b for a, b in zip(found["limit"], costs, strict=True))
            for name, costs in found.items()
        },
        "table_s": took,
        "goals": GOALS,
    }


def print_samplers(result: dict[str, object]) -> None:
    """One line for each sampler."""
    rates, shares, took = result["draws_per_s"], result["of_limit"], result["table_s"]
    assert isinstance(rates, dict)
    assert isinstance(shares, dict)
    assert isinstance(took, dict)
    for name, rate in rates.items():
        making = f"  made in {took[name]:.3f} s" if name in took else ""
        print(f"{name:<20} {rate / 1e6:9.3f} M/s  {shares[name]:7.4f} of the limit{making}")


def print_accuracy(seeds: int, as_json: bool) -> int:
    """The accuracy part; 1 if its goal is missed."""
    result = private_accuracy.measure(seeds)
    if as_json:
        print(json.dumps(result))
    else:
        accuracy, lowest, loss = result["accuracy"], result["lowest"], result["log_loss"]
        assert isinstance(accuracy, dict)
        assert isinstance(lowest, dict)
        assert isinstance(loss, dict)
        print(f"{seeds} seeds, epsilon {result['epsilon']:.3f} at delta {result['delta']:g} for each record")
        for who in accuracy:
            print(
                f"{who:<12} {100 * accuracy[who]:6.2f} %  lowest {100 * lowest[who]:6.2f} %  log-loss {loss[who]:.4f}"
            )
    return 0 if result["reached"] else 1


# --- command line -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("samplers", help="draws a second")
    part.add_argument("--draws", type=int, default=1_000_000)
    part.add_argument("--repeats", type=int, default=9)
    part.add_argument("--json", action="store_true")
    part = parts.add_parser("accuracy", help="the demo's private plan over seeds")
    part.add_argument("--seeds", type=int, default=20)
    part.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.part == "accuracy":
        return print_accuracy(arguments.seeds, arguments.json)
    if min(arguments.draws, arguments.repeats) < 1:
        parser.error("--draws and --repeats are at least 1")
    result = measure_samplers(arguments.draws, arguments.repeats)
    if arguments.json:
        print(json.dumps(result))
    else:
        print_samplers(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
