"""When inputs are given, and in which month something counts: instants seen on the clocks and calendar of a place.

Promise: pure. An instant has one local time, whatever summer time does: an hour that is missing in spring is never
reached, and one that comes twice in autumn counts both times.
"""

import zoneinfo
from datetime import UTC, datetime

from fedveil_participant.policy.rules import HoursRules

_DAY_MINUTES = 24 * 60


def within(hours: HoursRules | None, wall_s: float) -> bool:
    """Whether an input may be given at `wall_s` (seconds since 1970-01-01 UTC); always where there is no rule."""
    if hours is None:
        return True
    local = _local(wall_s, hours.zone)
    minute, day = local.hour * 60 + local.minute, local.weekday()
    if hours.start < hours.end:
        return day in hours.days and hours.start <= minute < hours.end
    return (day in hours.days and minute >= hours.start) or ((day - 1) % 7 in hours.days and minute < hours.end)


def month_of(wall_s: float, zone: str) -> str:
    """The calendar month of an instant, as in 2026-03."""
    local = _local(wall_s, zone)
    return f"{local.year:04d}-{local.month:02d}"


def clock_text(minute: int) -> str:
    """A minute of the day, as in 08:00."""
    return f"{minute % _DAY_MINUTES // 60:02d}:{minute % 60:02d}"


def _local(wall_s: float, zone: str) -> datetime:
    return datetime.fromtimestamp(wall_s, UTC).astimezone(zoneinfo.ZoneInfo(zone))
