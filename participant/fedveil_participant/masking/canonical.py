"""The canonical form of masking rules: RFC 8785 JSON with every default written out; its SHA-256 is the masking digest.

Promise: comments, layout, the order of fields and of columns do not matter; the SHA-256 of each hierarchy's bytes
stands in it. Nothing in it is secret: it says where the key is found, and has none.
"""

import dataclasses
from collections.abc import Mapping

from fedveil_common import jcs

from fedveil_participant.masking.hierarchy import Hierarchy
from fedveil_participant.masking.rules import Grouping, OnFail, Release, Rules, Step

VERSION = 1


def canonical(read: Rules) -> bytes:
    """The canonical bytes of rules: what the masking digest is of."""
    return jcs.dumps(
        {
            "version": VERSION,
            "dataset": read.dataset,
            "key_ref": read.key_ref,
            "columns": {
                name: {"class": rule.kind.value, "do": [{step.NAME: form(step)} for step in rule.steps]}
                for name, rule in read.columns.items()
            },
            "unlisted": "refuse",
            "aggregate": None if read.aggregate is None else form(read.aggregate),
            "release": None if read.release is None else form(read.release),
        }
    )


def form(value: Step | Grouping | Release) -> dict[str, jcs.Json]:
    """The fields of a value of rules, as JSON."""
    found: dict[str, jcs.Json] = {}
    for one in dataclasses.fields(value):
        member = getattr(value, one.name)
        match member:
            case Hierarchy():
                found[one.name] = member.sha256
            case OnFail():
                found[one.name] = member.value
            case Mapping():
                found[one.name] = dict(member)
            case _:
                found[one.name] = list(member) if isinstance(member, tuple) else member
    return found
