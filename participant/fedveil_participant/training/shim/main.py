"""Runs an organisation's own trainer for one call; the program that `child` starts, under the organisation's Python.

Run as `PYTHON -I -u FILE IN OUT ROWS CODE PROCESSES`: descriptors to read the job from, to answer on, and of the rows
(read-only); the folder with the code; how many processes it may have, with their threads, where it has a namespace of
its own (0: as it is). It needs numpy and imports nothing of Fedveil. What it is confined by was set before it began
(`confine`), and it works in an empty folder.

The trainer, or what an adapter beside this file makes of the organisation's code, is a class without arguments, with
methods that get a `Job`:
`update(job)` returns the model after training minus `job.model`, shape (parameters,);
`outputs(job)` returns what the model says about each row before any sigmoid or softmax, shape (rows, outputs);
`gradients(job)`, for plans that protect single records, returns the slope of each row's own loss at `job.model`, shape
(rows, parameters): neither averaged nor clipped. It is called for one chunk of rows after the other on one object; a
row's slope must be the same whatever stands beside it. Where it raises an error, each row of the chunk is asked for
alone, and a row that fails alone counts as 0.

A frame is u32be length, a JSON header of at most 64 KiB, then the raw little-endian numbers that the header announces.
In: {"adapter", "call", "entry", "more", "parameters", "rows", "strict", "inputs", "outputs", "target", "names",
"training"} and float32 parameters; behind the rows of a call of `gradients` the sizes of its chunks, of which the first
`strict` may not fail.
Out: {"kind": "progress"} any number of times, then {"kind": "answer", "name", "dtype", "shape"} and the numbers, for
`gradients` one for each chunk, or {"kind": "absent"} for a method that is not there, {"kind": "size", "parameters"} for
code with another number of parameters than the plan's, or {"kind": "failed"}: why goes to stderr, which stays on this
machine.
"""

import importlib
import importlib.util
import json
import mmap
import os
import resource
import struct
import sys
import threading
import traceback
from time import process_time

import numpy as np

MAX_HEADER = 65_536
BEAT_S = 1.0
"""How often code that cannot call `progress` is looked at."""

AT_WORK_S = 0.02
"""Processor time since the last look that counts as work."""

_sending = threading.Lock()


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
        self._header, self._out = header, out

    @property
    def more(self) -> dict:  # type: ignore[type-arg]
        """What the trainer's description says to its adapter."""
        return dict(self._header["more"])

    def part(self, start: int, stop: int) -> "Job":
        """The same job for some of its rows."""
        return Job(self._header, self.model, self.inputs[start:stop], self.target[start:stop], self._out)

    def progress(self) -> None:
        """I am alive and at work."""
        send(self._out, {"kind": "progress"})


def send(out: int, header: dict, data: bytes = b"") -> None:  # type: ignore[type-arg]
    """One frame."""
    text = json.dumps(header).encode()
    with _sending:
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


