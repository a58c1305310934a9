"""What this release cannot carry out, checked on a plan value: the last line behind the reader's own check.

A plan that came through `parse_plan` or `parse_canonical` passes; one that was composed in code may not.
"""

from fedveil_common.plan import spec
from fedveil_common.plan.problems import NotInThisReleaseError
from fedveil_common.plan.reading import MAX_VALUE_BITS, RELEASES

STRATEGIES_OF: dict[type[spec.Strategy], frozenset[str]] = {
    spec.StrategySpec: frozenset({"fedavg"}),
    spec.MomentumSpec: frozenset({"fedavgm"}),
    spec.AdaptiveSpec: frozenset({"fedadam", "fedyogi", "fedadagrad"}),
}


def check_release(plan: spec.Plan) -> None:
    """Raises NotInThisReleaseError (`not_in_this_release`) naming every field of `plan` that this release lacks."""
    lacking = {
        "version": plan.version != 1,
        "kind": (plan.kind is spec.Kind.STATISTICS) != (plan.statistics is not None),
        "model.kind": plan.model.kind not in set(spec.ModelKind),
        "strategy.kind": plan.strategy.kind not in STRATEGIES_OF[type(plan.strategy)],
        "protection.kind": plan.protection.kind not in {spec.MASKED, spec.PAILLIER},
        "protection.value_bits": plan.protection.value_bits > MAX_VALUE_BITS,
    }
    fields = tuple(field for field, lacks in lacking.items() if lacks)
    if fields:
        raise NotInThisReleaseError(fields, tuple(RELEASES[field] for field in fields))
