"""What a curious coordinator can try with the bytes of an upload: the same code against protected and unprotected ones.

An upload of one leaf is a packed vector of residues modulo 2^bits, or a block of ciphertexts (`demo_cipher`). Without
masks it IS the organisation's quantised update, so reading it as fixed point recovers the update exactly; and if the
update came from a single record by one step of gradient descent from the known first model, the ratio of weights to
bias is the record itself. With protection the same reading yields noise. The attacker knows everything that is public:
plan, layout, first model, standardisation. The truth that the readings are compared with is computed here from the
hospital's own rows, which no attacker has.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from fedveil_common import layout as layouts
from fedveil_common import modelfile
from fedveil_common.decode import decode
from fedveil_common.initial import initial_model
from fedveil_common.layout import UPDATE, WEIGHT, Layout
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import signed
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_participant import update as updates
from fedveil_participant.data.prepare import prepare
from numpy.typing import NDArray

from fedveil_cli import scoring


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """A hospital's upload in the first train round of a run, as received after TLS; what it says if it is read as if
    it were not protected (`integers`: int64, shape (length,)); and the model file of that run.
    """

    plan: Plan
    upload: bytes
    integers: NDArray[np.int64]
    model_file: bytes
    guessed: bool = False
    """Whether an attacker found the randomness of its ciphertexts by trying (`demo_cipher`)."""

    @property
    def digest(self) -> str:
        """SHA-256 of the upload, hex."""
        return hashlib.sha256(self.upload).hexdigest()

    @property
    def layout(self) -> Layout:
        """What stands where in the upload."""
        return train_layout(self.plan)


@dataclass(frozen=True, slots=True)
class Record:
    """A record read from an upload: its correlation with the true one, and both in natural units by column."""

    correlation: float
    read: dict[str, float]
    true: dict[str, float]


def train_layout(plan: Plan) -> Layout:
    """Of the first train sum of a plan."""
    return layouts.layout_for(plan, Purpose.TRAIN, 0)


def read_packed(upload: bytes, length: int, bits: int) -> NDArray[np.int64]:
    """What packed residues modulo 2^bits say: int64, shape (length,)."""
    return signed(unpack(upload, length, bits), bits).astype(np.int64)


def read_update(integers: NDArray[np.int64], layout: Layout) -> NDArray[np.float64]:
    """The update that an upload would hold if it were not protected: float64, shape (parameters,)."""
    decoded = decode(layout, integers)
    return decoded[UPDATE].at() / (decoded[WEIGHT].only or 1.0)


def read_record(integers: NDArray[np.int64], layout: Layout) -> NDArray[np.float64]:
    """The one record behind an update of one gradient step on it: its inputs as the model sees them (standardised).

    For linear and logistic models the step is (y - p) * (x, 1), so weights divided by the bias are x.
    """
    update = read_update(integers, layout)
    return np.asarray(update[:-1] / (update[-1] or 1.0), dtype=np.float64)


def correlation(guess: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Pearson's correlation, -1..1: 1.0 is the exact update up to scale, about 0 is nothing."""
    return float(np.corrcoef(guess, truth)[0, 1])


def attack_update(captured: Captured, table: bytes) -> float:
    """Correlation of the update read from the upload with the one that the rows of `table` give."""
    plan = captured.plan
    standardisation = modelfile.read_model(captured.model_file).standardisation
    source = scoring.source_of(table, "watched.csv", plan)
    blocks = updates.contribution(plan, Purpose.TRAIN, 0, source, initial_model(plan), standardisation)
    truth = np.asarray(blocks[0]) / float(blocks[1][0])
    return correlation(read_update(captured.integers, captured.layout), truth)


def attack_record(captured: Captured, table: bytes) -> Record:
    """The record read from the upload beside the one row of `table`. For plans whose features are all floats."""
    plan = captured.plan
    scaling = modelfile.read_model(captured.model_file).standardisation
    source = scoring.source_of(table, "watched.csv", plan)
    guess = read_record(captured.integers, captured.layout)
    truth = prepare(plan, source, scaling).train.inputs[0]
    names = [feature.name for feature in plan.data.float_features]
    natural = scaling.mean + guess * scaling.std
    return Record(
        correlation(guess, truth),
        dict(zip(names, natural.tolist(), strict=True)),
        {name: float(source.table.numbers[name][0]) for name in names},
    )
