"""Rules and tables for the tests of masking: one line of rules at a time, tables of texts."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from fedveil_participant.masking import Masked, MaskingKey, Rules, mask_table, parse_rules
from fedveil_simulation.ports import SeededEntropy

KEY = MaskingKey(hashlib.sha256(b"masking tests").hexdigest().encode())
OTHER_KEY = MaskingKey(hashlib.sha256(b"another").hexdigest().encode())


def rules_text(columns: Mapping[str, str], further: str = "", dataset: str = "visits") -> bytes:
    """A rules file: column -> what stands in the braces."""
    lines = [f"  {name}: {{{rule}}}" for name, rule in columns.items()]
    return "\n".join(["version: 1", f"dataset: {dataset}", "key_ref: env:K", "columns:", *lines, further, ""]).encode()


def no_file(name: str) -> bytes:
    raise AssertionError(name)


def rules(
    columns: Mapping[str, str],
    further: str = "",
    beside: Callable[[str], bytes] = no_file,
    dataset: str = "visits",
) -> Rules:
    return parse_rules(rules_text(columns, further, dataset), "masking.yaml", beside)


def texts(columns: Mapping[str, Sequence[str | None]]) -> pa.Table:
    return pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()})


def masked(
    columns: Mapping[str, str],
    table: pa.Table,
    further: str = "",
    beside: Callable[[str], bytes] = no_file,
    *,
    key: MaskingKey | None = KEY,
    release: bool = False,
    seed: int = 1,
) -> Masked:
    entropy = SeededEntropy(seed, "masking")
    return mask_table(rules(columns, further, beside), key, table, "visits", entropy=entropy, release=release)


def one(rule: str, values: Sequence[str | None], beside: Callable[[str], bytes] = no_file) -> list[str | None]:
    """One column of texts through its rule."""
    found: list[str | None] = masked({"a": rule}, texts({"a": values}), beside=beside).table.column("a").to_pylist()
    return found
