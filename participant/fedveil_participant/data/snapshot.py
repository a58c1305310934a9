"""What a plan reads of a data set, as it was when the plan was accepted: arrays end to end, for a sealed file.

Promise: `unpack(pack(s))` is `s`, to the last bit, and it is read piece by piece; nothing but the plan's columns,
already masked and checked, is in it. The organisation's secret.

Form: u32be length of the head; the head, RFC 8785 JSON {rows, numbers, codes, target, sketch}; then little-endian
float64 per number column, int32 per category column, float64 target if there is one, uint64 positions.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from fedveil_common import jcs
from fedveil_common.crypto.labels import u32
from fedveil_common.errors import IntegrityError
from fedveil_common.table import Table
from numpy.typing import NDArray

from fedveil_participant.data.csv_source import Source

Read = Callable[[int, int], bytes]
"""(start, size) -> bytes of the content."""

_PIECE = 512 * 1024
_NUMBER: "np.dtype[np.float64]" = np.dtype("<f8")
_CODE: "np.dtype[np.int32]" = np.dtype("<i4")
_POSITION: "np.dtype[np.uint64]" = np.dtype("<u8")

Kind = TypeVar("Kind", bound=np.generic)


def pack(source: Source) -> Sequence[memoryview]:
    """The content, in parts. The version is not in it: whoever seals it binds it."""
    table = source.table
    head = jcs.dumps(
        {
            "rows": table.rows,
            "numbers": list(table.numbers),
            "codes": list(table.codes),
            "target": table.target is not None,
            "sketch": source.sketch.hex(),
        }
    )
    arrays: list[NDArray[np.generic]] = [np.ascontiguousarray(one, dtype=_NUMBER) for one in table.numbers.values()]
    arrays += [np.ascontiguousarray(one, dtype=_CODE) for one in table.codes.values()]
    if table.target is not None:
        arrays.append(np.ascontiguousarray(table.target, dtype=_NUMBER))
    arrays.append(np.ascontiguousarray(source.positions, dtype=_POSITION))
    return [memoryview(u32(len(head)) + head), *(one.data.cast("B") if len(one) else memoryview(b"") for one in arrays)]


def unpack(read: Read, length: int, version: bytes) -> Source:
    """What was packed, of this version. IntegrityError `snapshot_damaged`, and those of `read`."""
    try:
        size = int.from_bytes(read(0, 4), "big")
        head = jcs.loads(read(4, size))
        assert isinstance(head, dict)
        rows, numbers, codes = head["rows"], head["numbers"], head["codes"]
        assert isinstance(rows, int)
        assert isinstance(numbers, list)
        assert isinstance(codes, list)
        reader = _Reader(read, 4 + size)
        table = Table(
            rows=rows,
            numbers={str(name): reader.array(rows, _NUMBER) for name in numbers},
            codes={str(name): reader.array(rows, _CODE) for name in codes},
            target=reader.array(rows, _NUMBER) if head["target"] else None,
        )
        positions = reader.array(rows, _POSITION)
        if reader.place != length:
            raise ValueError("length")
        return Source(table, version, positions, bytes.fromhex(str(head["sketch"])))
    except (AssertionError, KeyError, TypeError, ValueError):
        raise IntegrityError(
            "snapshot_damaged",
            "what was kept of an accepted data set is not of the form that this release writes",
            not_done="nothing of it was used",
            next_step="check the disk; the data is read again where the run permits it",
        ) from None


class _Reader:
    """Arrays from a content, one after the other; memory is the array and one piece."""

    def __init__(self, read: Read, place: int) -> None:
        self._read = read
        self.place = place

    def array(self, rows: int, kind: "np.dtype[Kind]") -> NDArray[Kind]:
        made = np.empty(rows, dtype=kind)
        view = made.data.cast("B") if rows else memoryview(bytearray())
        for start in range(0, len(view), _PIECE):
            end = min(len(view), start + _PIECE)
            view[start:end] = self._read(self.place + start, end - start)
        self.place += len(view)
        return made
