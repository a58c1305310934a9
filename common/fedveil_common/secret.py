"""Secrets as types: bytes that cannot slip into a log, a traceback or a pickle.

Invariant: `repr`, `str` and `format` show only the type's name; pickling raises; comparison takes constant time;
the bytes are read by the one named call `expose`, which can be searched for.
"""

import hmac
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class Secret:
    """Some secret bytes. Subclasses name what they are; only the holder may call `expose`."""

    __slots__ = ("_bytes",)

    def __init__(self, value: bytes) -> None:
        self._bytes = bytes(value)

    def expose(self) -> bytes:
        """The bytes themselves. Every call site is a place where a secret is used."""
        return self._bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<redacted>)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and hmac.compare_digest(self._bytes, other._bytes)

    def __hash__(self) -> NoReturn:
        raise TypeError("a secret is not hashable")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret refuses pickling")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> "CoreSchema":
        """How `snapshot` writes a secret into a journal record, which the store seals before it reaches the disk."""
        from pydantic_core import core_schema

        plain: Any = lambda secret: secret.expose()  # noqa: E731
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.bytes_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(
                plain, return_schema=core_schema.bytes_schema(), when_used="json"
            ),
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Seed(Secret):
    """32 uniformly random bytes from which streams are derived."""

    __slots__ = ()

    def __init__(self, value: bytes) -> None:
        if len(value) != 32:
            raise ValueError("a seed is 32 bytes")
        super().__init__(value)


class PrivateKey(Secret):
    """32 raw bytes of an X25519 or Ed25519 private key (which one is said by the field that holds it)."""

    __slots__ = ()

    def __init__(self, value: bytes) -> None:
        if len(value) != 32:
            raise ValueError("a raw private key is 32 bytes")
        super().__init__(value)


class Share(Secret):
    """One Shamir share: 33 bytes big-endian, an integer below 2^256 + 297."""

    __slots__ = ()

    def __init__(self, value: bytes) -> None:
        if len(value) != 33:
            raise ValueError("a share is 33 bytes")
        super().__init__(value)


class Passphrase(Secret):
    """What a person typed or a credential file held, UTF-8."""

    __slots__ = ()
