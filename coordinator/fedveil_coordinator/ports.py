"""What the coordinator's driver needs from its surroundings: sessions, journal, workers.

Built in `fedveil_cli`, in the store and in simulations.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.leafshape import Shape
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import CoordinatorMessage, SignedBlob, StatusNotice, SumRef
from fedveil_common.plan import Plan
from fedveil_common.ports import LeafSink, LeafSource

from fedveil_coordinator.events import Event


class Outlet(Protocol):
    """The sending end of one session."""

    def send(self, message: CoordinatorMessage) -> None:
        """Queue a message; never blocks. A full queue closes the session, which then starts anew."""
        ...

    def close(self, code: str) -> None:
        """End the session, telling the participant the code."""
        ...


class Journal(Protocol):
    """What the driver keeps: facts, runs, opened sums, spooled inputs."""

    def append(self, run_id: RunId, records: list[tuple[str, bytes]]) -> None: ...  # noqa: D102
    def facts(self, run_id: RunId) -> list[tuple[str, bytes]]: ...  # noqa: D102
    def create_run(self, run_id: RunId, canonical: bytes, created_s: float) -> None: ...  # noqa: D102
    def set_status(self, run_id: RunId, status: str, code: str) -> None: ...  # noqa: D102
    def unfinished(self) -> list[tuple[RunId, bytes]]: ...  # noqa: D102
    def owe(self, run_id: RunId, orgs: tuple[OrgId, ...]) -> None: ...  # noqa: D102
    def owed(self, org_id: OrgId) -> list[RunId]: ...  # noqa: D102
    def delivered(self, run_id: RunId, org_id: OrgId) -> None: ...  # noqa: D102
    def save_answer(self, query_digest: bytes, ref: SumRef) -> None: ...  # noqa: D102
    def answer(self, query_digest: bytes) -> SumRef | None: ...  # noqa: D102
    def new_sum(self, run_id: RunId, round: int, length: int, bits: int) -> LeafSink: ...  # noqa: D102
    def read_sum(self, run_id: RunId, round: int) -> Signed: ...  # noqa: D102
    def open_input(self, key: AttemptKey, org_id: OrgId) -> LeafSource: ...  # noqa: D102
    def discard_inputs(self, key: AttemptKey) -> None: ...  # noqa: D102
    def new_product(self, key: AttemptKey, shape: Shape) -> LeafSink: ...  # noqa: D102
    def new_noise(self, key: AttemptKey, shape: Shape) -> LeafSink: ...  # noqa: D102
    def open_product(self, key: AttemptKey) -> LeafSource: ...  # noqa: D102
    def open_answer(self, key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...]) -> LeafSource: ...  # noqa: D102
    def keep_inputs(  # noqa: D102
        self,
        key: AttemptKey,
        survivors: tuple[OrgId, ...],
        quorum: tuple[int, ...] = (),
        holders: tuple[OrgId, ...] = (),
    ) -> None: ...


class Releases(Protocol):
    """What the driver knows of the registry of models; `registry.Registry` is it."""

    def countersigned(self, org_id: OrgId, blob: SignedBlob) -> RunId:
        """Keep a member's countersignature; of which run. PeerError or ConfigError: nothing was kept."""
        ...

    def check_first_model(self, plan: Plan) -> None:
        """Returns if a run may go on from where the plan says. PolicyRefusal `model_withdrawn`."""
        ...

    def notice(self) -> StatusNotice:
        """The status list in force."""
        ...


class Workers(Protocol):
    """Where heavy arithmetic runs: a bounded pool in production, inline in a simulation."""

    @property
    def pool(self) -> Executor | None:
        """For parallel pieces of one job; None: do them in order."""
        ...

    def submit(self, work: Callable[[], Event], post: Callable[[Event], None]) -> None:
        """Run `work`; post the event it returns. `work` raises nothing but defects."""
        ...
