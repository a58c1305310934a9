"""Where drivers send long work: a small bounded pool of threads (the arithmetic inside releases the GIL).

A defect in such work is ours: it is logged once and ends the process, because a machine that waits for an answer that
will never come is worse than one that starts again from its journal.
"""

import os
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import structlog
from fedveil_common.errors import FedveilError
from fedveil_coordinator.events import Event

log = structlog.get_logger("fedveil.workers")

THREADS = 2
DEFECT_EXIT = 70


def stop_process(error: BaseException) -> None:
    """End this process at once with the exit code of what went wrong; the journal is the state."""
    code = error.exit_code if isinstance(error, FedveilError) else DEFECT_EXIT
    name = error.code if isinstance(error, FedveilError) else type(error).__name__
    log.error("process.stopped", code=name)
    if os.environ.get("FEDVEIL_TRACEBACK") == "1":
        traceback.print_exception(error)
    os._exit(code)


class CoordinatorWorkers:
    """The coordinator's: jobs in one pool, the parallel pieces of a job in another: neither waits for itself."""

    def __init__(self) -> None:
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="fedveil-job")
        self._pieces = ThreadPoolExecutor(THREADS, thread_name_prefix="fedveil-piece")

    @property
    def pool(self) -> Executor | None:
        """For the pieces of one job."""
        return self._pieces

    def submit(self, work: Callable[[], Event], post: Callable[[Event], None]) -> None:
        """Run `work` and post its event."""

        def run() -> None:
            try:
                post(work())
            except BaseException as error:  # noqa: BLE001 - the last resort of this thread
                stop_process(error)

        self._jobs.submit(run)


class ParticipantWorkers:
    """The participant's: training, masking, uploads."""

    def __init__(self) -> None:
        self._jobs = ThreadPoolExecutor(THREADS, thread_name_prefix="fedveil-job")
        self._pieces = ThreadPoolExecutor(THREADS, thread_name_prefix="fedveil-piece")

    @property
    def pool(self) -> Executor | None:
        """For the pieces of one job."""
        return self._pieces

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which posts what comes of it."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - the last resort of this thread
                stop_process(error)

        self._jobs.submit(run)
