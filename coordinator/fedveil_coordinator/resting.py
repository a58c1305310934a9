"""What the operator orders about files at rest: seal them, give them another key, another passphrase, or none.

Promise: each order first finishes one that was interrupted; a home whose order did not finish is not served
(`storage_key`). Every order checks that the passphrase opens the authority's key too, because `serve` has one
passphrase for both. What is done is on record, with the fingerprint of the key, before it counts as finished: `serve`
compares. Hold the `FolderLock`.
"""

import contextlib

from fedveil_common.errors import ConfigError
from fedveil_common.pki.invites import OPERATOR
from fedveil_common.ports import Clock, Entropy, Failpoints
from fedveil_common.secret import Passphrase, Seed

from fedveil_coordinator.founding import Federation
from fedveil_coordinator.store import open_store, storage_key
from fedveil_coordinator.store.converting import Converted, check, convert
from fedveil_coordinator.store.storage_key import StorageKeys


def seal(
    federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy, failpoints: Failpoints
) -> Converted:
    """Everything is sealed, under the key of this home if it has one: what a copy brought back in clear too.

    SealedError `passphrase_missing`, `passphrase_wrong`; StorageError; errors of `converting.check`: nothing was
    changed then, but for what was finished first.
    """
    keys, _ = _settled(federation, passphrase, clock, entropy, failpoints)
    key = Seed(entropy.take(32)) if keys.now is None else keys.now
    check(federation.home, None, key, entropy)
    return _change(federation, StorageKeys(key, None, True), passphrase, clock, entropy, failpoints)


def rotate(
    federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy, failpoints: Failpoints
) -> Converted:
    """Everything is sealed under a new key: who had the old one reads nothing of what is written from now on.

    Errors as `seal`; ConfigError `storage_in_clear`.
    """
    keys, _ = _settled(federation, passphrase, clock, entropy, failpoints)
    before, key = _sealed(keys), Seed(entropy.take(32))
    check(federation.home, before, key, entropy)
    return _change(federation, StorageKeys(key, before, True), passphrase, clock, entropy, failpoints)


def unseal(
    federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy, failpoints: Failpoints
) -> Converted:
    """Everything is in clear, and the key is gone. Errors as `rotate`."""
    keys, finished = _settled(federation, passphrase, clock, entropy, failpoints)
    if keys.now is None and finished is not None:
        return finished
    before = _sealed(keys)
    check(federation.home, before, None, entropy)
    return _change(federation, StorageKeys(None, before, True), passphrase, clock, entropy, failpoints)


def rewrap(federation: Federation, old: Passphrase, new: Passphrase, entropy: Entropy) -> None:
    """The same key under the passphrase that opens the authority's key now. A copy of the old file opens as before.

    Errors as `rotate`.
    """
    federation.authority(new)
    keys = storage_key.read(federation.home, old)
    if not keys.converting:
        _sealed(keys)
    storage_key.write(federation.home, keys, new, entropy)


def _settled(
    federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy, failpoints: Failpoints
) -> tuple[StorageKeys, Converted | None]:
    """The keys, once an interrupted order was finished; what that did, if there was one."""
    federation.authority(passphrase)
    keys = storage_key.read(federation.home, passphrase)
    if not keys.converting:
        return keys, None
    return StorageKeys(keys.now), _change(federation, keys, passphrase, clock, entropy, failpoints)


def _change(
    federation: Federation,
    keys: StorageKeys,
    passphrase: Passphrase,
    clock: Clock,
    entropy: Entropy,
    failpoints: Failpoints,
) -> Converted:
    home, order = federation.home, "unseal" if keys.now is None else "rotate" if keys.before else "seal"
    with contextlib.closing(open_store(home, clock)) as store:
        storage_key.write(home, keys, passphrase, entropy)
        made = convert(home, keys.before, keys.now, entropy, failpoints)
        done = "storage.unsealed" if keys.now is None else "storage.sealed"
        named = storage_key.fingerprint(keys.now)
        store.records.audit(OPERATOR, done, files=str(made.files), order=order, key=named)
        failpoints.hit("coordinator.after.convert_recorded")
        storage_key.write(home, StorageKeys(keys.now), passphrase, entropy)
    return made


def _sealed(keys: StorageKeys) -> Seed:
    if keys.now is None:
        raise ConfigError(
            "storage_in_clear",
            "the files of this home are not sealed",
            not_done="no key was made",
            next_step="fedveil storage seal",
        )
    return keys.now
