"""An event loop whose time a test moves ahead: limits of ten seconds and more keep their value and cost no waiting."""

import asyncio
from collections.abc import Coroutine


class HurriedLoop(asyncio.SelectorEventLoop):
    """Its time is the machine's, and what `hurry` added."""

    _ahead_s = 0.0

    def time(self) -> float:
        """Seconds on the loop's clock."""
        return super().time() + self._ahead_s

    def hurry(self, seconds: float) -> None:
        """From any thread: so many seconds have passed."""
        self.call_soon_threadsafe(self._pass, seconds)

    def _pass(self, seconds: float) -> None:
        self._ahead_s += seconds

    def run(self, work: Coroutine[object, object, None]) -> None:
        """`work` to its end, on this loop."""
        with asyncio.Runner(loop_factory=lambda: self) as runner:
            runner.run(work)
