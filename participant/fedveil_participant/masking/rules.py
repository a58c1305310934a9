"""Masking rules as values: what each column is, and the steps by which it is masked.

Promise: a `Rules` was read and checked as a whole (`parse_rules`); it holds no key. Every operator is one frozen value;
its fields are its parameters with the defaults written out, and they are what the masking digest covers.
Source: docs/masking.md has the file's form.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedveil_participant.masking.hierarchy import Hierarchy


class ColumnClass(enum.Enum):
    """What a column says about a person."""

    IDENTIFIER = "identifier"
    QUASI = "quasi"
    SENSITIVE = "sensitive"
    FEATURE = "feature"
    FREE_TEXT = "free_text"


class OnFail(enum.Enum):
    """What happens to a table below the thresholds."""

    REFUSE = "refuse"
    SUPPRESS = "suppress"
    GENERALISE = "generalise"


@dataclass(frozen=True, slots=True)
class Keep:
    """As it is."""

    NAME: ClassVar[str] = "keep"


@dataclass(frozen=True, slots=True)
class Drop:
    """The column is left out."""

    NAME: ClassVar[str] = "drop"


@dataclass(frozen=True, slots=True)
class Redact:
    """What looks like one of `patterns` is replaced by its name in brackets; `all` replaces the whole cell."""

    NAME: ClassVar[str] = "redact"
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pseudonym:
    """`length` base32 characters (26 to 52) of HMAC-SHA256. `domain` None: of this column alone. `typed`: a number is
    the same however it is written.
    """

    NAME: ClassVar[str] = "pseudonym"
    scope: str
    domain: str | None
    length: int
    typed: bool


@dataclass(frozen=True, slots=True)
class Surrogate:
    """Random base32 characters, the same for the same value within one output."""

    NAME: ClassVar[str] = "surrogate"
    length: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """The first `keep` characters."""

    NAME: ClassVar[str] = "truncate"
    keep: int


@dataclass(frozen=True, slots=True)
class MaskCharacters:
    """Every character but the first `keep_first` and the last `keep_last` becomes `char`; shorter cells wholly."""

    NAME: ClassVar[str] = "mask"
    keep_first: int
    keep_last: int
    char: str


@dataclass(frozen=True, slots=True)
class Ranges:
    """Numbers become the range of `width` that they lie in, counted from `origin`; `then`: coarser widths."""

    NAME: ClassVar[str] = "generalise"
    width: float
    origin: float
    show: str
    then: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Dates:
    """Dates become their decade, year, quarter, month or day; `order` says how they are written; `then`: coarser."""

    NAME: ClassVar[str] = "generalise"
    to: str
    order: str
    then: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lookup:
    """Values become what the hierarchy has at `level`; values that it lacks become `other`, or are refused."""

    NAME: ClassVar[str] = "hierarchy"
    file: str
    level: int
    other: str | None
    then: tuple[int, ...]
    hierarchy: Hierarchy


@dataclass(frozen=True, slots=True)
class Clamp:
    """Numbers below `min` become it, numbers above `max` become that."""

    NAME: ClassVar[str] = "clamp"
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Suppress:
    """Cells that match become missing, or their rows go: one of `values`, `below`, `above`, or a value that fewer than
    `rarer_than` rows of the table as it was read have.
    """

    NAME: ClassVar[str] = "suppress"
    what: str
    values: tuple[str, ...]
    below: float | None
    above: float | None
    rarer_than: int | None


@dataclass(frozen=True, slots=True)
class Microaggregate:
    """Each number becomes the mean of its group of `k` or more neighbours in order of size; equal numbers together."""

    NAME: ClassVar[str] = "microaggregate"
    k: int


@dataclass(frozen=True, slots=True)
class Noise:
    """Discrete Laplace noise of `scale` on multiples of `grid`, both in the column's unit."""

    NAME: ClassVar[str] = "noise"
    scale: float
    grid: float


@dataclass(frozen=True, slots=True)
class Fpe:
    """FF1 over `alphabet`; characters of `separators` stay where they are. `domain` None: of this column alone."""

    NAME: ClassVar[str] = "fpe"
    alphabet: str
    separators: str
    tweak: str
    scope: str
    domain: str | None


Step = (
    Keep
    | Drop
    | Redact
    | Pseudonym
    | Surrogate
    | Truncate
    | MaskCharacters
    | Ranges
    | Dates
    | Lookup
    | Clamp
    | Suppress
    | Microaggregate
    | Noise
    | Fpe
)
Levelled = Ranges | Dates | Lookup
"""Steps that can go up a level."""

KEYED = (Pseudonym, Fpe, Noise)
"""Steps that need the masking key."""

HIDING = (Drop, Pseudonym, Surrogate, MaskCharacters, Ranges, Dates, Lookup, Fpe)
"""Steps that leave no cell as it was, whatever stands in it; an identifier has at least one, or `redact: all`."""


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """One column: what it is, and its steps in order; at least one."""

    name: str
    kind: ColumnClass
    steps: tuple[Step, ...]

    @property
    def dropped(self) -> bool:
        """Whether the column is left out."""
        return any(isinstance(step, Drop) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Release:
    """Thresholds of a table that leaves: None is not asked for. `max_suppression`: share of the rows, 0 to 1."""

    k: int | None
    l: int | None  # noqa: E741 - the name of the measure
    t: float | None
    max_suppression: float
    on_fail: OnFail


@dataclass(frozen=True, slots=True)
class Grouping:
    """The table becomes one row for each group: `by`, the number of rows as `count`, and a measure of each column."""

    by: tuple[str, ...]
    k: int
    count: str
    measures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole file of masking rules. `digest`: SHA-256 of the canonical form, what an approval binds."""

    dataset: str
    key_ref: str | None
    columns: Mapping[str, ColumnRule]
    aggregate: Grouping | None
    release: Release | None
    digest: bytes

    @property
    def needs_key(self) -> bool:
        """Whether a step needs the masking key."""
        return any(isinstance(step, KEYED) for rule in self.columns.values() for step in rule.steps)

    @property
    def needs_entropy(self) -> bool:
        """Whether a step draws at random."""
        return any(isinstance(step, Surrogate) for rule in self.columns.values() for step in rule.steps)

    def mixing(self, *, release: bool) -> tuple[str, ...]:
        """What of these rules looks beyond the row it masks, for people; empty if each row is masked by itself. With
        `release` the thresholds count too. Noise is drawn for a version of the whole table: a row that comes gives all
        others new noise. Equal values get equal surrogates, whatever other rows there are.
        """
        found = [
            f"{step.NAME} of {rule.name}"
            for rule in self.columns.values()
            for step in rule.steps
            if isinstance(step, Microaggregate | Noise) or (isinstance(step, Suppress) and step.rarer_than is not None)
        ]
        if self.aggregate is not None:
            found.append("aggregate")
        if release and self.release is not None:
            found.append("release")
        return tuple(found)
