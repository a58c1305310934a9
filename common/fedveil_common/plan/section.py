"""Reading one mapping of a plan field by field: every problem is recorded with its line, none stops the reading.

Invariant: a field is taken at most once by name; `close` turns every field nobody took into a problem, so nothing in a
plan is ever ignored. After a problem a reader gets a stand-in value; the plan as a whole is refused at the end.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedveil_common.ids import is_name
from fedveil_common.jcs import MAX_INTEGER, number
from fedveil_common.plan.problems import PlanProblem
from fedveil_common.plan.yaml_tree import Fields, Items, Node, Scalar

MAX_TEXT = 4_000
MAX_COLUMN_NAME = 200


@dataclass(slots=True)
class Findings:
    """What is wrong with a plan, and what it asks for that this release lacks."""

    problems: list[PlanProblem] = field(default_factory=list)
    later: list[PlanProblem] = field(default_factory=list)

    def wrong(self, line: int, path: str, code: str, text: str) -> None:
        """Records a problem."""
        self.problems.append(PlanProblem(line, path, code, text))

    def not_yet(self, line: int, path: str, what: str, release: str) -> None:
        """Records a field, or a value of it, that `release` brings."""
        self.later.append(PlanProblem(line, path, "not_in_this_release", f"{what} comes with {release}"))


class Section:
    """One mapping while it is being read."""

    def __init__(self, node: Node | None, path: str, line: int, findings: Findings) -> None:
        self.path = path
        self.line = node.line if node is not None else line
        self.findings = findings
        self._members: dict[str, Node] = {}
        self._lines: Mapping[str, int] = {}
        self._absent = node is None
        match node:
            case Fields():
                self._members = dict(node.members)
                self._lines = node.lines
            case None:
                pass
            case _:
                self._absent = True
                if not (isinstance(node, Scalar) and node.refused):
                    findings.wrong(node.line, path, "type", "expected a mapping {name: value}")

    @property
    def present(self) -> bool:
        """Whether the plan has this mapping at all."""
        return not self._absent

    def has(self, key: str) -> bool:
        """Whether the field stands in the plan and was not taken yet."""
        return key in self._members

    def is_mapping(self, key: str) -> bool:
        """Whether the field stands in the plan, as a mapping."""
        return isinstance(self._members.get(key), Fields)

    def is_text(self, key: str, text: str) -> bool:
        """Whether the field stands there as exactly this text."""
        node = self._members.get(key)
        return isinstance(node, Scalar) and node.value == text

    def line_of(self, key: str) -> int:
        """The line of a field, or of the section if the field is absent."""
        return self._lines.get(key, self.line)

    def at(self, key: str) -> str:
        """The dotted path of a field."""
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, code: str, text: str) -> None:
        """Records a problem with a field."""
        self.findings.wrong(self.line_of(key), self.at(key), code, text)

    def take(self, key: str, *, required: bool) -> Node | None:
        """The raw node of a field; None if absent (a problem if `required`)."""
        node = self._members.pop(key, None)
        if node is None and required and not self._absent:
            self.findings.wrong(self.line, self.at(key), "missing", "this field is required")
        return node

    def skip(self) -> None:
        """Takes everything that is left: the section belongs to a later release."""
        self._members.clear()

    def close(self) -> None:
        """Every field that nobody took is a problem."""
        for key in self._members:
            self.wrong(key, "unknown_field", "there is no such field here")
        self._members.clear()

    # --- typed fields ---

    def section(self, key: str, *, required: bool = True) -> "Section":
        """A nested mapping."""
        node = self.take(key, required=required)
        return Section(node, self.at(key), self.line_of(key), self.findings)

    def items(self, key: str, *, required: bool = True) -> tuple[Node, ...]:
        """A list."""
        node = self.take(key, required=required)
        match node:
            case Items():
                return node.items
            case None:
                return ()
            case _:
                self._type(key, node, "a list [a, b]")
                return ()

    def integer(self, key: str, lo: int, hi: int = MAX_INTEGER, *, default: int | None = None) -> int:
        """An integer within [lo, hi]; required unless there is a default."""
        node = self.take(key, required=default is None)
        if node is None:
            return lo if default is None else default
        if not isinstance(node, Scalar) or isinstance(node.value, bool) or not isinstance(node.value, int):
            self._type(key, node, "a whole number")
            return lo
        if not lo <= node.value <= hi:
            self.wrong(key, "range", f"{node.value} is not within {lo} to {hi}")
            return lo
        return node.value

    def number(
        self, key: str, lo: float, hi: float = math.inf, *, above: bool = False, default: float | None = None
    ) -> float:
        """A finite number within [lo, hi] (greater than lo if `above`); required unless there is a default."""
        node = self.take(key, required=default is None)
        if node is None:
            return 1.0 if default is None else default
        value = self.as_number(node, key)
        if value is None:
            return 1.0
        if not lo <= value <= hi or (above and value == lo):
            bound = f"above {lo:g}" if above else f"at least {lo:g}"
            limit = f" and at most {hi:g}" if math.isfinite(hi) else ""
            self.wrong(key, "range", f"{value:g} is not {bound}{limit}")
            return 1.0
        return value

    def as_number(self, node: Node, key: str) -> float | None:
        """The finite float in a node (-0 becomes 0), or None after recording a problem."""
        if isinstance(node, Scalar) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return float(node.value) + 0.0
        self._type(key, node, "a number")
        return None

    def boolean(self, key: str, *, default: bool) -> bool:
        """`true` or `false`."""
        node = self.take(key, required=False)
        if node is None:
            return default
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        self._type(key, node, "true or false")
        return default

    def choice(self, key: str, choices: Sequence[str], *, default: str | None = None) -> str:
        """One of `choices`."""
        node = self.take(key, required=default is None)
        fallback = choices[0] if default is None else default
        if node is None:
            return fallback
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self._type(key, node, "one of " + ", ".join(choices))
            return fallback
        if node.value not in choices:
            self.wrong(key, "choice", f"{node.value!r} is not one of {', '.join(choices)}")
            return fallback
        return node.value

    def name(self, key: str) -> str:
        """An id: 1 to 64 characters of a-z, 0-9, - and _."""
        node = self.take(key, required=True)
        if node is None:
            return "x"
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self._type(key, node, "a name")
        elif not is_name(node.value):
            self.wrong(key, "name", f"{node.value!r} is not 1 to 64 characters of a-z, 0-9, - and _")
        else:
            return node.value
        return "x"

    def column(self, key: str, *, required: bool = True) -> str | None:
        """A column name; None if absent."""
        node = self.take(key, required=required)
        if node is None:
            return None
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self._type(key, node, "a column name")
            return None
        self.check_column(node.value, key)
        return node.value

    def check_column(self, name: str, key: str) -> None:
        """Records a problem unless `name` is NFC, printable and of a sane length."""
        if not 1 <= len(name) <= MAX_COLUMN_NAME:
            self.wrong(key, "column_name", f"a column name has 1 to {MAX_COLUMN_NAME} characters")
        elif not unicodedata.is_normalized("NFC", name):
            self.wrong(key, "column_name", "the column name is not in Unicode normal form C")
        elif not _is_plain(name) or name != name.strip():
            self.wrong(key, "column_name", "the column name has control, format or surrounding blank characters")

    def prose(self, key: str) -> str | None:
        """Optional text for people, without control or format characters."""
        node = self.take(key, required=False)
        if node is None:
            return None
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self._type(key, node, "text")
        elif not 1 <= len(node.value) <= MAX_TEXT or not _is_plain(node.value):
            self.wrong(key, "text", f"1 to {MAX_TEXT} characters of text without control or format characters")
        else:
            return node.value
        return None

    def label(self, node: Node, key: str) -> str:
        """A category or class as text; a whole or decimal number stands for its shortest form (1.0 is "1")."""
        if isinstance(node, Scalar) and isinstance(node.value, str):
            text = node.value
            if not 1 <= len(text) <= MAX_TEXT or not _is_plain(text) or text != text.strip():
                self.wrong(key, "text", "a value has 1 or more printable characters and no surrounding blanks")
            elif not unicodedata.is_normalized("NFC", text):
                self.wrong(key, "text", "the value is not in Unicode normal form C")
            elif text in MISSING_MARKS:
                self.wrong(key, "missing_mark", f"{text!r} stands for a missing value and cannot be a value")
            return text
        if isinstance(node, Scalar) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return number(float(node.value))
        self._type(key, node, "text or a number (quote true and false)")
        return "1"

    def _type(self, key: str, node: Node, expected: str) -> None:
        if not (isinstance(node, Scalar) and node.refused):
            self.findings.wrong(node.line, self.at(key), "type", f"expected {expected}")


MISSING_MARKS = frozenset({"", "?", "NA"})
"""What stands for a missing value in a table."""


def _is_plain(text: str) -> bool:
    return not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in text)
