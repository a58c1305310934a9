"""An organisation's own trainer behind the `Trainer` port: its code, run by its own Python, under its own approval.

Promise: the plan names a trainer, and this machine alone says what runs under that name. The digest of the trainer, its
code and its description, is set when a plan is first accepted with it (`Approvals`); one that differs from it does not
run, in that run or a later one, until this organisation's people approve the new one. All refusals are `LocalRefusal`:
why a participant is out, the coordinator does not hear. Where a plan protects single records, the code is asked for
gradients and only for those; whether they are each record's own is tried out on made-up records (`row_probe`) before
the plan is accepted and before each step.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from fedveil_common import design, initial, jcs
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import h
from fedveil_common.errors import LocalRefusal
from fedveil_common.jcs import Json
from fedveil_common.plan import BinaryTarget, FloatTarget, ModelKind, Plan, Unit, canonical, parameters, plan_hash
from fedveil_common.ports import Clock
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant.data.prepare import Rows
from fedveil_participant.isolation.levels import Confinement
from fedveil_participant.training import child, code_tree
from fedveil_participant.training.answer import Answer, Answers
from fedveil_participant.training.child import Patience, Program
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.row_probe import RowProbe
from fedveil_participant.training.trainer import Take, Trainer

SCRATCH_BYTES = 256 * 1024 * 1024
"""What a trainer may write where its description says nothing of it."""


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """What an organisation says about a trainer. `python`: the interpreter. `entry`: module:name. `code`: a folder.
    `rows_at_once`: of a call of `gradients`, at most; 0 for as many as the participant has room for. `adapter`: what
    the entry is. `more`: what only the adapter reads. `scratch_bytes`: what it may write, beside a copy of its rows.
    """

    name: str
    python: str
    entry: str
    code: Path
    memory_bytes: int
    rows_at_once: int = 0
    adapter: str = "class"
    more: Mapping[str, Json] = field(default_factory=dict)
    scratch_bytes: int = SCRATCH_BYTES

    def digest(self, code: bytes) -> bytes:
        """What is approved of a trainer, 32 bytes: `code` (`code_tree.digest` of its folder) and all that is said about
        it. Where the folder lies, and under which name plans call for it, is no part of it.
        """
        said: dict[str, Json] = {
            "adapter": self.adapter,
            "entry": self.entry,
            "memory_bytes": self.memory_bytes,
            "more": dict(self.more),
            "python": self.python,
            "rows_at_once": self.rows_at_once,
            "scratch_bytes": self.scratch_bytes,
        }
        return h("trainer", code, jcs.dumps(said))


class Approvals(Protocol):
    """Which trainer (`TrainerConfig.digest`) was approved for a plan (hash); kept durably. Any thread."""

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
        configs: Mapping[str, tuple[TrainerConfig, Confinement]],
        approvals: Approvals,
        clock: Clock,
        log: Callable[[str, bytes], None],
    ) -> None:
        self._configs, self._approvals, self._clock, self._log = dict(configs), approvals, clock, log

    def accept(self, plan: Plan) -> None:
        """The plan may run here with the code as it is now. LocalRefusal `trainer_missing`, `trainer_changed`, and
        where single records are protected `trainer_without_gradients`, `trainer_mixes_rows` and all that ends a call.
        """
        if plan.model.kind is not ModelKind.TRAINER:
            return
        (config, _), digest = self._config(plan), plan_hash(canonical(plan))
        code = code_tree.digest(config.code)
        if self._approvals.get(digest) is None:
            self._approvals.put(digest, config.digest(code))
        self._check(config, plan, code)
        if plan.privacy is not None and plan.privacy.unit is Unit.RECORD:
            nothing = Rows(np.zeros((0, plan.data.inputs)), np.zeros(0))
            self.trainer(plan).gradients(
                plan, initial.initial_model(plan), nothing, (), Seed(digest), lambda each: None
            )

    def trainer(self, plan: Plan) -> Trainer:
        """Who trains under this plan. LocalRefusal `trainer_missing`."""
        if plan.model.kind is not ModelKind.TRAINER:
            return GradientDescent()
        config, confinement = self._config(plan)
        return OwnTrainer(
            config,
            confinement,
            lambda code: self._check(config, plan, code),
            self._clock,
            lambda data: self._log(config.name, data),
        )

    def _config(self, plan: Plan) -> tuple[TrainerConfig, Confinement]:
        found = self._configs.get(plan.model.trainer)
        if found is None:
            raise LocalRefusal(
                "trainer_missing",
                f"the plan trains with {plan.model.trainer!r} and there is no trainer of that name here",
                not_done="the plan was not accepted",
                next_step=f"fedveil participate --trainer {plan.model.trainer}=CONFIG.toml",
            )
        return found

    def _check(self, config: TrainerConfig, plan: Plan, code: bytes) -> None:
        found, approved = config.digest(code), self._approvals.get(plan_hash(canonical(plan)))
        if approved != found:
            raise LocalRefusal(
                "trainer_changed",
                f"the trainer {config.name}, its code and description, has the digest {found.hex()}, "
                f"approved is {'none' if approved is None else approved.hex()}",
                not_done="it was not run",
                next_step="put back what was approved, or approve this one: `fedveil approve PLAN_HASH`; where the "
                "policy names no approvers also --accept PLAN_HASH --trainer NAME=CONFIG@DIGEST",
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
    """One plan's trainer, run as `confinement` says. `check`: raises unless the code with this digest may run."""

    def __init__(
        self,
        config: TrainerConfig,
        confinement: Confinement,
        check: Callable[[bytes], None],
        clock: Clock,
        log: Callable[[bytes], None],
    ) -> None:
        self._config, self._confinement, self._check = config, confinement, check
        self._clock, self._log = clock, log

    def update(self, plan: Plan, model: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
        """See `Trainer.update`; always finite. LocalRefusal `trainer_*`."""
        if not len(rows):
            return np.zeros(model.shape, dtype=np.float64)
        answer = Answer(self._config.name, "update", (plan.model.parameters,))
        self._call(plan, model, (rows.inputs, rows.target), answer)
        assert answer.values is not None, "a call returns when its answer is complete"
        return answer.values

    def outputs(self, plan: Plan, model: NDArray[np.float32], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Trainer.outputs`; always finite. LocalRefusal `trainer_*`."""
        shape = (len(inputs), parameters.outputs(plan.data.target))
        if not len(inputs):
            return np.zeros(shape, dtype=np.float64)
        answer = Answer(self._config.name, "outputs", shape)
        self._call(plan, model, (inputs,), answer)
        assert answer.values is not None, "a call returns when its answer is complete"
        return answer.values

    def gradients(
        self,
        plan: Plan,
        model: NDArray[np.float32],
        rows: Rows,
        parts: Sequence[NDArray[np.intp]],
        secret: Seed,
        take: Take,
    ) -> None:
        """See `Trainer.gradients`; one process for all parts, and the probe before them. LocalRefusal `trainer_*`.

        A row for which the code raises an error, in its chunk and then alone, is not finite here. What the code does on
        made-up rows is all that decides whether a call is refused, but for an end of its process and for time.
        """
        assert plan.privacy is not None, "gradients are asked for where there is a privacy block"
        probe = RowProbe.drawn(plan, derive(b"", secret.expose(), "dp/probe"))
        chosen = np.concatenate([np.zeros(0, np.intp), *parts])
        made_up = np.concatenate(probe.chunks)
        most = self._config.rows_at_once
        sizes = [len(chunk) for chunk in probe.chunks]
        for part in parts:
            step = most or len(part)
            sizes += [min(step, len(part) - start) for start in range(0, len(part), step)]
        reader = _Parts(probe, plan.privacy.clip_norm, self._config.name, [len(part) for part in parts], take)
        shapes = [(size, plan.model.parameters) for size in sizes]
        inputs = np.concatenate([probe.inputs[made_up], rows.inputs[chosen]])
        target = np.concatenate([probe.target[made_up], rows.target[chosen]])
        answers = Answers(self._config.name, "gradients", shapes, reader.take)
        self._call(plan, model, (inputs, target, np.array(sizes, dtype=np.float64)), answers, len(probe.chunks))

    def _call(
        self,
        plan: Plan,
        model: NDArray[np.float32],
        table: Sequence[NDArray[np.float64]],
        answer: Answer | Answers,
        strict: int = 0,
    ) -> None:
        config = self._config
        patience = Patience(plan.cohort.progress_s, plan.cohort.hard_limit_s)
        room = config.scratch_bytes + sum(part.nbytes for part in table)
        with tempfile.TemporaryDirectory(prefix="fedveil-code-") as folder:
            code = Path(folder) / "code"
            self._check(code_tree.copy(config.code, code))
            child.call(
                Program(self._confinement, code, config.memory_bytes, room),
                job(plan, config, answer.name, len(table[0]), strict),
                model,
                table,
                answer,
                patience,
                self._clock,
                self._log,
            )


class _Parts:
    """Gradients as they come: those of the probe are compared, the others put together to the parts asked for."""

    def __init__(self, probe: RowProbe, clip_norm: float, trainer: str, sizes: Sequence[int], take: Take) -> None:
        self._probe, self._clip_norm, self._trainer, self._take = probe, clip_norm, trainer, take
        self._probed: list[NDArray[np.float64]] = []
        self._sizes, self._held = list(sizes), list[NDArray[np.float64]]()

    def take(self, found: NDArray[np.float64]) -> None:
        """The next chunk. LocalRefusal `trainer_mixes_rows`."""
        if len(self._probed) < len(self._probe.chunks):
            self._probed.append(found)
            if len(self._probed) == len(self._probe.chunks):
                self._probe.check(self._probed, self._clip_norm, self._trainer)
            return
        self._held.append(found)
        if sum(map(len, self._held)) == self._sizes[0]:
            part = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
            self._held.clear()
            self._sizes.pop(0)
            self._take(part)


def job(plan: Plan, config: TrainerConfig, name: str, rows: int, strict: int = 0) -> dict[str, Json]:
    """The header of a call: what a trainer may know of the plan. No id of run, round or organisation is in it.
    `strict`: how many chunks of `gradients` must be answered without an error.
    """
    kinds = {BinaryTarget: "binary", FloatTarget: "float"}
    return {
        "adapter": config.adapter,
        "call": name,
        "entry": config.entry,
        "more": dict(config.more),
        "parameters": plan.model.parameters,
        "rows": rows,
        "strict": strict,
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
