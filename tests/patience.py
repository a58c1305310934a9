"""How long a test waits for what a real process, thread or socket does: far longer than a machine stands still.

A limit here is a guard against a test that hangs; no test measures with it. A rented machine may stop for 20 seconds.
"""

import threading
import time
from collections.abc import Callable

LIMIT_S = 180.0


def eventually(condition: Callable[[], bool], what: str = "it", pause_s: float = 0.01) -> None:
    """Poll until the condition holds."""
    end, waiting = time.monotonic() + LIMIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        waiting.wait(pause_s)
