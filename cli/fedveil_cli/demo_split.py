"""The demo's data: a skewed split of the breast cancer rows over five hospitals, and a common test set.

Promise: a pure function of the seed. 20 % of all rows, drawn at random, are the test set; the rest is dealt so that the
hospitals differ in size (about 150 down to 45 rows) and in the share of malignant cases (about 15 % up to 90 %), the
way a screening practice differs from a cancer centre. `demo_data/split.json` is `split(7)`, committed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

SHARES = {
    "northgate": (0.13, 0.45),
    "riverside": (0.16, 0.29),
    "hillcrest": (0.22, 0.165),
    "lakeview": (0.25, 0.08),
    "st-anna": (0.24, 0.015),
}
"""Per hospital its share of all malignant and of all benign rows outside the test set; each column sums to 1."""

TEST_SHARE = 0.2
TARGET = "malignant"
DEFAULT_SEED = 7


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of `breast_cancer.csv`, from 0, sorted; every row stands exactly once."""

    hospitals: dict[str, tuple[int, ...]]
    test: tuple[int, ...]


def split(seed: int) -> Split:
    """Who holds which rows under `seed`."""
    labels = _labels()
    shuffled = sorted(range(len(labels)), key=lambda row: hashlib.sha256(f"demo/{seed}/{row}".encode()).digest())
    test_count = round(TEST_SHARE * len(labels))
    test, rest = shuffled[:test_count], shuffled[test_count:]
    dealt: dict[str, list[int]] = {name: [] for name in SHARES}
    for column, label in enumerate(("1", "0")):
        rows = [row for row in rest if labels[row] == label]
        start, reach = 0, 0.0
        for name, shares in SHARES.items():
            reach += shares[column]
            end = round(reach * len(rows))
            dealt[name] += rows[start:end]
            start = end
    return Split({name: tuple(sorted(rows)) for name, rows in dealt.items()}, tuple(sorted(test)))


def rows_csv(rows: Sequence[int]) -> bytes:
    """These rows as a CSV file with the header."""
    lines = _lines()
    return "\n".join([lines[0], *[lines[row + 1] for row in rows], ""]).encode()


def plan_text() -> bytes:
    """The demo's plan file."""
    return (resources.files("fedveil_cli") / "demo_plan.yaml").read_bytes()


def private_plan_text() -> bytes:
    """The plan file of the demo's training under differential privacy."""
    return (resources.files("fedveil_cli") / "demo_private_plan.yaml").read_bytes()


def _lines() -> list[str]:
    text = (resources.files("fedveil_cli") / "demo_data" / "breast_cancer.csv").read_text(encoding="utf-8")
    return text.splitlines()


def _labels() -> list[str]:
    lines = _lines()
    column = lines[0].split(",").index(TARGET)
    return [line.split(",")[column] for line in lines[1:]]
