"""Each operator of the rules file from its parameters: one reader per name, every problem recorded with its line."""

from collections.abc import Callable, Mapping
from fractions import Fraction

from fedveil_common.dp import laplace
from fedveil_common.errors import FedveilError
from fedveil_common.plan.section import Section
from fedveil_common.plan.yaml_tree import Node, Scalar

from fedveil_participant.masking import rules
from fedveil_participant.masking.hierarchy import MAX_LEVELS, BadHierarchy, Hierarchy, parse_hierarchy

ReadBeside = Callable[[str], bytes]
"""The bytes of a file beside the rules, by its name; FedveilError if it cannot be read."""

PATTERNS = ("email", "phone", "iban", "date")
ALL = "all"
DATE_LEVELS = ("day", "month", "quarter", "year", "decade")
"""From fine to coarse; each is a coarsening of those before."""

DATE_ORDERS = ("ymd", "dmy", "mdy")
SHOWN = ("lower", "middle", "range")
ALPHABETS: Mapping[str, str] = {
    "digits": "0123456789",
    "lowercase": "abcdefghijklmnopqrstuvwxyz",
    "uppercase": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "letters": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "alphanumeric": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
}
TOKEN_CHARACTERS = (26, 52)
"""26 base32 characters are 130 bits: no two of a billion values share a pseudonym by chance."""

MAX_K = 1_000_000
MAX_CHARACTERS = 100_000
_LARGEST = 1e300


class StepReader:
    """Reads the steps of one file; hierarchies through `beside`, each file once."""

    def __init__(self, beside: ReadBeside) -> None:
        self._beside = beside
        self._hierarchies: dict[str, Hierarchy | BadHierarchy] = {}
        self.readers: Mapping[str, Callable[[Section], rules.Step]] = {
            "keep": lambda section: rules.Keep(),
            "drop": lambda section: rules.Drop(),
            "redact": _redact,
            "pseudonym": _pseudonym,
            "surrogate": lambda section: rules.Surrogate(section.integer("length", *TOKEN_CHARACTERS, default=26)),
            "truncate": lambda section: rules.Truncate(section.integer("keep", 1, MAX_CHARACTERS)),
            "mask": _mask,
            "generalise": _generalise,
            "hierarchy": self._lookup,
            "clamp": _clamp,
            "suppress": _suppress,
            "microaggregate": lambda section: rules.Microaggregate(section.integer("k", 2, MAX_K)),
            "noise": _noise,
            "fpe": _fpe,
        }

    def _lookup(self, section: Section) -> rules.Step:
        file = _text(section, "file")
        level = section.integer("level", 1)
        other = section.prose("other")
        then = tuple(_integers(section, "then"))
        found = self._hierarchy(section, file)
        for wanted in (level, *then):
            if wanted > found.levels:
                section.wrong("level", "range", f"level {wanted}: the file has {found.levels}")
                return rules.Lookup(file, 1, other, (), found)
        for finer, coarser in zip((level, *then), then, strict=False):
            if finer >= coarser or not found.coarsens(finer, coarser):
                section.wrong("then", "not_coarser", f"level {coarser} does not put together what level {finer} has")
        return rules.Lookup(file, level, other, then, found)

    def _hierarchy(self, section: Section, file: str) -> Hierarchy:
        if file not in self._hierarchies:
            self._hierarchies[file] = self._parsed(file)
        found = self._hierarchies[file]
        if isinstance(found, BadHierarchy):
            if file:
                section.wrong("file", found.code, found.text)
            return Hierarchy("", MAX_LEVELS, {})
        return found

    def _parsed(self, file: str) -> Hierarchy | BadHierarchy:
        if "/" in file or "\\" in file or file in {"", ".", ".."}:
            return BadHierarchy("hierarchy_file", "the name of a file beside the rules, without a folder")
        try:
            return parse_hierarchy(self._beside(file))
        except FedveilError as error:
            return BadHierarchy(error.code, error.what)
        except BadHierarchy as error:
            return error


def _redact(section: Section) -> rules.Step:
    found = [_word(section, "patterns", node) for node in section.items("patterns")]
    for word in found:
        if word not in (*PATTERNS, ALL):
            section.wrong("patterns", "choice", f"{word!r} is not one of {', '.join(PATTERNS)}, {ALL}")
    if not found:
        section.wrong("patterns", "missing", "one pattern or more")
    return rules.Redact(tuple(word for word in (*PATTERNS, ALL) if word in found))


def _pseudonym(section: Section) -> rules.Step:
    scope, domain = _scope(section)
    length = section.integer("length", *TOKEN_CHARACTERS, default=26)
    return rules.Pseudonym(scope, domain, length, section.boolean("typed", default=True))


def _scope(section: Section) -> tuple[str, str | None]:
    """(scope, domain): the same names elsewhere share the key."""
    scope = section.name("scope") if section.has("scope") else "project"
    return scope, section.name("domain") if section.has("domain") else None


