"""docs/plan.md says what the reader of plans does: its tables of models, strategies and defaults are tried."""

import json
import pathlib
import re

import pytest
from fedveil_common.plan import canonical, parse_plan

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "plan.md").read_text(encoding="utf-8")
TEXT = """\
version: 1
name: p
kind: train
data:
  dataset: d
  features: {a: {type: float, range: [0, 1]}}
  target: TARGET
  min_rows: 3
  standardise: none
model: MODEL
training: {rounds: 1, learning_rate: 0.1, weight_cap: 100}
strategy: STRATEGY
EVALUATION
cohort: {min_participants: 3}
protection: {kind: masked, update_norm: 5}
privacy: none
"""
TARGETS = {
    "float": "{column: y, type: float, range: [0, 1]}",
    "binary": "{column: y, type: binary, positive: 1}",
    "category": "{column: y, type: category, values: [a, b, c]}",
}


def plan(
    model: str, target: str, strategy: str = "{kind: fedavg}", evaluation: str = "evaluation: {holdout: 0.2}"
) -> dict:  # type: ignore[type-arg]
    text = TEXT.replace("TARGET", TARGETS[target]).replace("MODEL", model).replace("STRATEGY", strategy)
    found = json.loads(canonical(parse_plan(text.replace("EVALUATION", evaluation).encode(), "p")))
    assert isinstance(found, dict)
    return found


MODELS = re.findall(r"^\| `(\{kind: (\w+).*?\})` \| (.*?) \| (.*?) \|$", PAGE, re.M)
STRATEGIES = re.findall(r"^\| (`fed\w+`(?:, `fed\w+`)*) \| (.*?) \|", PAGE, re.M)


@pytest.mark.parametrize("row", MODELS, ids=[row[1] for row in MODELS])
def test_models_and_their_metrics(row: tuple[str, str, str, str]) -> None:
    model, kind, target, metrics = row
    wanted = re.findall(r"type: (\w+)", target) or list(TARGETS)
    for one in wanted:
        found = plan(model, one)
        assert found["model"]["kind"] == kind
        if len(wanted) == 1:
            assert found["evaluation"]["metrics"] == metrics.split(", ")
    for other in set(TARGETS) - set(wanted):
        with pytest.raises(Exception, match="bad_plan"):
            plan(model, other)


def test_every_kind_stands_on_the_page() -> None:
    assert {row[1] for row in MODELS} == {"linear", "logistic", "softmax", "mlp"}
    kinds = {kind for names, _ in STRATEGIES for kind in re.findall(r"fed\w+", names)}
    assert kinds == {"fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"}


@pytest.mark.parametrize("row", STRATEGIES, ids=[row[0] for row in STRATEGIES])
def test_strategies_and_their_defaults(row: tuple[str, str]) -> None:
    for kind in re.findall(r"fed\w+", row[0]):
        defaults = {name: float(value) for name, value in re.findall(r"`(\w+): ([0-9.]+)`", row[1])}
        required = "learning_rate" if "(required)" in row[1] else None
        written = f"{{kind: {kind}, {required}: 0.1}}" if required else f"{{kind: {kind}}}"
        found = plan("{kind: linear}", "float", written)["strategy"]
        assert {name: value for name, value in found.items() if name not in {"kind", required}} == defaults
        if required:
            with pytest.raises(Exception, match="bad_plan"):
                plan("{kind: linear}", "float", f"{{kind: {kind}}}")


def test_the_stopping_rule_of_the_page_is_one() -> None:
    (line,) = re.findall(r"^    (evaluation: .*)$", PAGE, re.M)
    assert plan("{kind: linear}", "float", evaluation=line)["evaluation"]["stop"] == {"patience": 5, "min_delta": 0.001}
