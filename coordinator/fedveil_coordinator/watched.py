"""What is announced of a run, numbered, for whoever watches it."""

from dataclasses import dataclass

WATCHED_BOUND = 4096
"""Announcements of a run that are kept for those who begin to watch later; the log has all."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One announcement of a run, numbered from 1."""

    number: int
    kind: str
    facts: tuple[tuple[str, str], ...]
