"""What a trainer's process says, taken in piece by piece and checked before any memory is given to it.

Promise: nothing that stands in a frame is believed. The header is at most MAX_HEADER bytes of JSON with exactly the
expected members; name, type and shape of an answer must be those that were asked for before its numbers are taken in,
and no more than those are. Numbers that are not finite are refused, but for gradients, whose reader lets such a row
count as 0. Source of the form: `shim.main`.
"""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from fedveil_common.errors import LocalRefusal
from numpy.typing import NDArray

MAX_HEADER = 65_536
_LENGTH = struct.Struct(">I")
_MOST_PARAMETERS = 1 << 40
_SIZES = {"<f4": 4, "<f8": 8}


@dataclass(slots=True)
class Answer:
    """The answer named `name` of `shape`, as far as it has come. `trainer`: whose, for messages. `finite`: whether
    numbers must be.
    """

    trainer: str
    name: str
    shape: tuple[int, ...]
    finite: bool = True
    values: NDArray[np.float64] | None = None
    signs: int = 0
    _held: bytearray = field(default_factory=bytearray)
    _type: str = ""

    @property
    def complete(self) -> bool:
        """Whether it has come: `values` holds it."""
        return self.values is not None

    @property
    def wanted(self) -> int:
        """How many more bytes may be read now: never more than the frame in hand is known to have."""
        if self._type:
            return self._size - len(self._held)
        if len(self._held) < _LENGTH.size:
            return _LENGTH.size - len(self._held)
        return _LENGTH.size + self._announced - len(self._held)

    def take(self, data: bytes) -> None:
        """At most `wanted` bytes, as they came. Each step forward counts as a sign of life (`signs`).

        LocalRefusal `trainer_answer`, `trainer_failed`, `trainer_not_finite`.
        """
        self._held += data
        if self._type:
            self.signs += 1
            if not self.wanted:
                self._finish()
        elif len(self._held) >= _LENGTH.size and not 2 <= self._announced <= MAX_HEADER:
            raise self._refused(f"a header of {self._announced} bytes")
        elif len(self._held) >= _LENGTH.size and not self.wanted:
            self._header(bytes(self._held[_LENGTH.size :]))

    @property
    def _announced(self) -> int:
        (length,) = _LENGTH.unpack_from(self._held)
        return int(length)

    @property
    def _size(self) -> int:
        return _SIZES[self._type] * int(np.prod(self.shape, dtype=np.int64))

    def _header(self, text: bytes) -> None:
        self._held.clear()
        self.signs += 1
        try:
            header = json.loads(text)
        except (ValueError, RecursionError):
            raise self._refused("a header that is not JSON") from None
        if header == {"kind": "progress"}:
            return
        if header == {"kind": "failed"}:
            raise LocalRefusal(
                "trainer_failed",
                f"the trainer {self.trainer} raised an error in {self.name}",
                not_done="no update was made",
                next_step="its log in this home has the traceback",
            )
        if header == {"kind": "absent"}:
            raise LocalRefusal(
                "trainer_without_gradients",
                f"the trainer {self.trainer} has no method {self.name}",
                not_done="no update was made",
                next_step="a plan that protects single records needs it: docs/trainer.md",
            )
        if isinstance(header, dict) and set(header) == {"kind", "parameters"} and header["kind"] == "size":
            count = header["parameters"]
            has = count if isinstance(count, int) and 0 <= count < _MOST_PARAMETERS else "another number of"
            raise LocalRefusal(
                "trainer_parameters",
                f"the code of the trainer {self.trainer} has {has} parameters, and not as many as the plan",
                not_done="no update was made",
                next_step="`parameters` of the plan's model must be those of the code, in its order: docs/trainer.md",
            )
        members = {"kind", "name", "dtype", "shape"}
        if not isinstance(header, dict) or set(header) != members or header["kind"] != "answer":
            raise self._refused("a header with other members than an answer has")
        if header["name"] != self.name or header["dtype"] not in list(_SIZES):
            raise self._refused("an answer of another name or type than was asked for")
        if header["shape"] != list(self.shape):
            raise self._refused(f"an answer of another shape than {self.shape}")
        self._type = str(header["dtype"])
        if not self._size:
            self._finish()

    def _finish(self) -> None:
        numbers = np.frombuffer(bytes(self._held), dtype=self._type).astype(np.float64).reshape(self.shape)
        bad = int(np.count_nonzero(~np.isfinite(numbers)))
        if bad and self.finite:
            raise LocalRefusal(
                "trainer_not_finite",
                f"{bad} of {numbers.size} values of {self.name} by the trainer {self.trainer} are NaN or infinite",
                not_done="no update was made",
                next_step="look for a learning rate that is too high, or for extreme values in the data",
            )
        self.values = numbers

    def _refused(self, what: str) -> LocalRefusal:
        return LocalRefusal(
            "trainer_answer",
            f"the trainer {self.trainer} sent {what} in {self.name}",
            not_done="nothing of it was read and no update was made",
            next_step="update returns (parameters,), outputs (rows, outputs), gradients (rows, parameters): float32 or"
            " float64",
        )


class Answers:
    """Answers named `name`, one for each of `shapes`, in that order; `each` gets every one as soon as it is complete.

    Only one is held at a time. What is not finite in them is passed on.
    """

    def __init__(
        self,
        trainer: str,
        name: str,
        shapes: Sequence[tuple[int, ...]],
        each: Callable[[NDArray[np.float64]], None],
    ) -> None:
        if not shapes:
            raise ValueError("there is something to ask for")
        self.trainer, self.name = trainer, name
        self._shapes, self._each, self._done, self._signs = shapes, each, 0, 0
        self._current = Answer(trainer, name, shapes[0], finite=False)

    @property
    def complete(self) -> bool:
        """Whether the last one has come."""
        return self._done == len(self._shapes)

    @property
    def signs(self) -> int:
        """Signs of life so far."""
        return self._signs + self._current.signs

    @property
    def wanted(self) -> int:
        """See `Answer.wanted`."""
        return self._current.wanted

    def take(self, data: bytes) -> None:
        """See `Answer.take`; errors of it and of `each`."""
        self._current.take(data)
        if self._current.values is None:
            return
        self._done += 1
        self._signs += self._current.signs
        values = self._current.values
        if not self.complete:
            self._current = Answer(self.trainer, self.name, self._shapes[self._done], finite=False)
        self._each(values)
