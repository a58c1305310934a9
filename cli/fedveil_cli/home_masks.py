"""The masking rules of registered data sets, as commands and a starting participant find them.

Promise: rules, hierarchies and key are read when a process starts, before anything else happens to the data; a key from
the environment is deleted there.
"""

import pathlib
from collections.abc import Iterable

from fedveil_common.errors import ConfigError
from fedveil_common.ports import Entropy
from fedveil_participant.data.registration import Registration
from fedveil_participant.masking import MaskingKey, Rules, parse_key_reference
from fedveil_participant.masking.registered import Loaded, Note, Pin, RegisteredMasks

from fedveil_cli.masking_commands import read_rules
from fedveil_cli.masking_keys import find_key
from fedveil_cli.output import Output


def masks_of(
    registrations: Iterable[Registration],
    entropy: Entropy,
    output: Output,
    note: Note,
    *,
    release: bool = False,
    pin: Pin | None = None,
) -> RegisteredMasks:
    """The masks of those that have rules; several may name one key."""
    held: dict[str, MaskingKey | None] = {}

    def key_of(rules: Rules, path: pathlib.Path) -> MaskingKey | None:
        """Of the environment once: it is deleted there."""
        if rules.key_ref is None or parse_key_reference(rules.key_ref).kind != "env":
            return find_key(rules.key_ref, path, output)
        if rules.key_ref not in held:
            held[rules.key_ref] = find_key(rules.key_ref, path, output)
        return held[rules.key_ref]

    def load(registration: Registration) -> Loaded:
        assert registration.rules is not None, "only data sets with rules are loaded"
        rules = read_rules(registration.rules.path)
        key = key_of(rules, registration.rules.path) if rules.needs_key else None
        return Loaded(rules, key)

    return RegisteredMasks(registrations, load, entropy, note, release=release, pin=pin)


def key_id_for(rules: Rules, path: pathlib.Path, output: Output) -> str:
    """The id of the key that rules in `path` mask under; empty if they need none, or if it is not at hand here: a
    credential may be there for the service alone. ConfigError `masking_key_exposed` and the like.
    """
    if not rules.needs_key:
        return ""
    try:
        key = find_key(rules.key_ref, path, output)
    except ConfigError as error:
        if error.code not in {"masking_key_missing", "file_unreadable"}:
            raise
        output.note(f"the masking key is not at hand ({error.code}): the next start of `participate` fixes which it is")
        return ""
    return "" if key is None else key.key_id


def rules_for(dataset: str, path: pathlib.Path) -> Rules:
    """The rules in a file, for this data set. RulesError; ConfigError `masking_dataset`, `file_unreadable`."""
    rules = read_rules(path)
    if rules.dataset != dataset:
        raise ConfigError(
            "masking_dataset",
            f"{path} has the rules of the data set {rules.dataset}, not of {dataset}",
            not_done="nothing was registered",
            next_step=f"give the rules of {dataset}",
        )
    return rules
