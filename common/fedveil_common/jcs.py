"""RFC 8785 (JSON Canonicalization Scheme): one value, one byte string.

Promise: `dumps(a) == dumps(b)` exactly when a and b are the same JSON value; object members are sorted by UTF-16 code
units, numbers are written as ECMAScript's shortest round-trip form, nothing but the value is in the bytes.
Whatever is hashed or signed as JSON in Fedveil goes through here. Source: RFC 8785 sections 3.2.2 and 3.2.3.
"""

import json
import math
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

MAX_INTEGER = 2**53 - 1
"""Beyond it an integer is not exactly a double, and JSON readers disagree."""


def dumps(value: Json) -> bytes:
    """The canonical bytes of `value` (UTF-8).

    Raises ValueError for non-finite numbers, integers beyond 2^53-1, lone surrogates, nesting beyond the interpreter's
    stack (which is less than `loads` reads); TypeError for anything that is not JSON.
    """
    try:
        return _text(value).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None


def loads(data: bytes) -> Json:
    """The value in `data`, read strictly: UTF-8, no duplicate member, no NaN or Infinity, no BOM.

    Raises ValueError for everything else, nesting beyond the interpreter's stack included. Does not demand that
    `data` is canonical; compare `dumps(loads(data))` with it where that matters.
    """
    try:
        value: Json = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def number(value: float) -> str:
    """A finite double as ECMAScript's Number::toString writes it; -0 becomes 0. Raises ValueError if not finite."""
    if not math.isfinite(value):
        raise ValueError("JSON has no non-finite number")
    if value == 0:
        return "0"
    text = repr(value)
    if "e" not in text:  # 1e-4 <= |x| < 1e16: repr and ECMAScript differ only in the trailing ".0"
        return text.removesuffix(".0")
    sign = "-" if value < 0 else ""
    mantissa, exponent = text.removeprefix("-").split("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).rstrip("0")
    point = int(exponent) + 1  # the value is 0.digits * 10^point
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"


def string(value: str) -> str:
    """A string with RFC 8785's minimal escapes. Raises ValueError for a lone surrogate."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate has no UTF-8 form") from None
    return encode_basestring(value)


def _text(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            if abs(value) > MAX_INTEGER:
                raise ValueError("an integer beyond 2^53-1 has no exact double")
            return str(value)
        case float():
            return number(value)
        case str():
            return string(value)
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise TypeError("a JSON object's names are strings")
            keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
            return "{" + ",".join(f"{string(key)}:{_text(value[key])}" for key in keys) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_text, value)) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a JSON object repeats a name")
    return members


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> int | float:
    """An integer, or the nearest double of one that a double cannot hold: JSON has only doubles."""
    if len(text) <= 17 and abs(value := int(text)) <= MAX_INTEGER:
        return value
    return _finite(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond the range of a double")
    return value
