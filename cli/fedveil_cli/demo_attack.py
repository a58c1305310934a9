"""What a curious coordinator can try with the bytes of an upload: the same code against protected and unprotected ones.

An upload is a vector of little-endian u32 ring elements. Without masks it IS the organisation's quantised update, so
reading it as fixed point recovers the update exactly; and if the update came from a single record by one step of
gradient descent from the known first model, the ratio of weights to bias is the record itself. With masks the same
reading yields noise. The attacker knows everything that is public: plan, layout, model.
"""

import numpy as np
from fedveil_common.decode import decode
from fedveil_common.layout import UPDATE, WEIGHT, Layout
from numpy.typing import NDArray


def read_update(upload: bytes, layout: Layout) -> NDArray[np.float64]:
    """The update that an upload would hold if it were not masked: float64, shape (parameters,)."""
    decoded = decode(layout, np.frombuffer(upload, dtype="<u4"))
    weight = float(decoded[WEIGHT][0])
    return np.asarray(decoded[UPDATE] / (weight or 1.0), dtype=np.float64)


def correlation(guess: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Pearson's correlation, -1..1: 1.0 is the exact update up to scale, about 0 is nothing."""
    return float(np.corrcoef(guess, truth)[0, 1])


def read_record(upload: bytes, layout: Layout) -> NDArray[np.float64]:
    """The one record behind an update of one gradient step on it: its inputs as the model sees them (standardised).

    For linear and logistic models the step is (y - p) * (x, 1), so weights divided by the bias are x.
    """
    update = read_update(upload, layout)
    return np.asarray(update[:-1] / update[-1], dtype=np.float64)
