"""An organisation's policy as values: what plans it may take part in at all, whoever asks.

Promise: a `Policy` that left `parse_policy` is complete (every default is written out) and consistent; code that holds
one checks nothing again. Nothing that the coordinator says changes it. Source: docs/policy.md.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedveil_common.ids import OrgId


@dataclass(frozen=True, slots=True)
class PlanPattern:
    """Which plans: one by its hash (64 hex digits), or those with this name, of this kind; an empty field fits all."""

    hash: str = ""
    name: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class CohortRules:
    """Who must be there. `corrupt`: members that a plan must at least reckon with. `known`: the organisations that this
    one trusts to be real; of them, besides itself, `min_known` must be invited and `min_known_survivors` be in a sum.
    """

    min_members: int = 3
    min_survivors: int = 3
    corrupt: int = 1
    known: tuple[OrgId, ...] = ()
    min_known: int = 0
    min_known_survivors: int = 0


@dataclass(frozen=True, slots=True)
class PrivacyRules:
    """`exact_sums`: whether a plan may have no differential privacy. The others limit plans that have it: the most
    epsilon of a run and the largest delta, whose presence is hidden (`units`), who adds the noise (`noise`).
    """

    exact_sums: bool
    max_epsilon: float
    max_delta: float
    units: tuple[str, ...]
    noise: tuple[str, ...]


ALL_COLUMNS = "all"


@dataclass(frozen=True, slots=True)
class DataRules:
    """What may be read of one data set. None for columns: all of them. `min_rows`: what must be left of it after all
    filters, at every request. `epsilon_per_month`: over all runs that begin in a month; None: the ledger's own limit.
    """

    features: tuple[str, ...] | None
    targets: tuple[str, ...] | None
    persons: tuple[str, ...] | None
    queries: tuple[str, ...] | None
    min_rows: int
    epsilon_per_month: float | None = None


class FirstLayer(enum.StrEnum):
    """Whether the width of a first hidden layer is limited where sums are exact (`imprint`)."""

    GUARDED = "guarded"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class ModelRules:
    """Which models. `trainers`: own trainers by name; none unless named. `units_per_input`, `rows_per_unit`: how wide a
    first hidden layer may be, see `imprint`.
    """

    kinds: tuple[str, ...] = ("linear", "logistic", "softmax", "mlp")
    max_parameters: int = 10_000_000
    max_hidden_layers: int = 16
    first_layer: FirstLayer = FirstLayer.GUARDED
    units_per_input: float = 8.0
    rows_per_unit: float = 4.0
    trainers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HoursRules:
    """When inputs are given: on these days (0 is Monday), from minute `start` of the day up to, not including, minute
    `end`, on the clocks of `zone`. With `end` <= `start` it goes on into the next day; the day is that of the start.
    """

    days: tuple[int, ...]
    start: int
    end: int
    zone: str


@dataclass(frozen=True, slots=True)
class ResourceRules:
    """The most that a plan may take; None: no limit. Bytes: of one input. Seconds: a round's hard limit."""

    max_rounds: int | None = None
    max_bytes_per_round: int | None = None
    max_seconds_per_round: float | None = None


@dataclass(frozen=True, slots=True)
class Approver:
    """Who may approve: one user by name, or every member of a group. Exactly one of them is set."""

    user: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class AutomaticRule:
    """Which plans are approved without asking, and up to how much. `exact`: plans without differential privacy, and no
    others; else plans with it, and no others. The caps are over all runs that this rule let in, for one data set in one
    month: runs, rounds of their plans, and the epsilon that their plans may spend (0 where sums are exact).
    """

    dataset: str
    plans: tuple[PlanPattern, ...]
    exact: bool
    runs: int
    rounds: int
    epsilon: float


class RosterRule(enum.StrEnum):
    """Whose word a new member, or a member's new key, needs: governance's alone, or also that of somebody here."""

    OPERATOR = "operator"
    CONFIRM = "confirm"


class Countersign(enum.StrEnum):
    """Whether this organisation vouches for the models that it derived by itself, or once its owner has said so."""

    AUTO = "auto"
    ASK = "ask"


class Isolation(enum.StrEnum):
    """The least that own training code must be isolated by."""

    BWRAP = "bwrap"
    LANDLOCK = "landlock"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Policy:
    """All that an organisation has laid down. `plans` empty: any plan that the other rules let through. `approvers`
    empty: whoever runs the participant. `zone`: whose calendar months count. `roster`: None for `operator`, so that the
    digests of policies from before there was a choice stay.
    """

    version: int
    privacy: PrivacyRules
    data: Mapping[str, DataRules]
    plans: tuple[PlanPattern, ...] = ()
    protections: tuple[str, ...] = ("masked", "paillier")
    cohort: CohortRules = field(default_factory=CohortRules)
    models: ModelRules = field(default_factory=ModelRules)
    hours: HoursRules | None = None
    resources: ResourceRules = field(default_factory=ResourceRules)
    approvers: tuple[Approver, ...] = ()
    need: int = 1
    approve: tuple[AutomaticRule, ...] = ()
    zone: str = "UTC"
    training_release: bool = False
    min_cell: int = 1
    min_changed_rows: int = 10
    countersign: Countersign = Countersign.AUTO
    isolation: Isolation = Isolation.LANDLOCK
    roster: RosterRule | None = None
