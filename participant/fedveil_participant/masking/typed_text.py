"""What a cell is equal to: numbers by their value, everything else by its text.

Promise: `5`, `5.0` and a double 5.0 of a Parquet file are one value, exactly and to any number of digits; `007`, `+5`
and `1E5` are texts, because codes, telephone numbers and names are written so and numbers of files are not.
"""

import re
from decimal import Context, Decimal

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[-+][0-9]{1,3})?\Z")
_LONGEST = 400
_STARTS = frozenset("-0123456789")
_EXACT = Context(prec=2000)


def typed(text: str) -> bytes:
    """The typed form: b"n" and the number's plain decimal, or b"t" and UTF-8. Equal exactly for equal values."""
    found = _NUMBER.match(text) if text[:1] in _STARTS and len(text) <= _LONGEST else None
    if found is None:
        return b"t" + text.encode()
    if found[2] is None and found[3] is None:
        return b"n0" if text == "-0" else b"n" + text.encode()
    plain = format(Decimal(text).normalize(_EXACT), "f")
    return b"n0" if plain == "-0" else b"n" + plain.encode()
