"""Masking of an organisation's own tables: rules, engine, risk report.

How a caller uses it:

    rules = parse_rules(text, "masking.yaml", beside)    # beside(name) -> bytes of a hierarchy; RulesError
    key = MaskingKey(secret)                             # found where rules.key_ref says; the edge reads it
    masked = mask_table(rules, key, table, "visits", entropy=entropy, release=False)
    masked.table, masked.report, masked.noise            # a pyarrow Table; RiskReport; entries of the masking ledger

`table` is a pyarrow Table of texts or of typed columns: equal cells give equal results. In training, call it with
`release=True` where the policy says `training_release: true`, else with `release=False`; then check the plan's columns
on `masked.table`. `rules.digest` is the masking digest that an approval binds. Rows may have been left out; their order
is kept. Everything that can go wrong is a FedveilError; nothing of a value is in it.
"""

from fedveil_participant.masking.canonical import canonical
from fedveil_participant.masking.engine import METADATA, Masked, ReleaseRefused, mask_table
from fedveil_participant.masking.key_reference import KeyReference, parse_key_reference
from fedveil_participant.masking.keys import MaskingKey
from fedveil_participant.masking.ledger import NoiseEntry
from fedveil_participant.masking.problems import BadCellsError, CellProblem, RulesError
from fedveil_participant.masking.reading import parse_rules
from fedveil_participant.masking.report import RiskReport
from fedveil_participant.masking.rules import ColumnClass, ColumnRule, OnFail, Release, Rules
from fedveil_participant.masking.unmasking import unmask_table

__all__ = [
    "METADATA",
    "BadCellsError",
    "CellProblem",
    "ColumnClass",
    "ColumnRule",
    "KeyReference",
    "Masked",
    "MaskingKey",
    "NoiseEntry",
    "OnFail",
    "Release",
    "ReleaseRefused",
    "RiskReport",
    "Rules",
    "RulesError",
    "canonical",
    "mask_table",
    "parse_key_reference",
    "parse_rules",
    "unmask_table",
]
