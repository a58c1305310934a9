"""Steps on texts: characters masked, cut off, patterns redacted, dates made coarse, labels looked up.

Promise: patterns are matched by RE2, whose time is linear in the text whatever stands in it.
"""

import datetime
import re
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from fedveil_participant.masking.rules import MaskCharacters

_MONTH = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|m(?:ä|ae)rz|apr(?:il)?|ma[iy]|june?|juni|july?|juli|aug(?:ust)?"
    r"|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_PATTERNS = {
    "iban": r"(?i)\b[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]{4}){2,7}(?:[ -]?[a-z0-9]{1,3})?\b",
    "email": r"[^\s@<>()\[\],;:\"']+@[^\s@<>()\[\],;:\"']+\.[\pL0-9-]{2,}",
    "date": r"(?i)\b(?:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?)?"
    r"|[0-9]{1,2}[-/. ]{1,2}[0-9]{1,2}[-/. ]{1,2}(?:[0-9]{4}|[0-9]{2})"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th|\.)?[ -]{{1,2}}{_MONTH}\.?[ ,-]{{1,2}}[0-9]{{2,4}}"
    rf"|{_MONTH}\.? [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}})\b",
    "phone": r"(?:\+|\b)[0-9](?:[ ()./-]{0,3}[0-9]){6,14}\b",
}
"""In the order in which they are replaced: a later pattern would match a part of an earlier one."""

REDACTED = "[redacted]"


def redacted(texts: pa.Array, patterns: Sequence[str]) -> pa.Array:
    """Each text with what the patterns match replaced by `[pattern]`; by `[redacted]` as a whole under `all`."""
    if "all" in patterns:
        return pa.array([REDACTED] * len(texts), pa.string())
    for name, pattern in _PATTERNS.items():
        if name in patterns:
            texts = pc.replace_substring_regex(texts, pattern, f"[{name}]")
    return texts


def masked(text: str, step: MaskCharacters) -> str:
    """All characters but those kept become the mask's; where none would be masked, all are."""
    hidden = len(text) - step.keep_first - step.keep_last
    if hidden <= 0:
        return step.char * len(text)
    return text[: step.keep_first] + step.char * hidden + text[len(text) - step.keep_last :]


_SEPARATED = r"([0-9]{1,4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,4})(?:[T ].*)?\Z"
_DATE = re.compile(_SEPARATED, re.S)


def parse_date(text: str, order: str) -> datetime.date | None:
    """The date in a text written year, month, day (or as `order` says), with or without a time; None if there is none.

    The day is that of the text: an instant is not moved into another zone.
    """
    found = _DATE.match(text)
    if found is None:
        return None
    parts = dict(zip(order, found.groups(), strict=True))
    if len(parts["y"]) != 4 or max(len(parts["m"]), len(parts["d"])) > 2:
        return None
    try:
        return datetime.date(int(parts["y"]), int(parts["m"]), int(parts["d"]))
    except ValueError:
        return None


_SHOWN: dict[str, Callable[[datetime.date], str]] = {
    "day": lambda date: date.isoformat(),
    "month": lambda date: f"{date.year:04}-{date.month:02}",
    "quarter": lambda date: f"{date.year:04}-Q{(date.month + 2) // 3}",
    "year": lambda date: f"{date.year:04}",
    "decade": lambda date: f"{date.year // 10 * 10:04}",
}


def coarse_date(date: datetime.date, to: str) -> str:
    """The date at a level of `steps.DATE_LEVELS`; a year and a decade are numbers."""
    return _SHOWN[to](date)
