"""What the operator orders about files at rest: seal them, give them another key, another passphrase, or none.

Promise: each order first finishes one that was interrupted, and has then done what it was given for, if that was it; a
home whose order did not finish is not served (`storage_key`). Every order checks that the passphrase opens the
authority's key too, because `serve` has one passphrase for both. What is done is on record, with the fingerprint of the
key, before it counts as finished: `serve` compares; so is every `storage.key` before it is written (`storage_state`).
Hold the `FolderLock`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from fedveil_common import durable
from fedveil_common.errors import ConfigError
from fedveil_common.pki.invites import OPERATOR
from fedveil_common.ports import Clock, Entropy, Failpoints
from fedveil_common.secret import Passphrase, Seed

from fedveil_coordinator.founding import Federation
from fedveil_coordinator.store import CoordinatorStore, open_store, storage_key, storage_state
from fedveil_coordinator.store.converting import check, convert
from fedveil_coordinator.store.storage_key import StorageKeys

SEAL, ROTATE, UNSEAL = "seal", "rotate", "unseal"


@dataclass(frozen=True, slots=True)
class Done:
    """How many files have the new form, and how many bytes they are. `finished`: the interrupted order that was
    finished first, empty: none; `anew`: whether the order itself was carried out, and not only that one finished.
    """

    files: int
    bytes: int
    finished: str = ""
    anew: bool = True


def seal(
    federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy, failpoints: Failpoints
) -> Done:
    """Everything is sealed, under the key of this home if it has one: what a copy brought back in clear too.

    SealedError `passphrase_missing`, `passphrase_wrong`; StorageError; errors of `converting.check`: nothing was
    changed then, but for what was finished first.
    """
    with _desk(federation, passphrase, clock, entropy, failpoints) as desk:
        keys, first = desk.settled()
        if first is not None and first.finished != UNSEAL:
            return first
        key = Seed(entropy.take(32)) if keys.now is None else keys.now
        return desk.change(StorageKeys(key, None, True), first)


def rotate(
    federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy, failpoints: Failpoints
) -> Done:
    """Everything is sealed under a new key: who had the old one reads nothing of what is written from now on.

    A rotation that was interrupted is finished, with its own key, and that is all; but one that comes from before a
    `rewrap`, perhaps from another operator, is followed by a new one. Errors as `seal`; ConfigError `storage_in_clear`.
    """
    with _desk(federation, passphrase, clock, entropy, failpoints) as desk:
        ours = desk.began_here()
        keys, first = desk.settled()
        if first is not None and first.finished == ROTATE and ours:
            return first
        return desk.change(StorageKeys(Seed(entropy.take(32)), _sealed(keys), True), first)


def unseal(
    federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy, failpoints: Failpoints
) -> Done:
    """Everything is in clear, and the key is gone. Errors as `rotate`."""
    with _desk(federation, passphrase, clock, entropy, failpoints) as desk:
        keys, first = desk.settled()
        if first is not None and first.finished == UNSEAL:
            return first
        return desk.change(StorageKeys(None, _sealed(keys), True), first)


def rewrap(federation: Federation, old: Passphrase, new: Passphrase, clock: Clock, entropy: Entropy) -> None:
    """The same key under the passphrase that opens the authority's key now. A copy of the old file opens as before.

    Errors as `rotate`.
    """
    federation.authority(new)
    keys = storage_key.read(federation.home, old)
    if not keys.converting:
        _sealed(keys)
    with contextlib.closing(open_store(federation.home, clock)) as store:
        order = _order(keys) if keys.converting else ""
        _put(federation, store, keys, new, entropy, storage_state.REWRAPPED, order)


@dataclass(frozen=True, slots=True)
class _Desk:
    federation: Federation
    passphrase: Passphrase
    entropy: Entropy
    failpoints: Failpoints
    store: CoordinatorStore

    def began_here(self) -> bool:
        """Whether the `storage.key` that lies here is as an order of this operator wrote it."""
        lies = storage_key.lying(self.federation.home)
        name = storage_state.digest(lies)
        return any((row.what, row.file) == (storage_state.BEGUN, name) for row in self.store.records.storage_rows())

    def settled(self) -> tuple[StorageKeys, Done | None]:
        """The keys, once an interrupted order was finished; what that did, if there was one."""
        keys = storage_key.read(self.federation.home, self.passphrase)
        if not keys.converting:
            return keys, None
        storage_state.check_current(self.store.records.storage_rows(), storage_key.lying(self.federation.home))
        files, size = self._carry_out(keys)
        return StorageKeys(keys.now), Done(files, size, _order(keys), anew=False)

    def change(self, keys: StorageKeys, first: Done | None) -> Done:
        """Every file is as `keys` say, if all of them can be."""
        check(self.federation.home, keys.before, keys.now, self.entropy)
        _put(self.federation, self.store, keys, self.passphrase, self.entropy, storage_state.BEGUN, _order(keys))
        files, size = self._carry_out(keys)
        return Done(files, size, "" if first is None else first.finished)

    def _carry_out(self, keys: StorageKeys) -> tuple[int, int]:
        made = convert(self.federation.home, keys.before, keys.now, self.entropy, self.failpoints)
        done = storage_state.UNSEALED if keys.now is None else storage_state.SEALED
        figures = {"files": str(made.files)}
        last = StorageKeys(keys.now)
        sealed = storage_key.sealed(last, self.passphrase, self.entropy)
        _record(self.store, done, _order(keys), keys.now, sealed, figures)
        self.failpoints.hit("coordinator.after.convert_recorded")
        storage_key.put(self.federation.home, sealed)
        return made.files, made.bytes


@contextlib.contextmanager
def _desk(
    federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy, failpoints: Failpoints
) -> Iterator[_Desk]:
    federation.authority(passphrase)
    durable.sweep(federation.home)
    with contextlib.closing(open_store(federation.home, clock)) as store:
        yield _Desk(federation, passphrase, entropy, failpoints, store)


def _put(
    federation: Federation,
    store: CoordinatorStore,
    keys: StorageKeys,
    passphrase: Passphrase,
    entropy: Entropy,
    what: str,
    order: str,
) -> None:
    """`storage.key` holds `keys`; on record first."""
    sealed = storage_key.sealed(keys, passphrase, entropy)
    _record(store, what, order, keys.now, sealed, {})
    storage_key.put(federation.home, sealed)


def _record(
    store: CoordinatorStore, what: str, order: str, key: Seed | None, sealed: bytes | None, figures: dict[str, str]
) -> None:
    named, file = storage_key.fingerprint(key), storage_state.digest(sealed)
    store.records.audit(OPERATOR, what, order=order, key=named, file=file, **figures)


def _order(keys: StorageKeys) -> str:
    return UNSEAL if keys.now is None else ROTATE if keys.before else SEAL


def _sealed(keys: StorageKeys) -> Seed:
    if keys.now is None:
        raise ConfigError(
            "storage_in_clear",
            "the files of this home are not sealed",
            not_done="no key was made",
            next_step="fedveil storage seal",
        )
    return keys.now
