"""Runs an organisation's own trainer for one call; the program that `child` starts, under the organisation's Python.

Run as `PYTHON -I -u FILE IN OUT ROWS CODE MEMORY`: descriptors to read the job from, to answer on, and of the rows
(read-only); the folder with the code; the address space in bytes. It needs numpy and imports nothing of Fedveil.

The trainer is a class without arguments, with two methods that get a `Job`:
`update(job)` returns the model after training minus `job.model`, shape (parameters,);
`outputs(job)` returns what the model says about each row before any sigmoid or softmax, shape (rows, outputs).

A frame is u32be length, a JSON header of at most 64 KiB, then the raw little-endian numbers that the header announces.
In: {"call", "entry", "parameters", "rows", "inputs", "outputs", "target", "names", "training"} and float32 parameters.
Out: {"kind": "progress"} any number of times, then {"kind": "answer", "name", "dtype", "shape"} and the numbers, or
{"kind": "failed"}: why goes to stderr, which stays on this machine.
"""

import importlib
import json
import mmap
import os
import resource
import struct
import sys
import traceback

import numpy as np

MAX_HEADER = 65_536


class Job:
    """What a trainer may know. Arrays are read-only.

    `model`: float32 (parameters,), as received. `inputs`: float64 (rows, inputs), standardised as the plan says;
    `names` names the inputs. `target`: float64 (rows,): 0/1, the index of a class, or scaled to [-1, 1]; empty for
    `outputs`. `kind`: binary, category or float; `output_count`: how many outputs a row has. `training`: the plan's
    local_epochs, batch_size, learning_rate, proximal_mu and seed. Call `progress()` at least every progress_s of the
    plan's cohort, or this participant is left out.
    """

    def __init__(self, header: dict, model: np.ndarray, inputs: np.ndarray, target: np.ndarray, out: int) -> None:  # type: ignore[type-arg]
        self.model, self.inputs, self.target = model, inputs, target
        self.names, self.kind, self.training = tuple(header["names"]), header["target"], dict(header["training"])
        self.output_count = int(header["outputs"])
        self._out = out

    def progress(self) -> None:
        """I am alive and at work."""
        send(self._out, {"kind": "progress"})


def send(out: int, header: dict, data: bytes = b"") -> None:  # type: ignore[type-arg]
    """One frame."""
    text = json.dumps(header).encode()
    for part in (struct.pack(">I", len(text)) + text, data):
        view = memoryview(part)
        while view:
            view = view[os.write(out, view) :]


def receive(source: int, size: int) -> bytes:
    """Exactly `size` bytes."""
    found = bytearray()
    while len(found) < size:
        part = os.read(source, min(size - len(found), 1 << 20))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def read_only(array: np.ndarray) -> np.ndarray:
    """`array`, so that a trainer cannot change what others read."""
    array.setflags(write=False)
    return array


def rows_of(descriptor: int, rows: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and target, mapped: float64, inputs row by row, then the target if it is there."""
    size = os.fstat(descriptor).st_size
    if not size:
        return read_only(np.zeros((rows, inputs))), read_only(np.zeros(0))
    numbers = np.frombuffer(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ), dtype="<f8")
    return numbers[: rows * inputs].reshape(rows, inputs), numbers[rows * inputs :]


def main(arguments: list[str]) -> None:
    """The whole program."""
    source, out, rows, code, memory = int(arguments[0]), int(arguments[1]), int(arguments[2]), *arguments[3:5]
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for descriptor in (source, out, rows):
        os.set_inheritable(descriptor, False)  # what the trainer starts answers for nobody
    try:
        (length,) = struct.unpack(">I", receive(source, 4))
        header = json.loads(receive(source, length))
        model = np.frombuffer(receive(source, 4 * header["parameters"]), dtype="<f4")
        inputs, target = rows_of(rows, header["rows"], header["inputs"])
        job = Job(header, model, inputs, target, out)
        sys.dont_write_bytecode = True
        sys.path.insert(0, code)
        module, _, name = header["entry"].partition(":")
        trainer = getattr(importlib.import_module(module), name)()
        job.progress()
        found = np.ascontiguousarray(getattr(trainer, header["call"])(job))
        if found.dtype.kind not in "fiu":
            raise TypeError(f"{header['call']} returned {found.dtype}, not numbers")
        kind = "<f4" if found.dtype == np.float32 else "<f8"
        answer = {"kind": "answer", "name": header["call"], "dtype": kind, "shape": list(found.shape)}
        send(out, answer, found.astype(kind).tobytes())
    except BaseException:  # noqa: BLE001 - the last resort of this process
        traceback.print_exc()
        send(out, {"kind": "failed"})
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
