"""A private key and its certificate as two files that are exchanged as one, so that a crash leaves a pair that fits.

A renewal leaves its mark in two more files: KEY.next, the new key, durable before anybody hears of it, and
CERTIFICATE.next, the certificate for it, whose appearance is the one step by which the new pair takes over. What
remains, two renames, is done again by whoever opens the folder next. Invariant: `key` and `certificate` belong together
after a crash at any point. One writer at a time: hold the folder's lock.
"""

import pathlib
from dataclasses import dataclass

from fedveil_common import durable
from fedveil_common.pki import sealed_keys
from fedveil_common.ports import Failpoints, NoFailpoints

_NEXT = ".next"


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The pair `key_name`, `certificate_name` in `folder`. Holds no secret."""

    folder: pathlib.Path
    key_name: str
    certificate_name: str

    @property
    def key_path(self) -> pathlib.Path:
        """Where the key in force lies."""
        waiting = self._next(self.key_name)
        return waiting if self._committed() and waiting.exists() else self.folder / self.key_name

    @property
    def certificate_path(self) -> pathlib.Path:
        """Where the certificate in force lies."""
        return self._next(self.certificate_name) if self._committed() else self.folder / self.certificate_name

    def key(self) -> bytes:
        """The key in force as it lies there, sealed or in clear. Secret. Errors of `read_private`."""
        return sealed_keys.read_private(self.key_path)

    def certificate(self) -> bytes:
        """The certificate in force, PEM. StorageError."""
        with durable.storing(self.certificate_path):
            return self.certificate_path.read_bytes()

    def waiting_key(self) -> bytes | None:
        """The key of a renewal that has no certificate yet, as it lies there. Secret."""
        path = self._next(self.key_name)
        return None if self._committed() or not path.exists() else sealed_keys.read_private(path)

    def begin(self, key: bytes) -> None:
        """Keep the new key, durably, before a certificate is asked for it. `key`: sealed or in clear. Secret."""
        self.settle()
        durable.write_file(self._next(self.key_name), key)

    def forget(self) -> None:
        """The key of a renewal that came to nothing is gone."""
        if not self._committed():
            durable.remove(self._next(self.key_name))

    def commit(self, certificate: bytes, failpoints: Failpoints | None = None) -> None:
        """The new key's certificate has come: from here on the pair is the new one."""
        hit = (failpoints or NoFailpoints()).hit
        hit("renewal.before.commit")
        durable.write_file(self._next(self.certificate_name), certificate)
        hit("renewal.after.commit")
        self.settle(failpoints)

    def settle(self, failpoints: Failpoints | None = None) -> None:
        """Finish a renewal that was committed; nothing to do otherwise."""
        if not self._committed():
            return
        hit = (failpoints or NoFailpoints()).hit
        if self._next(self.key_name).exists():
            self._rename(self.key_name)
            hit("renewal.after.key")
        self._rename(self.certificate_name)
        hit("renewal.after.certificate")

    def replace(self, key: bytes, certificate: bytes) -> None:
        """Another pair altogether (a join): what was begun is forgotten. The caller marks when the whole is there."""
        durable.remove(self._next(self.certificate_name))
        durable.remove(self._next(self.key_name))
        durable.write_file(self.folder / self.key_name, key)
        durable.write_file(self.folder / self.certificate_name, certificate)

    def reseal(self, key: bytes) -> None:
        """The same key in another form (sealed), in the place where it lies."""
        durable.write_file(self.key_path, key)

    def reseal_waiting(self, key: bytes) -> None:
        """The same for the key of a renewal under way."""
        durable.write_file(self._next(self.key_name), key)

    def _committed(self) -> bool:
        return self._next(self.certificate_name).exists()

    def _next(self, name: str) -> pathlib.Path:
        return self.folder / (name + _NEXT)

    def _rename(self, name: str) -> None:
        path = self._next(name)
        with durable.storing(path):
            path.rename(self.folder / name)
        durable.sync_folder(self.folder)
