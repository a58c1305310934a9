"""From typed columns to the inputs of a model: one column per float feature, one per category value but the first.

Promise: training and prediction use the same function, so a model sees at prediction what it saw in training. A missing
value with rule `mean` becomes the federation's mean under `standardise: federated`, else the middle of the range.
"""

import numpy as np
from numpy.typing import NDArray

from fedveil_common.plan import CategoryFeature, FloatFeature, FloatTarget, Missing, Plan, Standardise
from fedveil_common.standardisation import Standardisation
from fedveil_common.table import Table


def inputs(plan: Plan, standardisation: Standardisation, table: Table) -> NDArray[np.float64]:
    """The design matrix: float64, shape (table.rows, plan.data.inputs), C order, without the constant column.

    A row that has a missing value without a rule to fill it (prediction only) is NaN there.
    """
    matrix = np.zeros((table.rows, plan.data.inputs), dtype=np.float64)
    column = 0
    number = 0
    for feature in plan.data.features:
        match feature:
            case FloatFeature():
                mean, std = standardisation.mean[number], standardisation.std[number]
                values = table.numbers[feature.name]
                if feature.missing is Missing.MEAN:
                    federated = plan.data.standardise is Standardise.FEDERATED
                    values = np.where(np.isnan(values), middle(feature, mean, federated), values)
                matrix[:, column] = (values - mean) / std
                column, number = column + 1, number + 1
            case CategoryFeature():
                codes = table.codes[feature.name]
                for code in range(1, len(feature.values)):
                    matrix[:, column] = codes == code
                    matrix[codes < 0, column] = np.nan
                    column += 1
    return matrix


def middle(feature: FloatFeature, mean: float, federated: bool) -> float:
    """What the rule `mean` puts for a missing value, in natural units. `mean`: the federation's, where it is known."""
    return mean if federated else feature.lo + (feature.hi - feature.lo) / 2.0


def input_names(plan: Plan) -> tuple[str, ...]:
    """What each column of `inputs` is: the name of a float feature, or NAME=VALUE of a category."""
    names: list[str] = []
    for feature in plan.data.features:
        match feature:
            case FloatFeature():
                names.append(feature.name)
            case CategoryFeature():
                names += [f"{feature.name}={value}" for value in feature.values[1:]]
    return tuple(names)


def targets(plan: Plan, table: Table) -> NDArray[np.float64]:
    """What a model is fitted to: 0/1, the index of the class, or the float target scaled to [-1, 1] by its range.

    float64, shape (rows,).
    """
    if table.target is None:
        raise ValueError("this table was read without its target")
    match plan.data.target:
        case FloatTarget(lo=lo, hi=hi):
            return (table.target - lo) / ((hi - lo) / 2.0) - 1.0
        case _:
            return table.target


def natural_target(plan: Plan, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `targets` for a float target; the identity for any other."""
    match plan.data.target:
        case FloatTarget(lo=lo, hi=hi):
            return lo + (scaled + 1.0) * ((hi - lo) / 2.0)
        case _:
            return scaled
