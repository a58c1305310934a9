"""The masks of registered data sets: rules as they were registered, with their key, ready when a plan is accepted.

Promise: rules and key that are not those that were registered mask nothing (`masking_changed`, `masking_key_changed`);
what could not be made ready is refused when its data set is asked for, and holds up no other. Where a plan protects
single records, a mask whose output for one row depends on other rows is refused (`mask_mixes_rows`): one record would
move what others contribute, and the epsilon that is charged would not be true. Every masking is on record, with counts
and digests and no value.
"""

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
from fedveil_common import jcs
from fedveil_common.errors import ConfigError, FedveilError, PolicyRefusal
from fedveil_common.plan import Plan, Unit
from fedveil_common.ports import Entropy

from fedveil_participant.data.masked_records import Mask
from fedveil_participant.data.registration import Registration
from fedveil_participant.masking.engine import Masked, mask_table
from fedveil_participant.masking.keys import MaskingKey
from fedveil_participant.masking.rules import Rules

Note = Callable[[str, tuple[tuple[str, str], ...]], None]
"""Puts a fact about this organisation's own doing on record."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rules as they stand in their file, and the key that they name."""

    rules: Rules
    key: MaskingKey | None


Pin = Callable[[str, str], None]
"""(data set, key id): keeps which key a registration masks under that was made without it at hand."""

Load = Callable[[Registration], Loaded]
"""Reads the rules file and the key of a registered data set. Raises FedveilError."""


class RegisteredMasks:
    """See `bench.MaskOf`. `release`: whether the thresholds of the rules apply to training (`training_release`)."""

    def __init__(
        self,
        registrations: Iterable[Registration],
        load: Load,
        entropy: Entropy,
        note: Note,
        *,
        release: bool = False,
        pin: Pin | None = None,
    ) -> None:
        self._entropy, self._note, self._release = entropy, note, release
        self._known: dict[str, Loaded | FedveilError] = {}
        for one in registrations:
            if one.rules is not None:
                self._known[one.name] = _loaded(one, load, pin)

    def __call__(self, registration: Registration, plan: Plan) -> Mask:
        """The mask that the plan sees this data set through. ConfigError `masking_changed`, `masking_key_changed`,
        `masking_dataset` and all that hinders rules or key from being read; PolicyRefusal `mask_mixes_rows`.
        """
        found = self._known[registration.name]
        if isinstance(found, FedveilError):
            raise found
        check_row_wise(found.rules, plan, release=self._release)

        def mask(table: pa.Table) -> pa.Table:
            done = mask_table(
                found.rules, found.key, table, registration.name, entropy=self._entropy, release=self._release
            )
            self._note("data_masked", facts_of(registration.name, found.rules, table.num_rows, done))
            return done.table

        return mask


def _loaded(registration: Registration, load: Load, pin: Pin | None) -> Loaded | FedveilError:
    assert registration.rules is not None, "only data sets with rules are loaded"
    try:
        found = load(registration)
        if not hmac.compare_digest(found.rules.digest, registration.rules.digest):
            raise changed(registration.name, found.rules.digest, registration.rules.digest)
        check_key(registration.name, found.key, registration.rules.key_id)
        if pin is not None and found.key is not None and not registration.rules.key_id:
            pin(registration.name, found.key.key_id)
    except FedveilError as error:
        return error
    return found


def changed(shown: str, found: bytes, registered: bytes) -> ConfigError:
    """`masking_changed`: the rules of a data set are others than those that were registered."""
    return ConfigError(
        "masking_changed",
        f"the masking rules of {shown} are not those that were registered: their digest is {found.hex()}, registered "
        f"is {registered.hex()}",
        not_done="no row of the data set was used",
        next_step="look at what changed; then fedveil data add NAME --replace --source ... --rules FILE",
    )


def check_key(shown: str, found: MaskingKey | None, registered: str) -> None:
    """ConfigError `masking_key_changed` for another key than the registered one. `registered`: empty, if none is."""
    if found is not None and registered and found.key_id != registered:
        raise ConfigError(
            "masking_key_changed",
            f"the masking key of {shown} is not the one that it was registered with: its id is {found.key_id}, "
            f"registered is {registered}",
            not_done="no row of the data set was used",
            next_step="put the key back; or, for other pseudonyms and noise from now on, fedveil data add NAME "
            "--replace --source ... --rules FILE",
        )


def check_row_wise(rules: Rules, plan: Plan, *, release: bool) -> None:
    """PolicyRefusal `mask_mixes_rows` for a plan that protects single records and a mask that looks beyond one."""
    if plan.privacy is None or plan.privacy.unit is not Unit.RECORD:
        return
    mixing = rules.mixing(release=release)
    if mixing:
        raise PolicyRefusal(
            "mask_mixes_rows",
            f"the plan protects single records, and in the masking rules of {rules.dataset} what becomes of a row "
            f"depends on other rows: {', '.join(mixing)}",
            not_done="the plan was not accepted",
            next_step="use operators that look at one cell at a time (generalise, truncate, clamp, pseudonym)",
        )


def facts_of(dataset: str, rules: Rules, rows: int, done: Masked) -> tuple[tuple[str, str], ...]:
    """What is kept of one masking: digests, counts, how each column was masked, and the noise that was put on."""
    return (
        ("dataset", dataset),
        ("masking", rules.digest.hex()),
        ("rows", str(rows)),
        ("rows_left", str(done.table.num_rows)),
        (
            "columns",
            jcs.dumps({one.name: [step.NAME for step in one.steps] for one in rules.columns.values()}).decode(),
        ),
        ("noise", jcs.dumps([entry.json() for entry in done.noise]).decode()),
    )
