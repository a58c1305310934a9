"""Writes the table of error codes in README.md beside this file: read from the source, so that it cannot drift.

`python docs/errors/table.py` rewrites it (`make errors`), `--check` fails when a row is missing, stale or different.
Each construction of an error class of `fedveil_common.errors` with a literal code is a source of one row.
"""

import ast
import pathlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START, END = "<!-- table: made by `make errors` -->", "<!-- end of table -->"


def exit_codes(errors: str) -> dict[str, int]:
    """Class name -> exit code, as `errors.py` states them; a class without one of its own has its base's."""
    found: dict[str, int] = {}
    for node in ast.parse(errors).body:
        if isinstance(node, ast.ClassDef):
            bases = [found[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in found]
            own = [
                statement.value.value
                for statement in node.body
                if isinstance(statement, ast.Assign | ast.AnnAssign)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, int)
            ]
            if own or bases:
                found[node.name] = (own or bases)[0]
    return found


@dataclass(frozen=True, slots=True)
class Use:
    """One place in the source that makes an error: its code, exit code and, with gaps for the figures, its words."""

    code: str
    exit_code: int
    what: str
    next_step: str


def words(node: ast.AST | None) -> str:
    """The literal text of an expression, "..." where it puts in a value."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(words(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return words(left) + words(right)
        case None:
            return ""
        case _:
            return "..."


def uses(source: str, classes: dict[str, int]) -> Iterator[Use]:
    """Every error made in `source` with a literal code."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name),
                args=[ast.Constant(value=str(code)), *rest],
                keywords=keywords,
            ) if name in classes:
                next_step = next((keyword.value for keyword in keywords if keyword.arg == "next_step"), None)
                yield Use(code, classes[name], words(rest[0] if rest else None), words(next_step))
            case _:
                pass


def table() -> str:
    """The rows, sorted by code; where a code has several uses the first words found stand for all."""
    classes = exit_codes((ROOT / "common/fedveil_common/errors.py").read_text(encoding="utf-8"))
    found: dict[str, list[Use]] = {}
    for path in sorted(ROOT.glob("*/fedveil_*/**/*.py")):
        for use in uses(path.read_text(encoding="utf-8"), classes):
            found.setdefault(use.code, []).append(use)
    rows = ["| code | exit | for example | next |", "|---|---|---|---|"]
    for code in sorted(found):
        exits = ", ".join(str(number) for number in sorted({use.exit_code for use in found[code]}))
        what = next((use.what for use in found[code] if use.what), "")
        step = next((use.next_step for use in found[code] if use.next_step), "")
        cells = (" ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") for text in (what, step))
        rows.append(f"| `{code}` | {exits} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> int:
    """Rewrites or, with --check, compares; 1 if they differ."""
    page = HERE / "README.md"
    before = page.read_text(encoding="utf-8")
    head, _, rest = before.partition(START)
    after = f"{head}{START}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"
    if "--check" not in sys.argv:
        page.write_text(after, encoding="utf-8")
    elif after != before:
        print("docs/errors/README.md does not show the error codes of the source: run `make errors`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
