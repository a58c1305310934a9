"""The invented patients of the three hospitals, always the same ones: `python make_data.py` writes the files anew.

Nobody in here exists. A stay ends in death with a chance that rises with age, lactate and SOFA score; the hospitals
differ in size, in the age of their patients and in the form in which they keep their table: one CSV file, a folder of
CSV files by month, one Parquet file.
"""

import csv
import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = (
    "patient_id", "name", "insurance_no", "birth_date", "postcode", "phone", "admitted", "notes",
    "age", "sex", "lactate", "sofa", "died",
)  # fmt: skip
FIRST = ("Ada", "Bruno", "Clara", "Dario", "Elif", "Farid", "Greta", "Henri", "Ines", "Jonas", "Katja", "Liam")
LAST = ("Albers", "Brandt", "Costa", "Demir", "Eriksen", "Fontana", "Garnier", "Horvat", "Ivanova", "Jansen")
WORDS = ("stable overnight", "transferred from ward 3", "family informed", "see letter of the GP", "fasting")
HOSPITALS = {"acme": (420, 64.0, 1), "borealis": (360, 58.0, 2), "cygnus": (300, 69.0, 3)}
"""Name -> stays, mean age, seed."""


def stays(count: int, mean_age: float, seed: int) -> list[dict[str, object]]:
    """The table of one hospital; a patient may have two stays."""
    draw = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for number in range(count):
        again = bool(rows) and draw.random() < 0.08
        if again:
            person = dict(rows[int(draw.integers(len(rows)))])
        else:
            age = int(np.clip(draw.normal(mean_age, 13), 19, 97))
            born = datetime.date(2026, 3, 1) - datetime.timedelta(days=int(age * 365.25 + draw.integers(365)))
            person = {
                "patient_id": f"{seed}{10_000 + number}",
                "name": f"{FIRST[draw.integers(len(FIRST))]} {LAST[draw.integers(len(LAST))]}",
                "insurance_no": f"{draw.integers(10**9, 10**10)}",
                "birth_date": born.isoformat(),
                "postcode": f"{draw.integers(40, 48)}{draw.integers(100, 130)}",
                "phone": f"+49 30 {draw.integers(10**6, 10**7)}",
                "age": age,
                "sex": "F" if draw.random() < 0.47 else "M",
            }
        assert isinstance(person["age"], int)
        sofa = int(np.clip(draw.poisson(5.5), 0, 20))
        lactate = round(float(np.clip(draw.gamma(2.0, 0.8) + 0.18 * sofa, 0.4, 24)), 1)
        slope = 0.1 * (person["age"] - 62) + 1.6 * (lactate - 2.7) + 0.6 * (sofa - 5.5) - 0.6
        day = datetime.date(2026, 1, 1) + datetime.timedelta(days=int(draw.integers(90)))
        note = WORDS[draw.integers(len(WORDS))]
        if draw.random() < 0.2:
            note += f", call {person['phone']}"
        rows.append(
            person
            | {
                "admitted": day.isoformat(),
                "notes": note,
                "lactate": "" if draw.random() < 0.05 else lactate,
                "sofa": sofa,
                "died": int(draw.random() < 1 / (1 + np.exp(-slope))),
            }
        )
    return rows


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(folder: Path) -> None:
    """Writes every hospital's folder below `folder`."""
    for name, (count, mean_age, seed) in HOSPITALS.items():
        rows = stays(count, mean_age, seed)
        if name == "acme":
            write_csv(folder / name / "icu.csv", rows)
        elif name == "borealis":
            for month in ("01", "02", "03"):
                inside = [row for row in rows if str(row["admitted"])[5:7] == month]
                write_csv(folder / name / "icu" / f"2026-{month}.csv", inside)
        else:
            numbers = {"age": pa.int64(), "sofa": pa.int64(), "died": pa.int64(), "lactate": pa.float64()}
            table = {
                column: pa.array(
                    [None if row[column] == "" else row[column] for row in rows], numbers.get(column, pa.string())
                )
                for column in COLUMNS
            }
            (folder / name).mkdir(exist_ok=True)
            pq.write_table(pa.table(table), folder / name / "icu.parquet", compression="zstd")


if __name__ == "__main__":
    main(Path(__file__).parent)
