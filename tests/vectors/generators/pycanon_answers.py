"""Writes tests/vectors/pycanon.json: small tables and what pycanon says of them.

pycanon's requirements are older than ours, so it has an environment of its own and is no dependency:

    python -m venv build/pycanon && build/pycanon/bin/pip install pycanon==1.3.6
    build/pycanon/bin/python tests/vectors/generators/pycanon_answers.py tests/vectors/pycanon.json
"""

import hashlib
import json
import pathlib
import sys

import pandas as pd
import pycanon
from pycanon import anonymity

ZIPS, JOBS, SEXES = ("130**", "148**", "1485*"), ("care", "office", "trade", "none"), ("F", "M")
DISEASES = ("flu", "cold", "asthma", "gastritis", "cancer")


def draw(case: str, row: int, what: str, among: int) -> int:
    """A number below `among` that depends on its arguments alone."""
    return int.from_bytes(hashlib.sha256(f"{case}/{row}/{what}".encode()).digest()[:8], "big") % among


def table(case: str, rows: int, zips: int, ages: int, jobs: int, diseases: int, salaries: int) -> dict[str, list]:
    """Columns of one table."""
    return {
        "zip": [ZIPS[draw(case, row, "zip", zips)] for row in range(rows)],
        "age": [10 * draw(case, row, "age", ages) for row in range(rows)],
        "job": [JOBS[draw(case, row, "job", jobs)] for row in range(rows)],
        "sex": [SEXES[draw(case, row, "sex", 2)] for row in range(rows)],
        "disease": [
            DISEASES[min(draw(case, row, "d", diseases), draw(case, row, "e", diseases))] for row in range(rows)
        ],
        "salary": [3 + draw(case, row, "s", salaries) * draw(case, row, "u", 3) for row in range(rows)],
    }


CASES = [
    ("one_class", (12, 1, 1, 1, 5, 9), ["zip"], ["disease", "salary"]),
    ("two_quasi", (40, 2, 2, 1, 3, 4), ["zip", "age"], ["disease"]),
    ("numbers", (60, 2, 2, 1, 3, 40), ["zip", "age"], ["salary"]),
    ("both", (90, 2, 3, 2, 4, 12), ["zip", "age", "job"], ["disease", "salary"]),
    ("uniques", (50, 3, 9, 4, 5, 30), ["zip", "age", "job", "sex"], ["disease", "salary"]),
    ("one_value", (30, 2, 2, 1, 1, 6), ["zip", "sex"], ["disease"]),
    ("large", (600, 3, 5, 2, 5, 50), ["zip", "age", "sex"], ["disease", "salary"]),
]


def answers(columns: dict[str, list], quasi: list[str], sensitive: list[str]) -> dict[str, object]:
    """What pycanon computes of one sensitive column at a time, and of all."""
    data = pd.DataFrame(columns)
    found: dict[str, object] = {"k": int(anonymity.k_anonymity(data, quasi))}
    for name in sensitive:
        alpha, _ = anonymity.alpha_k_anonymity(data, quasi, [name])
        found[name] = {
            "l": int(anonymity.l_diversity(data, quasi, [name])),
            "entropy_l_rounded_down": int(anonymity.entropy_l_diversity(data, quasi, [name])),
            "t": float(anonymity.t_closeness(data, quasi, [name])),
            "alpha": float(alpha),
            "delta": float(anonymity.delta_disclosure(data, quasi, [name])),
        }
    return found


def main(out: pathlib.Path) -> None:
    """One file, sorted keys."""
    cases = []
    for name, size, quasi, sensitive in CASES:
        columns = table(name, *size)
        cases.append(
            {
                "name": name,
                "columns": {column: [str(value) for value in values] for column, values in columns.items()},
                "quasi": quasi,
                "sensitive": sensitive,
                "ordered": [column for column in sensitive if column == "salary"],
                "out": answers(columns, quasi, sensitive),
            }
        )
    content = {
        "written_by": "tests/vectors/generators/pycanon_answers.py",
        "pycanon": pycanon.__version__,
        "cases": cases,
    }
    out.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