def _mask(section: Section) -> rules.Step:
    first, last = (section.integer(key, 0, MAX_CHARACTERS, default=0) for key in ("keep_first", "keep_last"))
    char = section.prose("char") or "*"
    if len(char) != 1:
        section.wrong("char", "range", "one character")
    return rules.MaskCharacters(first, last, char)


def _generalise(section: Section) -> rules.Step:
    if section.has("to"):
        to = section.choice("to", DATE_LEVELS)
        order = section.choice("order", DATE_ORDERS, default=DATE_ORDERS[0])
        words = [_word(section, "then", node) for node in section.items("then", required=False)]
        known = [word for word in words if word in DATE_LEVELS]
        if known != words or [to, *known] != sorted({to, *known}, key=DATE_LEVELS.index):
            section.wrong("then", "not_coarser", f"levels go up: {', '.join(DATE_LEVELS)}")
        return rules.Dates(to, order, tuple(known))
    if not section.has("width"):
        section.wrong("width", "missing", "generalise needs `width` (of ranges of numbers) or `to` (of dates)")
    width = section.number("width", 0, _LARGEST, above=True, default=1.0)
    origin = section.number("origin", -_LARGEST, _LARGEST, default=0.0)
    show = section.choice("show", SHOWN, default=SHOWN[0])
    then = tuple(_numbers(section, "then"))
    for finer, coarser in zip((width, *then), then, strict=False):
        ratio = exact(coarser) / exact(finer)
        if ratio <= 1 or ratio.denominator != 1:
            section.wrong("then", "not_coarser", f"{coarser:g} is no multiple of {finer:g}")
    return rules.Ranges(width, origin, show, then)


def _clamp(section: Section) -> rules.Step:
    low, high = (_optional_number(section, key) for key in ("min", "max"))
    if low is None and high is None:
        section.wrong("min", "missing", "clamp needs `min`, `max` or both")
    if low is not None and high is not None and low > high:
        section.wrong("min", "range", "min is above max")
    return rules.Clamp(low, high)


def _suppress(section: Section) -> rules.Step:
    values = tuple(section.label(node, "values") for node in section.items("values", required=False))
    below, above = (_optional_number(section, key) for key in ("below", "above"))
    rarer = section.integer("rarer_than", 2, MAX_K) if section.has("rarer_than") else None
    if not values and below is None and above is None and rarer is None:
        section.wrong("values", "missing", "suppress needs one of `values`, `below`, `above`, `rarer_than`")
    return rules.Suppress(section.choice("what", ("cell", "row"), default="cell"), values, below, above, rarer)


def _noise(section: Section) -> rules.Step:
    inner = section.section("discrete_laplace")
    scale = inner.number("scale", 0, _LARGEST, above=True)
    grid = inner.number("grid", 0, _LARGEST, above=True)
    inner.close()
    steps = exact(scale) / exact(grid)
    if not laplace.MIN_SCALE <= steps <= laplace.MAX_SCALE:
        section.wrong("discrete_laplace", "range", "the scale is 1/64 to 2^24 steps of the grid")
    return rules.Noise(scale, grid)


def _fpe(section: Section) -> rules.Step:
    named = section.has("alphabet")
    alphabet = ALPHABETS[section.choice("alphabet", tuple(ALPHABETS))] if named else section.prose("characters") or ""
    if named and section.has("characters"):
        section.take("characters", required=False)
        section.wrong("characters", "choice", "either `alphabet` or `characters`")
    if not named and not 2 <= len(alphabet) <= 65_536:
        section.wrong("alphabet", "missing", "fpe needs `alphabet`, or two or more `characters`")
    if len(set(alphabet)) != len(alphabet) or any(character.isspace() for character in alphabet):
        section.wrong("characters", "range", "each character once, and no blank")
    separators = section.prose("separators") or ""
    if set(separators) & set(alphabet):
        section.wrong("separators", "range", "a separator is no character of the alphabet")
    tweak = section.prose("tweak") or ""
    return rules.Fpe(alphabet, "".join(sorted(set(separators))), tweak, *_scope(section))


def exact(value: float) -> Fraction:
    """The decimal that was written down, not the double next to it."""
    return Fraction(repr(value))


def _text(section: Section, key: str) -> str:
    if not section.has(key):
        section.wrong(key, "missing", "this field is required")
    return section.prose(key) or ""


def _word(section: Section, key: str, node: Node) -> str:
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return node.value
    section.wrong(key, "type", "expected a list of words")
    return ""


def _optional_number(section: Section, key: str) -> float | None:
    return section.number(key, -_LARGEST, _LARGEST) if section.has(key) else None


def _numbers(section: Section, key: str) -> list[float]:
    found = [section.as_number(node, key) for node in section.items(key, required=False)]
    if any(value is not None and value <= 0 for value in found):
        section.wrong(key, "range", "numbers above 0")
    return [value for value in found if value is not None and value > 0]


def _integers(section: Section, key: str) -> list[int]:
    found: list[int] = []
    for node in section.items(key, required=False):
        if isinstance(node, Scalar) and isinstance(node.value, int) and not isinstance(node.value, bool):
            found.append(max(1, node.value))
        else:
            section.wrong(key, "type", "expected a list of whole numbers")
    return found
