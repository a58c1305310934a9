"""Frozen dataclasses as JSON bytes for the journals, and back, strictly.

Used for what a machine writes for its own later self (never for what travels): bytes in base64, enums by value, secrets
by their bytes, which is why a snapshot that may hold one is sealed by the store before it is written. A value that does
not fit its declared type exactly is refused. pydantic does the work; this module only fixes how.
"""

from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedveil_common.errors import IntegrityError

T = TypeVar("T")

_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")


class SnapshotCodec(Generic[T]):
    """Encodes the dataclasses in `kinds` (name -> class); each is written under its name, which the caller stores."""

    def __init__(self, kinds: dict[str, type[T]]) -> None:
        self._kinds = kinds
        self._adapters: dict[str, TypeAdapter[Any]] = {}

    def _adapter(self, kind: str) -> TypeAdapter[Any]:
        if kind not in self._adapters:
            if kind not in self._kinds:
                raise IntegrityError("journal_damaged", f"the journal holds a record of unknown kind {kind!r}")
            # the one-tuple carries the configuration, which pydantic takes from the outermost type that is no dataclass
            self._adapters[kind] = TypeAdapter(tuple[self._kinds[kind]], config=_CONFIG)  # type: ignore[name-defined]
        return self._adapters[kind]

    def encode(self, value: T) -> bytes:
        """`value` as JSON bytes, to be stored beside its class name."""
        return self._adapter(type(value).__name__).dump_json((value,))

    def decode(self, kind: str, data: bytes) -> T:
        """The value written by `encode` under `kind`; IntegrityError `journal_damaged` if it is not one."""
        try:
            value: T = self._adapter(kind).validate_json(data)[0]
        except ValidationError as error:
            raise IntegrityError("journal_damaged", f"a journal record of kind {kind} does not parse") from error
        return value
