"""Which formats a model is written in, which models each can say, and what stands in each of where it came from.

Promise: a format says the whole of a model or is refused by name; none is written for a model whose meaning only its
own trainer knows. `stamp` is a pointer back to the signed file: no signature covers what is written here.
"""

import hashlib
import importlib
from types import ModuleType

from fedveil_common.errors import ConfigError
from fedveil_common.exchange.format_names import Format
from fedveil_common.modelfile import ModelFile
from fedveil_common.plan import ModelKind, Plan

_AFFINE = frozenset({ModelKind.LINEAR, ModelKind.LOGISTIC, ModelKind.SOFTMAX})
_BUILT_IN = _AFFINE | {ModelKind.MLP}
_SAYS = {
    Format.SAFETENSORS: frozenset(ModelKind),
    Format.ONNX: _BUILT_IN,
    Format.SKLEARN: _BUILT_IN,
    Format.TORCH: _BUILT_IN,
    Format.CSV: _AFFINE,
}


def check_says(plan: Plan, wanted: Format) -> None:
    """Returns if `wanted` can say the model of `plan`. ConfigError `format_cannot_say`."""
    kind = plan.model.kind
    if kind in _SAYS[wanted]:
        return
    if kind is ModelKind.TRAINER:
        why = f"what the parameters of the trainer {plan.model.trainer} mean is known to its code alone"
    else:
        why = f"a table of coefficients has no place for the hidden layers of a model of kind {kind}"
    able = ", ".join(one for one, kinds in _SAYS.items() if kind in kinds)
    raise ConfigError(
        "format_cannot_say",
        f"this model cannot be written as {wanted}: {why}",
        not_done="nothing was written",
        next_step=f"--to one of: {able}",
    )


def stamp(file: ModelFile, data: bytes) -> dict[str, str]:
    """Where an exported model came from: the signed manifest as it was signed, and digests of its signature and file.

    `data`: the bytes of `file`, which was verified before.
    """
    blob = file.signatures[0]
    return {
        "fedveil.manifest": blob.body.decode(),
        "fedveil.signature_sha256": hashlib.sha256(blob.sig).hexdigest(),
        "fedveil.file_sha256": hashlib.sha256(data).hexdigest(),
    }


def library(name: str, what: str) -> ModuleType:
    """A module of the extra `exchange`. ConfigError `extra_missing` where it is not installed; `what` needs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            "extra_missing",
            f"{what} needs the package {name.partition('.')[0]}, which is not installed",
            next_step="pip install 'fedveil[exchange]'",
        ) from None
