"""An organisation's own trainer behind the `Trainer` port: its code, run by its own Python, under its own approval.

Promise: the plan names a trainer, and this machine alone says what runs under that name. The digest of the code is set
when a plan is first accepted with it (`Approvals`); code that differs from it does not run, in that run or a later one,
until the operator approves the new digest. All refusals are `LocalRefusal`: why a participant is out, the coordinator
does not hear.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from fedveil_common import design
from fedveil_common.errors import LocalRefusal
from fedveil_common.jcs import Json
from fedveil_common.plan import BinaryTarget, FloatTarget, ModelKind, Plan, canonical, parameters, plan_hash
from fedveil_common.ports import Clock
from numpy.typing import NDArray

from fedveil_participant.data.prepare import Rows
from fedveil_participant.training import child, code_tree
from fedveil_participant.training.answer import Answer
from fedveil_participant.training.child import Patience, Program
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.trainer import Trainer

ISOLATION = "none"
"""How far a trainer is kept from the rest of this machine: a process of its own, and no further."""


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """What an organisation says about a trainer. `python`: the interpreter. `entry`: module:Class. `code`: a folder."""

    name: str
    python: str
    entry: str
    code: Path
    memory_bytes: int


class Approvals(Protocol):
    """Which code (digest, 32 bytes) was approved for a plan (hash); kept durably."""

    def get(self, plan_hash: bytes) -> bytes | None: ...  # noqa: D102
    def put(self, plan_hash: bytes, digest: bytes) -> None: ...  # noqa: D102


class MemoryApprovals(dict[bytes, bytes]):
    """Approvals of a simulation."""

    def put(self, plan_hash: bytes, digest: bytes) -> None:
        """See `Approvals`."""
        self[plan_hash] = digest


class Trainers:
    """The trainer of each plan: the built-in one, or the one that this organisation has under the plan's name."""

    def __init__(
        self,
        configs: Mapping[str, TrainerConfig],
        approvals: Approvals,
        clock: Clock,
        log: Callable[[str, bytes], None],
    ) -> None:
        self._configs, self._approvals, self._clock, self._log = dict(configs), approvals, clock, log

    def accept(self, plan: Plan) -> None:
        """The plan may run here with the code as it is now. LocalRefusal `trainer_missing`, `trainer_changed`."""
        if plan.model.kind is not ModelKind.TRAINER:
            return
        config, digest = self._config(plan), plan_hash(canonical(plan))
        found = code_tree.digest(config.code)
        if self._approvals.get(digest) is None:
            self._approvals.put(digest, found)
        self._check(config, plan, found)

    def trainer(self, plan: Plan) -> Trainer:
        """Who trains under this plan. LocalRefusal `trainer_missing`."""
        if plan.model.kind is not ModelKind.TRAINER:
            return GradientDescent()
        config = self._config(plan)
        return OwnTrainer(
            config,
            lambda found: self._check(config, plan, found),
            self._clock,
            lambda data: self._log(config.name, data),
        )

    def _config(self, plan: Plan) -> TrainerConfig:
        config = self._configs.get(plan.model.trainer)
        if config is None:
            raise LocalRefusal(
                "trainer_missing",
                f"the plan trains with {plan.model.trainer!r} and there is no trainer of that name here",
                not_done="the plan was not accepted",
                next_step=f"fedveil participate --trainer {plan.model.trainer}=CONFIG.toml",
            )
        return config

    def _check(self, config: TrainerConfig, plan: Plan, found: bytes) -> None:
        approved = self._approvals.get(plan_hash(canonical(plan)))
        if approved != found:
            raise LocalRefusal(
                "trainer_changed",
                f"the code of the trainer {config.name} has the digest {found.hex()}, "
                f"approved is {'none' if approved is None else approved.hex()}",
                not_done="it was not run",
                next_step="put the approved code back, or approve this one: --trainer NAME=CONFIG@DIGEST",
            )


def _discard(name: str, data: bytes) -> None:
    """Nothing is printed where there is no trainer."""


class _NoClock:
    """Nobody waits where there is no trainer."""

    def monotonic_s(self) -> float:
        raise AssertionError

    def wall_s(self) -> float:
        raise AssertionError


BUILT_IN = Trainers({}, MemoryApprovals(), _NoClock(), _discard)
"""An organisation without trainers of its own."""


class OwnTrainer:
    """One plan's trainer. `check`: raises unless the code with this digest may run."""

    def __init__(
        self,
        config: TrainerConfig,
        check: Callable[[bytes], None],
        clock: Clock,
        log: Callable[[bytes], None],
    ) -> None:
        self._config, self._check, self._clock, self._log = config, check, clock, log

    def update(self, plan: Plan, model: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
        """See `Trainer.update`; always finite. LocalRefusal `trainer_*`."""
        if not len(rows):
            return np.zeros(model.shape, dtype=np.float64)
        return self._call("update", plan, model, rows.inputs, rows.target, (plan.model.parameters,))

    def outputs(self, plan: Plan, model: NDArray[np.float32], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Trainer.outputs`; always finite. LocalRefusal `trainer_*`."""
        shape = (len(inputs), parameters.outputs(plan.data.target))
        if not len(inputs):
            return np.zeros(shape, dtype=np.float64)
        return self._call("outputs", plan, model, inputs, np.zeros(0), shape)

    def _call(
        self,
        name: str,
        plan: Plan,
        model: NDArray[np.float32],
        inputs: NDArray[np.float64],
        target: NDArray[np.float64],
        shape: tuple[int, ...],
    ) -> NDArray[np.float64]:
        config = self._config
        patience = Patience(plan.cohort.progress_s, plan.cohort.hard_limit_s)
        with tempfile.TemporaryDirectory(prefix="fedveil-code-") as folder:
            code = Path(folder) / "code"
            self._check(code_tree.copy(config.code, code))
            return child.call(
                Program(config.python, code, config.memory_bytes),
                job(plan, config.entry, name, len(inputs)),
                model,
                (inputs, target),
                Answer(config.name, name, shape),
                patience,
                self._clock,
                self._log,
            )


def job(plan: Plan, entry: str, name: str, rows: int) -> dict[str, Json]:
    """The header of a call: what a trainer may know of the plan. No id of run, round or organisation is in it."""
    kinds = {BinaryTarget: "binary", FloatTarget: "float"}
    return {
        "call": name,
        "entry": entry,
        "parameters": plan.model.parameters,
        "rows": rows,
        "inputs": plan.data.inputs,
        "outputs": parameters.outputs(plan.data.target),
        "target": kinds.get(type(plan.data.target), "category"),
        "names": list(design.input_names(plan)),
        "training": {
            "local_epochs": plan.training.local_epochs,
            "batch_size": plan.training.batch_size,
            "learning_rate": plan.training.learning_rate,
            "proximal_mu": plan.training.proximal_mu,
            "seed": plan.training.seed,
        },
    }
