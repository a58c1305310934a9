"""Whether a certificate may still be used once another one has been signed to succeed it. Pure.

The rule (docs/protocol.md 2.11). A renewal signs a successor; the certificate in force stays in force until the FIRST
CALL with the successor. From that moment on the older one is superseded, and no call that begins later is answered:
within GRACE_S it is refused and nothing else (`LATE`: a call that was on its way over the old connection), after that
it is what only a second holder of the key does (`CLONE`), and the identity is frozen. Calls that began before may end.
A successor that was withdrawn, because another key was certified in its place before it was used, counts as superseded
from its withdrawal.
So a lost answer locks nobody out (the successor was never used), and a thief who renews with a stolen key is found out
by the owner's next call, and the owner's renewal finds out the thief's.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedveil_coordinator.store.renewals import Renewal

GRACE_S = 60.0
"""How long after its successor's first use a call with the older certificate is taken for one that was on its way."""


class Use(enum.Enum):
    """What a call that begins now is, judged by its certificate's place."""

    ORDINARY = "ordinary"
    FIRST = "first"  # the predecessor is superseded by it
    LATE = "late"  # refused
    CLONE = "clone"  # refused, and the identity is frozen


@dataclass(frozen=True, slots=True)
class Place:
    """Where a certificate stands among those of its identity. Times are seconds since 1970.

    `predecessor`: its serial; empty for one that succeeds none. `used`: a call was made with it, or it succeeds none.
    `ended_s`: since when another one counts in its stead. `withdrawn`: it never came into use and never will.
    """

    predecessor: str = ""
    made_s: float = 0.0
    used: bool = True
    ended_s: float | None = None
    withdrawn: bool = False


FIRST_OF_ALL = Place()
"""Of a certificate that no renewal made."""


def judge(place: Place, now: float) -> Use:
    """What a call that begins at `now` is."""
    if place.ended_s is not None:
        return Use.LATE if now - place.ended_s <= GRACE_S else Use.CLONE
    return Use.ORDINARY if place.used else Use.FIRST


def places(renewals: Iterable[Renewal]) -> dict[str, Place]:
    """The place of every certificate that succeeds, or is succeeded by, another one; by serial."""
    found: dict[str, Place] = {}
    for renewal in renewals:
        made = Place(renewal.predecessor, renewal.made_s, used=False)
        before = found.get(renewal.serial, made)  # its successor may have been read before it
        found[renewal.serial] = replace(made, ended_s=before.ended_s)
        if renewal.withdrawn_s is not None:
            found[renewal.serial] = withdrawn(found[renewal.serial], renewal.withdrawn_s)
        if renewal.used_s is not None:
            used(found, renewal.serial, renewal.used_s)
    return found


def used(found: dict[str, Place], serial: str, at_s: float) -> None:
    """The first call with `serial` was made at `at_s`: changes its place and its predecessor's."""
    place = found.get(serial, FIRST_OF_ALL)
    found[serial] = replace(place, used=True)
    before = found.get(place.predecessor, FIRST_OF_ALL)
    if place.predecessor and (before.ended_s is None or at_s < before.ended_s):
        found[place.predecessor] = replace(before, ended_s=at_s)


def withdrawn(place: Place, at_s: float) -> Place:
    """The place of a successor that another key's took before it was used."""
    return replace(place, ended_s=at_s, withdrawn=True)
