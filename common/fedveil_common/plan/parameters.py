"""Which parameters a model has, and in which order: "plan order" (wire: model bytes, layout, `model.initial`).

Promise: the order follows from the plan alone. A model is a chain of layers; a layer has its weights first, output by
output, each with one weight per input in order, then one bias per output. Inputs stand in feature order (a category has
one input per value but the first), classes in the order of the target's values. `linear` and `logistic` are one layer
of one output, `softmax` one layer with an output per class, `mlp` one layer per entry of `hidden`, then the outputs.
The parameters of a `trainer` are one list; only for the first model's draw they count as a layer of one output, so that
the last one begins at 0.
"""

import itertools
from dataclasses import dataclass

from fedveil_common.plan import spec


@dataclass(frozen=True, slots=True)
class Layer:
    """An affine map of `inputs` values to `outputs` values; weights shape (outputs, inputs), biases (outputs,)."""

    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Weights and biases together."""
        return self.weights + self.outputs


def layers(model: spec.ModelSpec, data: spec.DataSpec) -> tuple[Layer, ...]:
    """The layers of `model` over `data`, from the inputs to the outputs."""
    if model.kind is spec.ModelKind.TRAINER:
        return (Layer(model.parameters - 1, 1),)
    sizes = (data.inputs, *model.hidden, outputs(data.target))
    return tuple(Layer(inputs, width) for inputs, width in itertools.pairwise(sizes))


def outputs(target: spec.Target) -> int:
    """How many values a model of `target` puts out: one per class of a category, else one."""
    return len(target.values) if isinstance(target, spec.CategoryTarget) else 1


def count(model: spec.ModelSpec, data: spec.DataSpec) -> int:
    """How many parameters `model` has over `data`."""
    return sum(layer.parameters for layer in layers(model, data))
