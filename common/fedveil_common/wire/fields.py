"""How one field of a message is written and read: the closed set of field rules, each with its limits.

A rule either returns a valid value or raises `Malformed` with the path of the field; nothing is half-valid. Rules know
protobuf objects only through `getattr`/`setattr`, so the whole wire format can be read in one table (`wire.tables`).
"""

import enum
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fedveil_common import limits
from fedveil_common.errors import PeerError
from fedveil_common.ids import is_name

_CODE = re.compile(r"[a-z0-9_]{1,64}\Z")


class MalformedError(PeerError):
    """A message that is not one: `path` names the field. Nothing of it was used."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__("malformed", f"{path}: {why}", next_step="both sides must run a release of the same protocol")
        self.path = path


class Rule(Protocol):
    """One field."""

    def put(self, message: Any, name: str, value: Any) -> None:
        """Write `value` into field `name` of the protobuf `message`."""
        ...

    def get(self, message: Any, name: str, path: str) -> Any:
        """The value of field `name`; raises MalformedError."""
        ...


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of one of the lengths, or of lo..hi bytes."""

    lengths: tuple[int, ...] = ()
    most: int = 0
    least: int = 1

    def put(self, message: Any, name: str, value: bytes) -> None:
        """See Rule."""
        setattr(message, name, value)

    def get(self, message: Any, name: str, path: str) -> bytes:
        """See Rule."""
        value: bytes = getattr(message, name)
        if self.lengths:
            if len(value) not in self.lengths:
                raise MalformedError(path, f"{len(value)} bytes, not {' or '.join(map(str, self.lengths))}")
        elif not self.least <= len(value) <= self.most:
            raise MalformedError(path, f"{len(value)} bytes, not {self.least} to {self.most}")
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a closed form: an id, a code, a constant, printable words."""

    accept: Callable[[str], bool]
    form: str

    def put(self, message: Any, name: str, value: str) -> None:
        """See Rule."""
        setattr(message, name, value)

    def get(self, message: Any, name: str, path: str) -> str:
        """See Rule."""
        value: str = getattr(message, name)
        if not self.accept(value):
            raise MalformedError(path, f"not {self.form}")
        return value


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within lo..hi."""

    lo: int
    hi: int

    def put(self, message: Any, name: str, value: int) -> None:
        """See Rule."""
        setattr(message, name, value)

    def get(self, message: Any, name: str, path: str) -> int:
        """See Rule."""
        value: int = getattr(message, name)
        if not self.lo <= value <= self.hi:
            raise MalformedError(path, f"{value} is not within {self.lo}..{self.hi}")
        return value