def rows_of(descriptor: int, rows: int, inputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, target and sizes of chunks, mapped: float64, inputs row by row, then the others if they are there."""
    size = os.fstat(descriptor).st_size
    if not size:
        return read_only(np.zeros((rows, inputs))), read_only(np.zeros(0)), read_only(np.zeros(0))
    numbers = np.frombuffer(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ), dtype="<f8")
    end = rows * inputs
    return numbers[:end].reshape(rows, inputs), numbers[end : end + rows], numbers[end + rows :]


def numbers_of(found: object, call: str) -> np.ndarray:
    """What a method returned, as float32 or float64."""
    array = np.ascontiguousarray(found)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{call} returned {array.dtype}, not numbers")
    return array.astype("<f4" if array.dtype == np.float32 else "<f8")


def reply(out: int, call: str, found: np.ndarray) -> None:
    """An answer."""
    send(out, {"kind": "answer", "name": call, "dtype": found.dtype.str, "shape": list(found.shape)}, found.tobytes())


def slopes(trainer: object, job: Job, strict: bool) -> np.ndarray:
    """The gradients of a chunk. Where that fails, of each row alone; those that fail alone are NaN."""

    def asked(part: Job) -> np.ndarray:
        found = numbers_of(trainer.gradients(part), "gradients")  # type: ignore[attr-defined]
        if found.shape != (len(part.inputs), len(part.model)):
            raise ValueError(f"gradients returned the shape {found.shape} for {len(part.inputs)} rows")
        return found

    try:
        return asked(job)
    except Exception:
        if strict:
            raise
        traceback.print_exc()
    found = np.full((len(job.inputs), len(job.model)), np.nan)
    for row in range(len(found)):
        try:
            found[row] = asked(job.part(row, row + 1))[0]
        except Exception:  # noqa: BLE001, S112 - the chunk's error was printed, and which row it was is nobody's business
            continue
    return found


class WrongSize(Exception):
    """The code has so many parameters, and the plan has not."""

    def __init__(self, parameters: int) -> None:
        super().__init__(f"the code has {parameters} parameters")
        self.parameters = parameters


def named(entry: str) -> object:
    """What `module:name` names in the organisation's code."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def trainer_of(header: dict, job: Job) -> object:  # type: ignore[type-arg]
    """The object whose methods answer."""
    entry, adapter = named(header["entry"]), header["adapter"]
    if adapter == "class":
        return entry()  # type: ignore[operator]
    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{adapter}_adapter.py")
    spec = importlib.util.spec_from_file_location(f"_{adapter}_adapter", place)
    assert spec is not None, "the adapters lie beside this file"
    assert spec.loader is not None, "a file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = job.more.get("outputs", "")
    adapted: object = module.adapt(entry, job, WrongSize, named(found) if found else None)
    return adapted


def beat_while_at_work(out: int, done: threading.Event) -> None:
    """Progress for code that cannot say it: as long as this process does work, and not while it waits or hangs."""
    before = process_time()
    while not done.wait(BEAT_S):
        now = process_time()
        if now - before >= AT_WORK_S:
            send(out, {"kind": "progress"})
        before = now


def answer(trainer: object, header: dict, job: Job, sizes: np.ndarray, out: int) -> None:  # type: ignore[type-arg]
    """Calls it, and sends what it returns."""
    call = header["call"]
    if call != "gradients":
        reply(out, call, numbers_of(getattr(trainer, call)(job), call))
    elif not callable(getattr(trainer, call, None)):
        send(out, {"kind": "absent"})
    else:
        start = 0
        for number, size in enumerate(sizes.astype(int)):
            reply(out, call, slopes(trainer, job.part(start, start + size), number < header["strict"]))
            start += size


def main(arguments: list[str]) -> None:
    """The whole program."""
    source, out, rows, code, processes = int(arguments[0]), int(arguments[1]), int(arguments[2]), *arguments[3:5]
    os.environ.clear()
    if int(processes):
        most = min(int(processes), resource.getrlimit(resource.RLIMIT_NPROC)[1])
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    for descriptor in (source, out, rows):
        os.set_inheritable(descriptor, False)  # what the trainer starts answers for nobody
    done = threading.Event()
    try:
        (length,) = struct.unpack(">I", receive(source, 4))
        header = json.loads(receive(source, length))
        model = np.frombuffer(receive(source, 4 * header["parameters"]), dtype="<f4")
        inputs, target, sizes = rows_of(rows, header["rows"], header["inputs"])
        job = Job(header, model, inputs, target, out)
        sys.dont_write_bytecode = True
        sys.path.insert(0, code)
        if header["adapter"] != "class":
            threading.Thread(target=beat_while_at_work, args=(out, done), daemon=True).start()
        trainer = trainer_of(header, job)
        job.progress()
        answer(trainer, header, job, sizes, out)
    except WrongSize as error:
        print(f"fedveil: {error}", file=sys.stderr)
        send(out, {"kind": "size", "parameters": error.parameters})
        sys.exit(1)
    except BaseException:  # noqa: BLE001 - the last resort of this process
        traceback.print_exc()
        send(out, {"kind": "failed"})
        sys.exit(1)
    finally:
        done.set()


if __name__ == "__main__":
    main(sys.argv[1:])
