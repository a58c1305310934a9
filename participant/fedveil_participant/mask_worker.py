"""The work of the process that makes masks ahead of time: read one request, build tables, write masks for ever.

Promise: it ends when its input ends, also because the participant died, and when nobody reads what it writes; nothing
is written but masks. Its entropy is its own: a mask is made once, here, and is the participant's from then on.
Not constant-time: see `encryption`. Source: docs/paillier.md, section 3 (P6, G10).
"""

from collections.abc import Callable
from threading import Thread
from typing import IO

from fedveil_common.ports import Entropy

from fedveil_participant.mask_frames import Request

BATCH = 8
"""Masks made together, column after column: the table of a column is in the cache for all of them."""


def serve(requests: IO[bytes], masks: IO[bytes], entropy: Entropy, end: Callable[[], None]) -> None:
    """Writes masks until it cannot: OSError. `end` ends the process; called from a thread when `requests` has ended.

    A pipe that is full holds it up, so as many wait as the reader wants, and at most BATCH more.
    """
    request = Request.read_from(requests)

    def watch() -> None:
        requests.read(1)
        end()

    Thread(target=watch, name="life", daemon=True).start()
    tables, width = request.tables(), len(request.columns)
    while True:
        for mask in tables.masks(BATCH, width, entropy):
            masks.write(request.write_mask(mask))
        masks.flush()
