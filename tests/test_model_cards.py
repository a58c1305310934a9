"""Model cards from facts: what they say of privacy, and that nothing from outside is markup in one."""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from fedveil_cli import model_cards, model_files
from fedveil_common import modelfile, private_sum
from fedveil_common.exchange import card
from fedveil_common.plan import parse_plan
from markdown_it import MarkdownIt

from tests import model_samples, processes
from tests.model_samples import OURS

Capture = pytest.CaptureFixture[str]
PLAN = model_samples.plan_for("logistic", "binary", "federated")
PRINT = ("--fingerprint", OURS.fingerprint.hex())


def facts_of(file: modelfile.ModelFile, record: Mapping[str, Any] | None = None, round: int = 2) -> card.Facts:
    origin = model_files.check_origin(file, OURS.fingerprint)
    manifest, roster = origin.manifest, origin.roster
    manifest = dataclasses.replace(manifest, round=round)
    return card.facts(file, manifest, roster, card.Origin(b"", OURS.fingerprint), record)


def test_a_card_of_a_private_model_says_what_was_spent_and_what_is_not_hidden() -> None:
    text = processes.PRIVATE
    plan = parse_plan(text.encode(), "p")
    file = model_samples.signed(plan)
    privacy = facts_of(file)["privacy"]
    assert isinstance(privacy, dict)
    assert plan.privacy is not None
    assert (privacy["unit"], privacy["max_epsilon"], privacy["delta"]) == ("record", 4.0, 1e-5)
    spent = privacy["epsilon_of_the_sums_up_to_this_model"]
    assert spent == private_sum.spent(plan, plan.privacy, 2)
    assert 0 < spent <= 4.0
    said = " ".join(card.limits(plan))
    assert "up to epsilon 4" in said
    assert "no differential privacy" not in said
    assert "can subtract it" not in said
    coordinators = parse_plan(text.replace("unit: record,", "unit: record, noise: coordinator,").encode(), "p")
    said = " ".join(card.limits(coordinators))
    assert "can subtract it" in said
    assert "alone saw the exact sums" in said


def test_a_card_of_a_trainer_s_model_and_of_a_later_roster() -> None:
    plan = model_samples.plan_for("trainer", "binary")
    assert "the trainer risk alone" in " ".join(card.limits(plan))
    later = OURS.sign(model_samples.unsigned(plan), OURS.id, 2, OURS.roster(3))
    found = facts_of(later)
    assert found["members"] is None
    assert "later roster" in card.markdown(found)


NASTY = "</script><img src=x> [a](javascript:b) **b** `c` | d \\ https://e @f ![h](i) <!-- & # 1. - ~~k~~"


def test_nothing_from_outside_is_markup_in_a_card() -> None:
    more = f'purpose: {json.dumps(NASTY)}\ncontroller: "x"\ncontact: "a@b"\n'
    features = {"<b>|`x`": "{type: float, range: [0, 1]}", "c": "{type: category, values: ['a|b', '<i>', '[x](y)']}"}
    file = model_samples.signed(model_samples.plan_for("logistic", "binary", "range", features, more))
    text = card.markdown(facts_of(file))
    for line in text.splitlines():
        plain = re.sub(r"\\[!-/:-@\[-`{-~]", "", line)  # what is escaped is no markup
        if line.startswith("| "):
            assert plain.count("|") == 5, line
        assert not re.search(r"[<`\[\]*~]", plain), line
        assert all(one.isprintable() for one in line)
    assert "a\\|b" in text


def test_a_reader_of_markdown_finds_nothing_in_a_card_that_is_not_ours() -> None:
    """Every text that a member or an operator chooses, through CommonMark with tables: text, and the same text."""
    features = {NASTY: "{type: float, range: [0, 1]}", "c": f"{{type: category, values: [a, {json.dumps(NASTY)}]}}"}
    names = ("purpose", "controller", "contact", "legal_basis")
    more = "".join(f"{name}: {json.dumps(f'{name} {NASTY}')}\n" for name in names)
    file = model_samples.signed(model_samples.plan_for("logistic", "binary", "range", features, more))
    record = {"source": NASTY, NASTY: NASTY, "rounds": [{"in_the_sum": [NASTY]}]}
    tokens = MarkdownIt("commonmark").enable("table").parse(card.markdown(facts_of(file, record)))
    every = [*tokens, *(child for token in tokens for child in token.children or ())]
    kinds = ["heading", "paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td"]
    ours = {f"{kind}_{end}" for kind in kinds for end in ("open", "close")}
    assert {token.type for token in every} == {"inline", "text", "code_block", *ours}
    assert [token.content for token in tokens if token.type == "code_block"] == [
        "fedveil model verify FILE --fingerprint HEX\n"
    ]
    texts = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    said = sum(text.count(NASTY) for text in texts)
    assert said == len(names) + 2 + 4, "purposes, a column, a value, and of the record four"
    assert sum(token.type == "td_open" for token in tokens) == 4 * len(features)


def test_control_characters_of_a_record_are_escaped() -> None:
    file = model_samples.signed(PLAN)
    text = card.markdown(facts_of(file, {"source": "x\x1b[8m\u202e\ny", "end": None, "steps": 3, "ok": True}))
    assert "Not in the signed file" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "steps: 3" in text


def test_the_record_of_a_run_is_set_apart() -> None:
    one = {"number": 2, "purpose": "train", "survivors": ["acme"], "loss": 0.5, "accuracy": None, "auc": None, "x": 1}
    report = {"code": "finished", "steps": 2, "privacy": "none", "rounds": [one], "missing": {}}
    record = model_cards.record_of(report)
    assert record["epsilon_spent"] is None
    assert record["rounds"] == [{"round": 2, "purpose": "train", "in_the_sum": ["acme"], "loss": 0.5}]
    assert model_cards.record_of({**report, "privacy": {"epsilon": 1.5}})["epsilon_spent"] == 1.5
    found = facts_of(model_samples.signed(PLAN), record)
    assert found["record"] == record
    shown = card.markdown(found)
    assert shown.index("Not in the signed file") > shown.index("How to verify")
    assert "not signed" in shown
