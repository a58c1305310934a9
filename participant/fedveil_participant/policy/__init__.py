"""The organisation's policy: read (`parse_policy`), judged by (`judge`), final."""

from fedveil_participant.policy.judging import SAID, Facts, Finding, Refusal, Verdict, examine, judge, refused
from fedveil_participant.policy.reading import PolicyError, canonical, parse_policy, policy_digest
from fedveil_participant.policy.rules import (
    Approver,
    AutomaticRule,
    CohortRules,
    DataRules,
    FirstLayer,
    HoursRules,
    Isolation,
    ModelRules,
    PlanPattern,
    Policy,
    PrivacyRules,
    ResourceRules,
)

__all__ = [
    "SAID",
    "Approver",
    "AutomaticRule",
    "CohortRules",
    "DataRules",
    "Facts",
    "Finding",
    "FirstLayer",
    "HoursRules",
    "Isolation",
    "ModelRules",
    "PlanPattern",
    "Policy",
    "PolicyError",
    "PrivacyRules",
    "Refusal",
    "ResourceRules",
    "Verdict",
    "canonical",
    "examine",
    "judge",
    "parse_policy",
    "policy_digest",
    "refused",
]
