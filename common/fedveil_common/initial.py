"""The first model of a run, drawn from the plan so that every participant can draw it again.

Promise: bit-exact everywhere: weights N(0, 0.01^2) in plan order, biases 0, taking nothing from the stream; float32.
Source: FLSA/1 A2 (wire): AES-256-CTR from a zero counter under H("init-model", u64be seed), little-endian u64 words;
each weight is 0.01 times (the sum of 12 words, each (w>>11)*2^-53, added in order, minus 6) in float64, rounded to
float32.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedveil_common import transcript
from fedveil_common.crypto.labels import h, u64

if TYPE_CHECKING:
    from fedveil_common.plan.parameters import Layer
    from fedveil_common.plan.spec import Plan

WORDS_PER_WEIGHT = 12
CHUNK_WEIGHTS = 16_384


def initial_model(plan: "Plan") -> NDArray[np.float32]:
    """The first model of `plan`: float32, shape (parameters,), public."""
    from fedveil_common.plan import parameters  # the plan itself needs this module, for the hash below

    return draw(plan.training.seed, parameters.layers(plan.model, plan.data))


def draw(seed: int, layers: "Sequence[Layer]") -> NDArray[np.float32]:
    """The weights and biases of `layers` from `seed` (0..2^53-1), in plan order: float32, shape (parameters,)."""
    model, at = np.zeros(sum(layer.parameters for layer in layers), dtype=np.float32), 0
    for part in _parts(seed, layers):
        model[at : at + len(part)] = part
        at += len(part)
    return model


def _parts(seed: int, layers: "Sequence[Layer]") -> Iterator[NDArray[np.float32]]:
    """The same in parts, in order: so many weights at a time, and a layer's biases, which are zero."""
    keystream = Cipher(algorithms.AES(h("init-model", u64(seed))), modes.CTR(bytes(16))).encryptor()
    for layer in layers:
        for start in range(0, layer.weights, CHUNK_WEIGHTS):
            count = min(CHUNK_WEIGHTS, layer.weights - start)
            words = np.frombuffer(keystream.update(bytes(8 * WORDS_PER_WEIGHT * count)), dtype="<u8")
            uniforms = (words >> np.uint64(11)).astype(np.float64).reshape(count, WORDS_PER_WEIGHT) * 2.0**-53
            total = np.zeros(count, dtype=np.float64)
            for column in range(WORDS_PER_WEIGHT):  # in order: float addition is not associative
                total += uniforms[:, column]
            yield (0.01 * (total - 6.0)).astype(np.float32)
        yield np.zeros(layer.parameters - layer.weights, dtype=np.float32)


def initial_hash(seed: int, layers: "Sequence[Layer]") -> str:
    """The model hash of `draw(seed, layers)` as 64 hex digits: field model.initial of a canonical plan."""
    return _hash(seed, tuple(layers))


@functools.lru_cache(maxsize=16)
def _hash(seed: int, layers: "tuple[Layer, ...]") -> str:
    leaves, rest = list[bytes](), b""
    for part in _parts(seed, layers):  # whoever reads a plan needs the hash, and not the model
        data = rest + part.astype("<f4", copy=False).tobytes()
        whole = len(data) - len(data) % transcript.MODEL_LEAF_BYTES
        leaves += transcript.model_leaves(data[:whole], len(leaves))
        rest = data[whole:]
    if rest:
        leaves += transcript.model_leaves(rest, len(leaves))
    return transcript.model_root(leaves).hex()
