"""What a plan says otherwise than an earlier version of it, field by field."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedveil_common import jcs


@dataclass(frozen=True, slots=True)
class Change:
    """One field of the canonical plan, dotted; "" where it was not there, or is not there any more."""

    field: str
    before: str
    after: str


def changes(before: bytes, after: bytes) -> tuple[Change, ...]:
    """Every field in which two canonical plans differ, by name. Items of a list that have a name go by it."""
    old, new = dict(_leaves("", jcs.loads(before))), dict(_leaves("", jcs.loads(after)))
    return tuple(
        Change(name, old.get(name, ""), new.get(name, ""))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def _leaves(path: str, value: jcs.Json) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, member)
    elif isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(one, Mapping) for one in value):
        for index, one in enumerate(value):
            name = one.get("name") if isinstance(one, Mapping) else None
            yield from _leaves(f"{path}[{name if isinstance(name, str) else index}]", one)
    else:
        yield path, jcs.dumps(value).decode()
