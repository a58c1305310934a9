"""YAML text as a tree of values with line numbers, read so that it has one meaning only.

Refused, each with its line: duplicate keys, anchors, aliases, merges, tags, directives, several documents, non-finite
numbers, and every plain scalar that YAML readers disagree about (dates, octal, hexadecimal, sexagesimal, digits with
underscores). Booleans are `true` and `false` only; `1e-5` is a number; everything else that is plain is text.
Work and memory are bounded: MAX_BYTES of text, MAX_DEPTH levels, no expansion of any kind.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from fedveil_common.jcs import Json
from fedveil_common.plan.problems import PlanProblem

MAX_BYTES = 262_144
MAX_DEPTH = 12

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})\Z")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")
_AMBIGUOUS = (
    (re.compile(r"[-+]?0[0-9_]+\Z|[-+]?0[oO][0-7_]+\Z"), "octal", "an octal number or a number with leading zeros"),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F_]+\Z|[-+]?0[bB][01_]+\Z"), "radix", "a hexadecimal or binary number"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?\Z"), "sexagesimal", "a base 60 number"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?\Z", re.S), "date", "a date"),
    (re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"), "not_finite", "a number that is not finite"),
    (re.compile(r"[-+]?(?=[0-9.])[0-9_]*\.?[0-9_]+([eE][-+]?[0-9]+)?\Z"), "number_form", "a number in an unusual form"),
)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf: text, number, boolean or None (nothing was written). `refused`: its problem is already on record."""

    value: str | int | float | bool | None
    line: int
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple["Node", ...]
    line: int


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping, in the order written; `lines` holds the line of each key."""

    members: dict[str, "Node"]
    lines: dict[str, int]
    line: int


Node = Scalar | Items | Fields


class _Stop(Exception):
    """Reading cannot go on; what was found so far is in the list of problems."""


def read_tree(text: bytes, problems: list[PlanProblem]) -> Node | None:
    """The tree of one YAML document; adds to `problems` whatever is refused. None: nothing readable is left."""
    if len(text) > MAX_BYTES:
        problems.append(PlanProblem(1, "", "too_large", f"the file is larger than {MAX_BYTES} bytes"))
        return None
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        problems.append(PlanProblem(line, "", "not_utf8", "the file is not UTF-8 text"))
        return None
    try:
        return _Builder(decoded, problems).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problems.append(PlanProblem(line, "", "yaml_syntax", f"not YAML: {error.problem or error.context}"))
    except yaml.reader.ReaderError as error:
        line = decoded[: error.position].count("\n") + 1
        problems.append(PlanProblem(line, "", "yaml_syntax", "a control character that YAML does not permit"))
    except _Stop:
        pass
    return None


def json_tree(value: Json, depth: int = 0) -> Node:
    """The same tree from a JSON value; every line is 1. Raises ValueError beyond MAX_DEPTH levels."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    match value:
        case None | bool() | int() | float() | str():
            return Scalar(value, 1)
        case dict():
            members = {key: json_tree(member, depth + 1) for key, member in value.items()}
            return Fields(members, dict.fromkeys(members, 1), 1)
        case list():
            return Items(tuple(json_tree(item, depth + 1) for item in value), 1)
        case _:
            raise TypeError(type(value).__name__)


class _Builder:
    """Builds the tree from PyYAML's event stream, so that nothing is resolved or expanded by anyone else."""

    def __init__(self, text: str, problems: list[PlanProblem]) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._problems = problems

    def document(self) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._add(event, "", "documents", "the file is one document")
                    raise _Stop
                if event.version or event.tags:
                    self._add(event, "", "directive", "YAML directives are not used here")
                root = self._node(next(self._events), "", 0)
        if root is None:
            self._problems.append(PlanProblem(1, "", "empty", "the file is empty"))
        return root

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        line = _line(event)
        if depth > MAX_DEPTH:
            self._add(event, path, "too_deep", f"nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        if isinstance(event, yaml.AliasEvent):
            self._add(event, path, "alias", "aliases (*) are not used here")
            return Scalar(None, line, refused=True)
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._add(event, path, "anchor", "anchors (&) are not used here")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            self._add(event, path, "tag", "tags (!) are not used here")
        match event:
            case yaml.ScalarEvent():
                return self._scalar(event, path, line)
            case yaml.SequenceStartEvent():
                return Items(tuple(self._items(path, depth)), line)
            case yaml.MappingStartEvent():
                return self._fields(path, depth, line)
            case _:
                raise _Stop

    def _items(self, path: str, depth: int) -> Iterator[Node]:
        index = 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, f"{path}[{index}]", depth + 1)
            index += 1

    def _fields(self, path: str, depth: int, line: int) -> Fields:
        members: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if isinstance(event, yaml.ScalarEvent):
                key = event.value
                self._key(event, path, known=key in members)
            else:
                self._add(event, path, "key", "a name here is one word or text")
                self._node(event, path, depth + 1)
                key = ""
            child = f"{path}.{key}" if path else key
            value = self._node(next(self._events), child, depth + 1)
            if key and key not in members:
                members[key] = value
                lines[key] = _line(event)
        return Fields(members, lines, line)

    def _key(self, event: yaml.ScalarEvent, path: str, *, known: bool) -> None:
        if event.anchor is not None or event.tag is not None:
            self._add(event, path, "anchor" if event.anchor else "tag", "a name carries no anchor or tag")
        if event.value == "<<" and event.style is None:
            self._add(event, path, "merge", "merges (<<) are not used here")
        elif not event.value:
            self._add(event, path, "key", "an empty name")
        elif known:
            self._add(event, path, "duplicate_key", f"{event.value!r} is written twice")

    def _scalar(self, event: yaml.ScalarEvent, path: str, line: int) -> Scalar:
        text: str = event.value
        if event.style is not None:  # quoted or block: text, whatever it looks like
            return Scalar(text, line)
        if text in {"true", "false"}:
            return Scalar(text == "true", line)
        if text in _NULLS:
            return Scalar(None, line)
        if _INTEGER.match(text):
            return Scalar(int(text), line)
        if _FLOAT.match(text):
            value = float(text)
            if math.isfinite(value):
                return Scalar(value, line)
            self._add(event, path, "not_finite", "a number beyond the range of a double")
            return Scalar(None, line, refused=True)
        for pattern, code, words in _AMBIGUOUS:
            if pattern.match(text):
                self._add(event, path, code, f"{text!r} reads as {words}; write a decimal number, or quote it as text")
                return Scalar(None, line, refused=True)
        return Scalar(text, line)

    def _add(self, event: yaml.Event, path: str, code: str, text: str) -> None:
        self._problems.append(PlanProblem(_line(event), path, code, text))


def _line(event: yaml.Event) -> int:
    """The line of an event, from 1; PyYAML's own parser marks every event."""
    return event.start_mark.line + 1 if event.start_mark is not None else 1
