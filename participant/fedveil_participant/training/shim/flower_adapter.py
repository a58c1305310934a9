"""Clients written for Flower as trainers: `get_parameters` and `fit` of a NumPyClient, as they are.

The entry is a NumPyClient class without arguments, a `client_fn`, or a ClientApp made with one; what `to_client()` put
around a client is taken off. A client finds its rows in the file that `context.node_config["fedveil-data"]` names: an
.npz (no pickle) with `inputs` (rows, inputs), `target` (rows,) and `names`, read-only, in its working folder. The
parameters are the arrays of `get_parameters` end to end. The number of examples and the metrics that `fit` returns are
not looked at, and `evaluate` is not called: metrics are made of raw outputs, which `outputs(parameters, inputs)` gives,
a method of the client or the function that the trainer's description names.
"""

import importlib
import inspect
import os
import types
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

DATA = "data.npz"
DATA_KEY = "fedveil-data"
PLACE = "{data}"
"""In a value of `node_config` of the description: where the file's path is put."""


def adapt(entry: Theirs, job: Job, wrong_size: Callable[[int], Exception], outputs: Theirs) -> object:
    """The trainer. `wrong_size`: for a plan with another number of parameters. `outputs`: a function, or None."""
    path = _write(job)
    client = _client(entry, _context(job, path))
    arrays = [np.asarray(array) for array in client.get_parameters({})]
    size = sum(array.size for array in arrays)
    if size != len(job.model):
        raise wrong_size(size)
    return Flower(client, arrays, getattr(client, "outputs", None) or outputs)


class Flower:
    """One client, for one call. `says`: parameters and inputs to raw outputs, if there is such a thing."""

    def __init__(self, client: Theirs, arrays: list[NDArray[Any]], says: Theirs) -> None:
        self._client, self._arrays, self._says = client, arrays, says

    def update(self, job: Job) -> NDArray[np.float64]:
        """What `fit` changes: shape (parameters,)."""
        config = {**job.training, "server_round": 1}
        found, _, _ = self._client.fit(self._shaped(job.model), config)
        shapes = [np.shape(array) for array in found]
        if shapes != [array.shape for array in self._arrays]:
            raise ValueError(f"fit returned arrays of the shapes {shapes}")
        flat = np.concatenate([*(np.asarray(array, dtype=np.float64).ravel() for array in found), np.zeros(0)])
        return flat - job.model.astype(np.float64)

    def outputs(self, job: Job) -> NDArray[Any]:
        """What the client's model says of each row: shape (rows, outputs)."""
        if self._says is None:
            raise TypeError(
                "metrics need outputs(parameters, inputs), of the client or as `outputs` of the trainer's description"
            )
        return np.asarray(self._says(self._shaped(job.model), np.array(job.inputs))).reshape(len(job.inputs), -1)

    def _shaped(self, model: NDArray[np.float32]) -> list[NDArray[Any]]:
        parts: list[NDArray[Any]] = []
        start = 0
        for array in self._arrays:
            parts.append(np.array(model[start : start + array.size], dtype=array.dtype).reshape(array.shape))
            start += array.size
        return parts


def _write(job: Job) -> str:
    """The rows in a file of the working folder, to be read only. Rows that are only looked at have the target 0."""
    target = job.target if len(job.target) else np.zeros(len(job.inputs))
    path = os.path.join(os.getcwd(), DATA)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as stream:
        np.savez(stream, inputs=job.inputs, target=target, names=np.array(job.names))
    return path


def _context(job: Job, path: str) -> Theirs:
    """Flower's own Context where it is there, with the fields that it has in this version."""
    chosen = {
        key: value.replace(PLACE, path) if isinstance(value, str) else value
        for key, value in job.more.get("node_config", {}).items()
    }
    node = {"partition-id": 0, "num-partitions": 1, **chosen, DATA_KEY: path}
    run = {name.replace("_", "-"): value for name, value in job.training.items()}
    fields: dict[str, Any] = {"run_id": 0, "node_id": 0, "node_config": node, "run_config": run}
    try:
        common: Theirs = importlib.import_module("flwr.common")
    except ImportError:
        return types.SimpleNamespace(**fields, state=None)
    state = getattr(common, "RecordDict", None) or common.RecordSet
    wanted = inspect.signature(common.Context).parameters
    return common.Context(**{name: value for name, value in {**fields, "state": state()}.items() if name in wanted})


def _client(entry: Theirs, context: Theirs) -> Theirs:
    """The NumPyClient, whatever is around it."""
    if inspect.isclass(entry):
        client = entry()
        if hasattr(client, "set_context"):
            client.set_context(context)
    else:
        make = entry if inspect.isroutine(entry) else _client_fn(entry)
        names = list(inspect.signature(make).parameters)
        client = make("0" if names == ["cid"] else context)
    client = getattr(client, "numpy_client", client)
    for name in ("get_parameters", "fit"):
        if not callable(getattr(client, name, None)):
            raise TypeError(f"{type(client).__name__} is no NumPyClient: it has no {name}")
    return client


def _client_fn(app: Theirs) -> Theirs:
    """What a ClientApp was made with: a variable of the function that it calls."""
    waiting: list[Theirs] = [getattr(app, "_call", None)]
    seen: list[Theirs] = []
    while waiting:
        function = waiting.pop()
        if not inspect.isfunction(function) or function in seen:
            continue
        seen.append(function)
        held = inspect.getclosurevars(function).nonlocals
        if callable(held.get("client_fn")):
            return held["client_fn"]
        waiting += [value for value in held.values() if callable(value)]
    raise TypeError("this ClientApp was not made with a client_fn; name the client_fn or the NumPyClient class itself")
