"""How wide a first hidden layer may be where sums are exact: the shape with which a model copies records.

A layer whose units all look along one direction, each with a threshold of its own, sees of two neighbouring units one
more record at a time: the difference of their gradients is that record, to the last digit. Whoever plants k such units
singles out up to k records, about k/e of them if the thresholds follow the data. A built-in model starts from the
plan's seed, so that nobody plants its weights; a plan that goes on from earlier runs starts from their sums. This rule
bounds what a planted layer could copy, whoever planted it: units <= units_per_input x inputs, and rows_per_unit or more
rows of this organisation for each unit. It does not replace differential privacy, under which every record is clipped
and covered by noise, and the rule does not apply. The inside of an own trainer's model is not seen here.
Source: tests/test_imprint_rule.py carries the attack out.
"""

from fedveil_common.plan import Plan

from fedveil_participant.policy.rules import FirstLayer, ModelRules


def too_wide(plan: Plan, models: ModelRules, sure_rows: int) -> tuple[int, int] | None:
    """(units of the first hidden layer, how many there may be) if it is too wide; else None. `sure_rows`: the fewest
    rows of this organisation that the sum can have.
    """
    if models.first_layer is FirstLayer.ANY or plan.privacy is not None or not plan.model.hidden:
        return None
    most = int(min(models.units_per_input * plan.data.inputs, sure_rows / models.rows_per_unit))
    units = plan.model.hidden[0]
    return (units, most) if units > most else None