@dataclass(frozen=True, slots=True)
class Real:
    """A finite number, above zero unless `zero`; never negative zero."""

    zero: bool = False

    def put(self, message: Any, name: str, value: float) -> None:
        """See Rule."""
        setattr(message, name, value)

    def get(self, message: Any, name: str, path: str) -> float:
        """See Rule."""
        value: float = getattr(message, name)
        if not math.isfinite(value) or value < 0 or (value == 0 and not self.zero) or math.copysign(1, value) < 0:
            raise MalformedError(path, "not a finite number of the allowed sign")
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def put(self, message: Any, name: str, value: bool) -> None:
        """See Rule."""
        setattr(message, name, value)

    def get(self, message: Any, name: str, path: str) -> bool:
        """See Rule."""
        value: bool = getattr(message, name)
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a closed set. `prefix` + member name is the protobuf name; an unknown number is refused."""

    kind: type[enum.StrEnum]
    wire: Any
    prefix: str

    def put(self, message: Any, name: str, value: enum.StrEnum) -> None:
        """See Rule."""
        setattr(message, name, self.wire.Value(self.prefix + value.name))

    def get(self, message: Any, name: str, path: str) -> enum.StrEnum:
        """See Rule."""
        number = getattr(message, name)
        try:
            return self.kind[self.wire.Name(number).removeprefix(self.prefix)]
        except (ValueError, KeyError):
            raise MalformedError(path, f"{number} is no known value") from None


@dataclass(frozen=True, slots=True)
class Nested:
    """A message within a message; must be there."""

    write: Callable[[Any, Any], None]
    read: Callable[[Any, str], Any]

    def put(self, message: Any, name: str, value: Any) -> None:
        """See Rule."""
        self.write(getattr(message, name), value)

    def get(self, message: Any, name: str, path: str) -> Any:
        """See Rule."""
        if not message.HasField(name):
            raise MalformedError(path, "is missing")
        return self.read(getattr(message, name), path)


@dataclass(frozen=True, slots=True)
class Many:
    """least..most messages; with `key`, sorted by it and unique."""

    write: Callable[[Any, Any], None]
    read: Callable[[Any, str], Any]
    most: int
    least: int = 0
    key: Callable[[Any], Any] | None = None

    def put(self, message: Any, name: str, value: tuple[Any, ...]) -> None:
        """See Rule."""
        for item in value:
            self.write(getattr(message, name).add(), item)

    def get(self, message: Any, name: str, path: str) -> tuple[Any, ...]:
        """See Rule."""
        items = getattr(message, name)
        if not self.least <= len(items) <= self.most:
            raise MalformedError(path, f"{len(items)} entries, not {self.least} to {self.most}")
        found = tuple(self.read(item, f"{path}[{index}]") for index, item in enumerate(items))
        if self.key is not None:
            in_order([self.key(item) for item in found], path)
        return found


@dataclass(frozen=True, slots=True)
class Scalars:
    """least..most scalars, each accepted by `accept`, sorted and unique."""

    accept: Callable[[Any], bool]
    form: str
    most: int
    least: int = 0

    def put(self, message: Any, name: str, value: tuple[Any, ...]) -> None:
        """See Rule."""
        getattr(message, name).extend(value)

    def get(self, message: Any, name: str, path: str) -> tuple[Any, ...]:
        """See Rule."""
        items = tuple(getattr(message, name))
        if not self.least <= len(items) <= self.most:
            raise MalformedError(path, f"{len(items)} entries, not {self.least} to {self.most}")
        for index, item in enumerate(items):
            if not self.accept(item):
                raise MalformedError(f"{path}[{index}]", f"not {self.form}")
        in_order(list(items), path)
        return items


def in_order(keys: list[Any], path: str) -> None:
    """Raises MalformedError unless `keys` rise strictly."""
    if any(not lower < upper for lower, upper in itertools.pairwise(keys)):
        raise MalformedError(path, "entries are not sorted, or one stands twice")


HASH = Bytes((32,))
HASH_OR_NONE = Bytes((0, 32))
NAME = Text(is_name, "1 to 64 characters of a-z, 0-9, - and _")
CODE = Text(lambda text: _CODE.match(text) is not None, "a code")
CODE_OR_NONE = Text(lambda text: text == "" or _CODE.match(text) is not None, "a code or nothing")
WORDS = Text(lambda text: 0 < len(text) <= limits.MAX_TEXT and text.isascii() and text.isprintable(), "printable text")
NAMES = Scalars(is_name, NAME.form, limits.MAX_MEMBERS)
SOME_NAMES = Scalars(is_name, NAME.form, limits.MAX_MEMBERS, 1)
PROTOCOLS = Scalars(lambda number: number > 0, "a number above 0", 16, 1)
ROUND = Whole(1, limits.MAX_ROUND)
ATTEMPT = Whole(1, limits.MAX_ATTEMPTS)
LENGTH = Whole(1, limits.MAX_LENGTH)
MEMBERS = Whole(0, limits.MAX_MEMBERS)
BITS = Whole(8, 64)


def constant(text: str) -> Text:
    """The only value this release knows."""
    return Text(lambda value: value == text, repr(text))


def one_of(*texts: str) -> Text:
    """One of the values this release knows."""
    return Text(lambda value: value in texts, " or ".join(map(repr, texts)))
