"""Linear estimators of scikit-learn as trainers: what they learn is `coef_` and `intercept_`.

The entry is a class or a function without arguments that gives an estimator. Its parameters are the coefficients, one
row of inputs for each output, and then the intercepts, one for each output. An estimator with `partial_fit` goes on
from the model received, `local_epochs` times over the rows in batches of `batch_size`; another is fitted once, from the
model received where it has `warm_start`. Everything else (loss, penalty, learning rate) is the estimator's own.
The program beside it gives the job; it needs what the estimator needs and imports nothing of scikit-learn itself.
"""

import hashlib
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


def adapt(entry: Theirs, job: Job, wrong_size: Callable[[int], Exception], outputs: Theirs) -> object:
    """The trainer. `wrong_size`: raised if the plan has another number of parameters."""
    size = job.output_count * (job.inputs.shape[1] + 1)
    if size != len(job.model):
        raise wrong_size(size)
    return Linear(entry)


class Linear:
    """The estimator that `make` gives, made anew for each call."""

    def __init__(self, make: Theirs) -> None:
        self._make = make

    def update(self, job: Job) -> NDArray[np.float64]:
        """What fitting changes: shape (parameters,)."""
        received = job.model.astype(np.float64)
        estimator = self._make()
        target = job.target if job.kind == "float" else job.target.astype(np.int64)
        if hasattr(estimator, "partial_fit"):
            _in_batches(estimator, job, received, target)
            coefficients, intercepts = estimator.coef_, estimator.intercept_
        else:
            coefficients, intercepts = _whole(estimator, job, received, target)
        found = np.concatenate([np.ravel(coefficients), np.ravel(intercepts)]).astype(np.float64)
        if found.shape != received.shape:
            raise ValueError(f"the estimator learned {found.size} parameters where the plan has {received.size}")
        return found - received

    def outputs(self, job: Job) -> NDArray[np.float64]:
        """The linear function of each row: shape (rows, outputs)."""
        weights, bias = _split(job, job.model.astype(np.float64))
        return job.inputs @ weights.T + bias


def _split(job: Job, flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(outputs, inputs) and (outputs,)."""
    count = job.output_count * job.inputs.shape[1]
    return flat[:count].reshape(job.output_count, -1).copy(), flat[count:].copy()


def _set(estimator: Theirs, job: Job, received: NDArray[np.float64]) -> None:
    """The model received, in the shape in which this estimator has its coefficients."""
    weights, bias = _split(job, received)
    if job.kind == "float":
        weights = weights[0]
    estimator.coef_, estimator.intercept_ = weights, bias


def _in_batches(estimator: Theirs, job: Job, received: NDArray[np.float64], target: NDArray[Any]) -> None:
    if getattr(estimator, "average", False):
        raise TypeError("an estimator that averages its steps does not go on from a model: leave `average` out")
    extra = {} if job.kind == "float" else {"classes": _classes(job)}
    estimator.partial_fit(job.inputs[:1], target[:1], **extra)  # it makes its attributes; what it learned is put away
    _set(estimator, job, received)
    if hasattr(estimator, "t_"):
        estimator.t_ = 1.0
    draw = np.random.default_rng(_seed(job))  # noqa: TID251 - of the organisation's own training
    for _ in range(job.training["local_epochs"]):
        order = draw.permutation(len(target))
        for start in range(0, len(order), job.training["batch_size"]):
            batch = order[start : start + job.training["batch_size"]]
            estimator.partial_fit(job.inputs[batch], target[batch])
        job.progress()


def _whole(
    estimator: Theirs, job: Job, received: NDArray[np.float64], target: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fitted to all rows. Classes that are not among them keep what was received for them."""
    weights, bias = _split(job, received)
    if job.kind == "float":
        _warm(estimator, weights[0], bias[0])
        estimator.fit(job.inputs, target)
        return estimator.coef_, estimator.intercept_
    here = np.unique(target)
    if len(here) < 2:
        raise ValueError("an estimator without partial_fit needs rows of two classes at least")
    if job.kind == "binary":
        _warm(estimator, weights, bias)
        estimator.fit(job.inputs, target)
        return estimator.coef_, estimator.intercept_
    if len(here) == 2 < len(weights):  # it would learn one row for both
        raise ValueError("an estimator without partial_fit needs rows of three classes at least, where there are three")
    _warm(estimator, weights[here], bias[here])
    estimator.fit(job.inputs, target)
    weights[here], bias[here] = estimator.coef_, estimator.intercept_
    return weights, bias


def _warm(estimator: Theirs, weights: NDArray[np.float64], bias: NDArray[np.float64] | np.float64) -> None:
    if "warm_start" in estimator.get_params():
        estimator.set_params(warm_start=True)
        estimator.coef_, estimator.intercept_ = weights, bias


def _classes(job: Job) -> NDArray[np.intp]:
    return np.arange(2 if job.kind == "binary" else job.output_count)


def _seed(job: Job) -> int:
    """Another order each round, the same when a round is repeated after a crash."""
    digest = hashlib.sha256(str(job.training["seed"]).encode() + job.model.tobytes()).digest()
    return int.from_bytes(digest[:8], "big")
