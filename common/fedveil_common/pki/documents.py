"""Reading signed JSON documents strictly: canonical bytes, known members only, each of its type and size.

Promise: every byte string ends in a value of the stated shape or in PeerError `bad_document`; nothing is half-valid.
"""

from collections.abc import Mapping, Sequence

from fedveil_common import jcs
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId, is_name
from fedveil_common.limits import MAX_DOCUMENT


def bad(what: str, why: str) -> PeerError:
    """The one refusal of this module, ready to raise."""
    return PeerError("bad_document", f"the {what} is not well formed: {why}")


def canonical(data: bytes, what: str, limit: int = MAX_DOCUMENT) -> jcs.Json:
    """The value in `data`, which must be its RFC 8785 form of at most `limit` bytes."""
    if len(data) > limit:
        raise bad(what, f"{len(data)} bytes, at most {limit} are allowed")
    try:
        value = jcs.loads(data)
        again = jcs.dumps(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise bad(what, "it is not JSON") from error
    must_equal(again, data, what)
    return value


def must_equal(made: bytes, received: bytes, what: str) -> None:
    """What we would write for the value must be what was received: one document, one byte string."""
    if made != received:
        raise bad(what, "it is not in canonical form")


def rows(value: jcs.Json, what: str, limit: int) -> Sequence[jcs.Json]:
    """`value` as a list of at most `limit` items."""
    if not isinstance(value, list):
        raise bad(what, "a list was expected")
    if len(value) > limit:
        raise bad(what, f"{len(value)} items, at most {limit} are allowed")
    return value


def names(value: jcs.Json, what: str, limit: int) -> tuple[OrgId, ...]:
    """`value` as a list of at most `limit` ids, sorted and unique."""
    found = tuple(OrgId(item) for item in rows(value, what, limit) if isinstance(item, str) and is_name(item))
    if len(found) != len(rows(value, what, limit)) or list(found) != sorted(set(found)):
        raise bad(what, "a sorted list of distinct ids was expected")
    return found


class Fields:
    """A JSON object with exactly the members `names`."""

    __slots__ = ("_members", "_what")

    def __init__(self, value: jcs.Json, what: str, names: set[str]) -> None:
        if not isinstance(value, Mapping) or set(value) != names:
            raise bad(what, f"an object with exactly the members {', '.join(sorted(names))} was expected")
        self._members, self._what = value, what

    def value(self, name: str) -> jcs.Json:
        """The member as it is."""
        return self._members[name]

    def text(self, name: str, limit: int) -> str:
        """A string of at most `limit` characters."""
        value = self._members[name]
        if not isinstance(value, str) or len(value) > limit:
            raise bad(self._what, f"{name} is not a string of at most {limit} characters")
        return value

    def name(self, name: str) -> str:
        """An id: 1..64 characters of [a-z0-9_-]."""
        value = self._members[name]
        if not isinstance(value, str) or not is_name(value):
            raise bad(self._what, f"{name} is not an id")
        return value

    def integer(self, name: str) -> int:
        """A positive integer below 2^53."""
        return self.whole(name, least=1)

    def whole(self, name: str, least: int = 0) -> int:
        """An integer from `least` on, below 2^53."""
        value = self._members[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise bad(self._what, f"{name} is not {'a positive integer' if least else 'a whole number'}")
        return value

    def hex(self, name: str, size: int) -> bytes:
        """`size` bytes as lower-case hex digits."""
        return _unhex(self._members[name], size, name, self._what)

    def hexes(self, name: str, size: int, limit: int) -> list[bytes]:
        """A list of such byte strings."""
        return [_unhex(item, size, name, self._what) for item in self.rows(name, limit)]

    def rows(self, name: str, limit: int) -> Sequence[jcs.Json]:
        """A list of at most `limit` items."""
        return rows(self._members[name], self._what, limit)


def _unhex(value: jcs.Json, size: int, name: str, what: str) -> bytes:
    try:
        if isinstance(value, str) and len(value) == 2 * size and value == value.lower():
            return bytes.fromhex(value)
    except ValueError:
        pass
    raise bad(what, f"{name} is not {size} bytes in lower-case hex")
