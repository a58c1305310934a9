"""Modules of PyTorch as trainers: the parameters are the floating point entries of `state_dict`, in its order.

The entry is a class or a function without arguments that gives a `torch.nn.Module` from rows to raw outputs. It is
trained with the plan's `local_epochs`, `batch_size`, `learning_rate` and `proximal_mu` by gradient descent on batches;
the loss is that of the target: log-loss, cross entropy, or half the squared error. For plans that protect single
records each record's slope is that of the module as it predicts (`eval`), so that no layer joins rows.
"""

import hashlib
import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Job(Protocol):
    """What is used of a job of the program beside this one."""

    model: NDArray[np.float32]
    inputs: NDArray[np.float64]
    target: NDArray[np.float64]
    names: tuple[str, ...]
    kind: str
    output_count: int
    training: dict[str, Any]
    more: dict[str, Any]

    def progress(self) -> None: ...  # noqa: D102


Theirs = Any
"""An object of the organisation's code or of its library, which nothing here is typed against."""

AT_ONCE = 4096
"""Rows whose outputs are made at a time."""


def adapt(entry: Theirs, job: Job, wrong_size: Callable[[int], Exception], outputs: Theirs) -> object:
    """The trainer. `wrong_size`: raised if the plan has another number of parameters."""
    found = Network(entry, _seed(job))
    if found.size != len(job.model):
        raise wrong_size(found.size)
    return found


class Network:
    """The module that `make` gives, made anew for each call."""

    def __init__(self, make: Theirs, seed: int) -> None:
        torch: Theirs = importlib.import_module("torch")
        self._torch = torch
        torch.set_num_threads(1)  # so that a repeated round gives the same bits
        torch.manual_seed(seed)
        self._module = make()
        self._slots = [value for value in self._module.state_dict().values() if value.is_floating_point()]
        self.size = sum(value.numel() for value in self._slots)

    def update(self, job: Job) -> NDArray[np.float64]:
        """What training changes: shape (parameters,)."""
        torch = self._torch
        self._load(job.model)
        received = self._flat()
        anchors = [value.detach().clone() for value in self._module.parameters()]
        inputs, target = self._tensors(job)
        training = job.training
        optimiser = torch.optim.SGD(self._module.parameters(), lr=training["learning_rate"])
        draw = np.random.default_rng(_seed(job))  # noqa: TID251 - of the organisation's own training
        self._module.train()
        for _ in range(training["local_epochs"]):
            order = torch.as_tensor(draw.permutation(len(target)))
            for start in range(0, len(order), training["batch_size"]):
                batch = order[start : start + training["batch_size"]]
                optimiser.zero_grad()
                loss = self._loss(job, self._module(inputs[batch]), target[batch])
                if training["proximal_mu"]:
                    pairs = zip(self._module.parameters(), anchors, strict=True)
                    loss = loss + training["proximal_mu"] / 2 * sum(((one - was) ** 2).sum() for one, was in pairs)
                loss.backward()
                optimiser.step()
                job.progress()
        return self._flat() - received

    def outputs(self, job: Job) -> NDArray[np.float64]:
        """What the module says of each row: shape (rows, outputs)."""
        torch = self._torch
        self._load(job.model)
        self._module.eval()
        inputs, _ = self._tensors(job)
        with torch.no_grad():
            parts = [self._module(inputs[start : start + AT_ONCE]) for start in range(0, len(inputs), AT_ONCE)]
        found: NDArray[np.float64] = torch.cat(parts).reshape(len(inputs), -1).double().numpy()
        return found

    def gradients(self, job: Job) -> NDArray[np.float64]:
        """The slope of each row's own loss: shape (rows, parameters); 0 for what no gradient reaches."""
        torch = self._torch
        self._load(job.model)
        self._module.eval()
        inputs, target = self._tensors(job)
        names = [name for name, value in self._module.state_dict().items() if value.is_floating_point()]
        learned = dict(self._module.named_parameters())
        found = np.zeros((len(target), self.size))
        for row in range(len(target)):
            loss = self._loss(job, self._module(inputs[row : row + 1]), target[row : row + 1])
            slopes = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
            by_name = dict(zip(learned, slopes, strict=True))
            start = 0
            for name, slot in zip(names, self._slots, strict=True):
                slope = by_name.get(name)
                if slope is not None:
                    found[row, start : start + slot.numel()] = slope.detach().double().numpy().ravel()
                start += slot.numel()
        return found

    def _loss(self, job: Job, out: Theirs, target: Theirs) -> Theirs:
        functional = self._torch.nn.functional
        if job.kind == "category":
            return functional.cross_entropy(out, target.long())
        value = out.reshape(len(target))
        if job.kind == "binary":
            return functional.binary_cross_entropy_with_logits(value, target)
        return functional.mse_loss(value, target) / 2

    def _tensors(self, job: Job) -> tuple[Theirs, Theirs]:
        kind = next((value.dtype for value in self._module.parameters()), self._torch.float32)
        inputs, target = (self._torch.tensor(np.array(part), dtype=kind) for part in (job.inputs, job.target))
        return inputs, target

    def _load(self, model: NDArray[np.float32]) -> None:
        start = 0
        with self._torch.no_grad():
            for slot in self._slots:  # state_dict gives the module's own memory
                part = np.array(model[start : start + slot.numel()], dtype=np.float64)
                slot.copy_(self._torch.from_numpy(part).reshape(slot.shape))
                start += slot.numel()

    def _flat(self) -> NDArray[np.float64]:
        parts = [slot.detach().double().numpy().ravel() for slot in self._slots]
        return np.concatenate([*parts, np.zeros(0)])


def _seed(job: Job) -> int:
    """Other draws each round, the same when a round is repeated after a crash."""
    digest = hashlib.sha256(str(job.training["seed"]).encode() + job.model.tobytes()).digest()
    return int.from_bytes(digest[:7], "big")
