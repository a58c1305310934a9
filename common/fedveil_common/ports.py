"""What the machines need from the world: time, entropy, failpoints, vectors at rest.

Built in `fedveil_cli`, in the stores and in simulations only. Nobody else calls `time.*`, `secrets`,
`os.urandom` or a random generator.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # arithmetic is not loaded by those who only need a clock
    from fedveil_common.leafshape import Shape


class Clock(Protocol):
    """Two clocks: deadlines use `monotonic_s`, certificates and records use `wall_s`."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; meaningful only as differences."""
        ...

    def wall_s(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...


class Entropy(Protocol):
    """Random bytes fit for keys."""

    def take(self, size: int) -> bytes:
        """`size` bytes: the operating system's CSPRNG in production, a seeded stream in a simulation."""
        ...


class Failpoints(Protocol):
    """Named places at which a test may end the process; in production `hit` does nothing."""

    def hit(self, name: str) -> None:
        """Called at the named place; returns, or never returns."""
        ...


class NoFailpoints:
    """The production failpoints: none."""

    def hit(self, name: str) -> None:
        """Returns at once."""


class LeafSink(Protocol):
    """A vector in the making, leaf by leaf. Ends with one of `finish` and `discard`."""

    def write(self, index: int, data: bytes | bytearray) -> None:
        """Leaf `index` as it travels; each once, in any order, from any thread."""
        ...

    def finish(self, *, replace: bool = False) -> None:
        """The whole is durable in its place. The first vector in a place stays, unless `replace`: PeerError
        `input_differs` if another one is there.
        """
        ...

    def discard(self) -> None:
        """Nothing remains; nothing happens after `finish`."""
        ...


class LeafSpool(Protocol):
    """A vector on its way in, leaf by leaf, which may be taken up again. Ends with `finish` or `close`."""

    @property
    def first_missing(self) -> int:
        """How many leaves are there already; the next to be written."""
        ...

    def write(self, index: int, data: bytes | bytearray) -> None:
        """Leaf `index` as it travels, verified: the first that is missing."""
        ...

    def finish(self) -> None:
        """The whole is durable in its place, where the first vector stays: PeerError `input_differs`."""
        ...

    def close(self) -> None:
        """Done for now: what was written stays for the next time."""
        ...


class LeafSource(Protocol):
    """A vector at rest, read leaf by leaf from any thread."""

    @property
    def shape(self) -> "Shape":
        """Which kind of leaves, how many, how large."""
        ...

    @property
    def leaves(self) -> int:
        """How many: those of the shape."""
        ...

    def packed(self, index: int) -> bytes | bytearray:
        """Leaf `index` as it travels."""
        ...

    def close(self) -> None:
        """Done with it."""
        ...
