"""The world of a simulation: a clock that moves when nothing else can, and entropy that one seed fixes.

A seeded simulation repeats byte for byte. It is NOT private: whoever knows the seed knows every key and mask.
"""

from fedveil_common.crypto.draws import Draws
from fedveil_common.crypto.labels import h, u64
from fedveil_common.secret import Seed


class SimulatedClock:
    """Both clocks of `ports.Clock`, in seconds; moved only by `advance_to`."""

    START_WALL_S = 1_700_000_000.0

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic_s(self) -> float:
        """Seconds since the simulation began."""
        return self._now

    def wall_s(self) -> float:
        """A date in 2023, plus the seconds since the simulation began."""
        return self.START_WALL_S + self._now

    def advance_to(self, instant: float) -> None:
        """Move the clock forward; it never goes back."""
        self._now = max(self._now, instant)


class SeededEntropy:
    """Bytes that depend on the seed, the name of their taker and how many were taken before. For simulations only."""

    def __init__(self, seed: int, taker: str) -> None:
        self._draws = Draws(Seed(h("simulation/entropy", u64(seed), taker.encode())))
        self._count = 0

    def take(self, size: int) -> bytes:
        """`size` bytes."""
        self._count += 1
        return self._draws.bytes("take", size, u64(self._count))
