"""The stages of a model version, and which may follow which.

    draft -> candidate -> released -> retired          any but withdrawn -> withdrawn, for good
                             ^-----------+             by a roll-back only

Promise: no stage is skipped; what was withdrawn never comes back. Source: docs/registry.md, section 2.
"""

import enum
from collections.abc import Mapping

from fedveil_common.errors import ConfigError


class Stage(enum.StrEnum):
    """Where a version stands. Every round's model is a draft until somebody decides otherwise."""

    DRAFT = "draft"
    CANDIDATE = "candidate"
    RELEASED = "released"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"


class Move(enum.StrEnum):
    """What a person decides about versions."""

    PROMOTE = "promote"
    RETIRE = "retire"
    WITHDRAW = "withdraw"
    ROLLBACK = "rollback"


_NEXT: Mapping[Move, Mapping[Stage, frozenset[Stage]]] = {
    Move.PROMOTE: {
        Stage.DRAFT: frozenset({Stage.CANDIDATE}),
        Stage.CANDIDATE: frozenset({Stage.RELEASED}),
    },
    Move.RETIRE: {Stage.RELEASED: frozenset({Stage.RETIRED})},
    Move.WITHDRAW: {
        stage: frozenset({Stage.WITHDRAWN}) for stage in (Stage.DRAFT, Stage.CANDIDATE, Stage.RELEASED, Stage.RETIRED)
    },
    Move.ROLLBACK: {  # the one that comes back, and the ones that make room for it
        Stage.RETIRED: frozenset({Stage.RELEASED}),
        Stage.RELEASED: frozenset({Stage.RETIRED}),
    },
}


def allowed(move: Move, before: Stage, after: Stage) -> bool:
    """Whether `move` leads from `before` to `after`."""
    return after in _NEXT[move].get(before, frozenset())


def check_move(move: Move, version: str, before: Stage, after: Stage) -> None:
    """Returns if `move` may lead the version from `before` to `after`. ConfigError `stage_jump`."""
    if allowed(move, before, after):
        return
    if before is Stage.WITHDRAWN:
        advice = "what was withdrawn stays withdrawn: train and release another model"
    elif move is Move.PROMOTE and before is Stage.DRAFT:
        advice = f"first `fedveil model promote {version} --to {Stage.CANDIDATE}`"
    elif before is Stage.RETIRED:
        advice = f"`fedveil model rollback {version} --reason TEXT` releases a retired version again"
    else:
        advice = f"`fedveil model show {version}` shows its stages"
    raise ConfigError(
        "stage_jump",
        f"{version} is {before}, and {move} does not lead from there to {after}",
        not_done="the version stays what it is",
        next_step=advice,
    )
