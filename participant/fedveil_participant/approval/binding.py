"""What an approval is bound to: the plan, the data set, and how this organisation would carry the plan out today.

Promise: two bindings are equal exactly when nothing that was approved has changed since: not the plan, not the masking
rules and their key, the policy, a trainer, nor the columns that the data set has. What changed is named by
`differences`.
"""

from dataclasses import dataclass
from typing import Protocol

from fedveil_common.errors import IntegrityError
from fedveil_common.ids import RunId
from fedveil_common.plan import Plan

NOTHING = bytes(32)
"""The digest of what is not there: no masking rules, no policy, no trainer of one's own."""

_SIZE = 32
_PARTS = ("masking", "policy", "trainer", "schema")


@dataclass(frozen=True, slots=True)
class LocalDigests:
    """Digests (32 bytes each) of this organisation's own: masking rules with the key that they mask under, the trainer
    with its description, columns of the data set.
    """

    masking: bytes = NOTHING
    trainer: bytes = NOTHING
    schema: bytes = NOTHING


class Bindings(Protocol):
    """What is to be known of this organisation's house for a plan. Any thread."""

    def of(self, plan: Plan) -> LocalDigests:
        """The digests as they are now. Raises FedveilError where one cannot be found: then nothing is approved."""
        ...

    def changed_rows(self, plan: Plan, run_id: RunId) -> int | None:
        """How many rows of the plan's data set are others now than they were for an earlier run; None: not known."""
        ...

    def trainer_known(self, plan_hash: bytes, trainer: bytes) -> bool:
        """Whether a trainer is the one that the plan was approved with here, or the first one that it meets."""
        ...

    def trainer_approved(self, plan_hash: bytes, trainer: bytes) -> None:
        """People approved the plan with this trainer: the plan runs with it, and with no other. StorageError."""
        ...


class NoBindings:
    """Of a house without masking rules and trainers, whose columns are those that the plan names."""

    def of(self, plan: Plan) -> LocalDigests:
        """Nothing is there."""
        return LocalDigests()

    def changed_rows(self, plan: Plan, run_id: RunId) -> int | None:
        """Not known."""
        return None

    def trainer_known(self, plan_hash: bytes, trainer: bytes) -> bool:
        """There is none that could have changed."""
        return True

    def trainer_approved(self, plan_hash: bytes, trainer: bytes) -> None:
        """There is none."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One approval's terms: 32 bytes each but for the name of the data set."""

    plan_hash: bytes
    dataset: str
    masking: bytes
    policy: bytes
    trainer: bytes
    schema: bytes

    def to_bytes(self) -> bytes:
        """The four digests of this house, as a table keeps them beside the plan's hash and the data set's name."""
        return self.masking + self.policy + self.trainer + self.schema

    @staticmethod
    def from_bytes(plan_hash: bytes, dataset: str, data: bytes) -> "Binding":
        """What `to_bytes` wrote. IntegrityError `binding_damaged`."""
        if len(data) != _SIZE * len(_PARTS):
            raise IntegrityError("binding_damaged", f"a stored approval has {len(data)} bytes of digests")
        return Binding(plan_hash, dataset, *(data[at : at + _SIZE] for at in range(0, len(data), _SIZE)))

    def facts(self) -> tuple[tuple[str, str], ...]:
        """For the records, digests in hex."""
        digests = ((name, getattr(self, name).hex()) for name in _PARTS)
        return ("plan", self.plan_hash.hex()), ("dataset", self.dataset), *digests


def bind(plan_hash: bytes, dataset: str, policy: bytes, local: LocalDigests) -> Binding:
    """The binding of a plan in this house. `policy`: the policy's digest."""
    return Binding(plan_hash, dataset, local.masking, policy, local.trainer, local.schema)


def differences(before: Binding, now: Binding) -> tuple[str, ...]:
    """The names of what changed."""
    return tuple(name for name in ("dataset", *_PARTS) if getattr(before, name) != getattr(now, name))
