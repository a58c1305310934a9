"""Noise drawn once per (row, data version): the same table gets the same noise, in any order and kind of file.

Promise: the version is a keyed, order-independent digest of all rows before masking; a row's place in the noise is that
of its own digest among all of them. Another row anywhere, another rule of the column or another key gives other noise,
so that two outputs never share noise on different values. Source: docs/decisions/0024-masking-engine.md.
"""

import hashlib
import hmac
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fedveil_common import jcs
from numpy.typing import NDArray

from fedveil_participant.data.columns import parse_number
from fedveil_participant.data.version import MODULUS
from fedveil_participant.masking.cells import Cells
from fedveil_participant.masking.keys import MaskingKey
from fedveil_participant.masking.numbers import noise_draws
from fedveil_participant.masking.rules import Noise

_AT_ONCE = 1 << 16


class RowNoise:
    """The noise of one table. `columns`: all of its columns, as they were read."""

    def __init__(self, columns: Mapping[str, Cells], key: MaskingKey, dataset: str) -> None:
        self._key, self._dataset = key, dataset
        digests = _row_digests(columns, key.derive("row", "", dataset))
        total = sum(int.from_bytes(one, "big") for one in digests) % MODULUS
        self.version = total.to_bytes(32, "big")
        words = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 4)
        order = np.lexsort(words.T[::-1])
        self._places = np.empty(len(order), dtype=np.int64)
        self._places[order] = np.arange(len(order))

    def draw(self, step: Noise, purpose: bytes) -> NDArray[np.int64]:
        """The noise of each row of the table as it was read, in steps of the grid. `purpose`: of which rule it is."""
        domain = f"{self._dataset}/{hashlib.sha256(purpose).hexdigest()}"
        drawn = noise_draws(step, self._key.derive("noise", self.version.hex(), domain), len(self._places))
        return drawn[self._places]


def _row_digests(columns: Mapping[str, Cells], key: bytes) -> list[bytes]:
    """HMAC-SHA256 of each row as `data.csv_source.canonical_row` writes it."""
    names = sorted(columns, key=lambda name: name.encode("utf-16-be"))
    members = [_members(name, columns[name]) for name in names]
    rows = columns[names[0]].rows
    keyed = hmac.new(key, digestmod=hashlib.sha256)
    found = []
    for start in range(0, rows, _AT_ONCE):
        parts = [
            texts.take(pa.array(columns[name].codes[start : start + _AT_ONCE] % len(texts)))
            for name, texts in zip(names, members, strict=True)
        ]
        for row in pc.binary_join_element_wise(*parts, ",").to_pylist():
            one = keyed.copy()
            one.update(f"{{{row}}}".encode())
            found.append(one.digest())
    return found


def _members(name: str, cells: Cells) -> pa.Array:
    """`"name":value` for each distinct value, then, at the place of code -1, for a missing one."""
    said = jcs.string(name)
    values = [
        f"{said}:{jcs.string(text) if (value := parse_number(text)) is None else jcs.number(value)}"
        for text in cells.texts()
    ]
    return pa.array([*values, f"{said}:null"], pa.string())
