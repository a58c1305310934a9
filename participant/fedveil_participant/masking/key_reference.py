"""Where a masking key is found: the form of `key_ref`. Reading it is the edge's work."""

import re
from dataclasses import dataclass

_REFERENCE = re.compile(r"(?:env:[A-Za-z_][A-Za-z0-9_]{0,199}|credential:[A-Za-z0-9_.-]{1,200}|file:.{1,1000})\Z")


@dataclass(frozen=True, slots=True)
class KeyReference:
    """`kind`: env, file or credential; `name`: the variable, path or credential."""

    kind: str
    name: str


def is_key_reference(text: str) -> bool:
    """Whether `text` is env:NAME, file:PATH or credential:NAME."""
    return _REFERENCE.match(text) is not None and text not in {"credential:.", "credential:.."}


def parse_key_reference(text: str) -> KeyReference:
    """The reference in a `key_ref` that was checked; ValueError for another text."""
    if not is_key_reference(text):
        raise ValueError("not a key reference")
    kind, _, name = text.partition(":")
    return KeyReference(kind, name)
