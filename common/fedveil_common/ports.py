"""What the machines need from the world: time, entropy, failpoints. Built in `fedveil_cli` and in simulations only.

Nobody else calls `time.*`, `secrets`, `os.urandom` or a random generator.
"""

from typing import Protocol


class Clock(Protocol):
    """Two clocks: deadlines use `monotonic_s`, certificates and records use `wall_s`."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; meaningful only as differences."""
        ...

    def wall_s(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...


class Entropy(Protocol):
    """Random bytes fit for keys."""

    def take(self, size: int) -> bytes:
        """`size` bytes: the operating system's CSPRNG in production, a seeded stream in a simulation."""
        ...


class Failpoints(Protocol):
    """Named places at which a test may end the process; in production `hit` does nothing."""

    def hit(self, name: str) -> None:
        """Called at the named place; returns, or never returns."""
        ...


class NoFailpoints:
    """The production failpoints: none."""

    def hit(self, name: str) -> None:
        """Returns at once."""
