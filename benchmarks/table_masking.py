"""What masking a table costs beside reading and writing it: a million rows of ten columns, with the risk report.

    python benchmarks/table_masking.py [--rows 1000000] [--repeats 3] [--distinct N ...] [--folder DIR] [--json]

Three columns become pseudonyms, two are generalised, one is encrypted by FF1 (100,000 distinct values at most), the
others are kept, clamped, cut off. In each repetition the same Parquet file is read and written by pyarrow alone
(`plain`), and read, masked with its report, and written (`masked`), in turn, so that ratios are of neighbours in time;
printed are medians. The pseudonyms' columns have 10^6, 10^5 and 10^3 distinct values; with FF1 and, its column kept,
without. Each case is a process of its own: `peak_mb` is the most memory it ever had (VmHWM), the table included.
Goals: without FF1 at most 20 times the plain time where at most 10^5 values are distinct; less than 2 GB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from fedveil_participant.masking import MaskingKey, mask_table, parse_rules
from pyarrow import parquet

GOALS = {"masked_of_plain_without_ff1": 20, "peak_mb": 2000}
DISTINCT = (1_000_000, 100_000, 1_000)
FF1_DISTINCT = 100_000

RULES = """
version: 1
dataset: visits
key_ref: env:KEY
columns:
  patient: {class: identifier, do: pseudonym}
  doctor: {class: identifier, do: pseudonym}
  device: {class: identifier, do: pseudonym}
  insurance: {class: FF1}
  age: {class: quasi, do: generalise, width: 10}
  born: {class: quasi, do: generalise, to: decade}
  zip: {class: quasi, do: truncate, keep: 1}
  lactate: {class: feature, do: clamp, min: 0, max: 20}
  weight: {class: feature, do: keep}
  diagnosis: {class: sensitive, do: keep}
"""


class SystemEntropy:
    """The operating system's generator."""

    def take(self, size: int) -> bytes:
        """Random bytes."""
        return os.urandom(size)


def table(rows: int, distinct: int) -> pa.Table:
    """Ten columns of texts, numbers and dates, the same at each call."""
    draw = np.random.Generator(np.random.PCG64(11)).integers

    def names(start: str, among: int) -> pa.Array:
        known = pa.array([f"{start}-{value:08}" for value in range(among)])
        return known.take(pa.array(draw(0, among, rows) if among < rows else np.arange(rows) % among))

    numbers = pa.array([f"{value * 7919 % 10**10:010}" for value in range(min(rows, FF1_DISTINCT))])
    return pa.table(
        {
            "patient": names("patient", distinct),
            "doctor": names("doctor", distinct),
            "device": names("device", distinct),
            "insurance": numbers.take(pa.array(draw(0, len(numbers), rows))),
            "age": pa.array(draw(18, 95, rows), pa.int64()),
            "born": pa.array(draw(-10_000, 15_000, rows).astype(np.int32), pa.date32()),
            "zip": pa.array([f"{value:05}" for value in range(10_000, 99_999)]).take(pa.array(draw(0, 89_999, rows))),
            "lactate": pa.array(draw(0, 3000, rows) / 100.0),
            "weight": pa.array(draw(400, 1500, rows) / 10.0),
            "diagnosis": pa.array([f"I{value}" for value in range(40)]).take(pa.array(draw(0, 40, rows))),
        }
    )


def seconds(work: Callable[[], object]) -> float:
    """What one call takes, on the wall."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak_mb() -> float:
    """VmHWM of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(source: Path, ff1: bool, repeats: int, folder: Path) -> dict[str, object]:
    """One case, in this process."""
    column = "identifier, do: fpe, alphabet: digits" if ff1 else "feature, do: keep"
    rules = parse_rules(RULES.replace("FF1", column).encode(), "rules", lambda name: b"")
    key, reports = MaskingKey(os.urandom(32)), []

    def plain() -> None:
        parquet.write_table(parquet.read_table(source), folder / "plain.parquet")

    def masked() -> None:
        done = mask_table(rules, key, parquet.read_table(source), "visits", entropy=SystemEntropy(), release=True)
        parquet.write_table(done.table, folder / "masked.parquet")
        reports.append(done.report)

    times: dict[str, list[float]] = {"plain": [], "masked": []}
    for _ in range(repeats):
        times["plain"].append(seconds(plain))
        times["masked"].append(seconds(masked))
    ratios = [one / other for one, other in zip(times["masked"], times["plain"], strict=True)]
    return {
        **{f"{name}_s": round(statistics.median(found), 3) for name, found in times.items()},
        "masked_of_plain": round(statistics.median(ratios), 2),
        "rows_per_s": round(reports[-1].rows / statistics.median(times["masked"])),
        "k": reports[-1].k,
        "classes": reports[-1].classes,
        "peak_mb": round(peak_mb()),
    }


def case(rows: int, distinct: int, ff1: bool, repeats: int, folder: Path) -> dict[str, object]:
    """One case, in a process of its own: only then is its peak of memory its own."""
    source = folder / f"{distinct}.parquet"
    if not source.exists():
        parquet.write_table(table(rows, distinct), source)
    command = [sys.executable, __file__, "--case", str(source), "--repeats", str(repeats), "--folder", str(folder)]
    done = subprocess.run([*command, *(["--ff1"] if ff1 else [])], stdout=subprocess.PIPE, check=True)
    return {"distinct": min(distinct, rows), "ff1": ff1, **json.loads(done.stdout)}


def main(arguments: list[str]) -> int:
    """Prints what was measured; 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--distinct", type=int, action="append")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ff1", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.case is not None:
        print(json.dumps(measure(given.case, given.ff1, given.repeats, given.folder)))
        return 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        cases = [
            case(given.rows, distinct, ff1, given.repeats, Path(folder))
            for distinct in given.distinct or DISTINCT
            for ff1 in (False, True)
        ]
    found = {"rows": given.rows, "goals": GOALS, "cases": cases}
    if given.json:
        print(json.dumps(found))
        return 0
    print(f"{given.rows} rows; goals {GOALS}")
    print("  ".join(f"{name:>15}" for name in cases[0]))
    for one in cases:
        print("  ".join(f"{value!s:>15}" for value in one.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
