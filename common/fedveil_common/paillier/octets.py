"""Strict reading of the holders' messages and records: every byte is accounted for, or the whole is refused.

Invariant: whatever the bytes, reading returns or raises PeerError `bad_key_message`; no count, length or number that
the sender states makes the reader take more memory than it was sent. Source: docs/paillier-keys.md, "Encodings".
"""

from fedveil_common.errors import PeerError
from fedveil_common.paillier.encoding import number


class Octets:
    """Bytes from outside, read from the front. `peer`: who sent them, named in errors."""

    __slots__ = ("_at", "_data", "_peer", "_what")

    def __init__(self, data: bytes, what: str, peer: str = "") -> None:
        self._data = bytes(data)
        self._at = 0
        self._what = what
        self._peer = peer

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise self.refused(f"it ends after {len(self._data)} bytes")
        found, self._at = self._data[self._at : end], end
        return found

    def unsigned(self, size: int) -> int:
        """The next `size` bytes as a big-endian number."""
        return int.from_bytes(self.take(size), "big")

    def element(self, size: int) -> int:
        """The next `size` bytes as an integer to compute with; its range is for the caller to check."""
        return number(self.take(size))

    def prefixed(self, most: int) -> bytes:
        """LP(b) of at most `most` bytes."""
        size = self.unsigned(4)
        if size > most:
            raise self.refused(f"a field of {size} bytes stands where {most} are the most")
        return self.take(size)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Nothing is left."""
        if self._at != len(self._data):
            raise self.refused(f"{len(self._data) - self._at} bytes follow its end")

    def refused(self, why: str) -> PeerError:
        """The error for these bytes."""
        return PeerError("bad_key_message", f"the {self._what} cannot be read: {why}", peer=self._peer)
