"""What the operator orders about files at rest: seal them, give them another key, another passphrase, or none.

Promise: each order first finishes one that was interrupted; a home whose order did not finish is not served
(`storage_key`). Every order checks that the passphrase opens the authority's key too, because `serve` has one
passphrase for both. Hold the `FolderLock`.
"""

from fedveil_common.errors import ConfigError
from fedveil_common.ports import Entropy, Failpoints
from fedveil_common.secret import Passphrase, Seed

from fedveil_coordinator.founding import Federation
from fedveil_coordinator.store import storage_key
from fedveil_coordinator.store.converting import Converted, convert
from fedveil_coordinator.store.storage_key import StorageKeys


def seal(federation: Federation, passphrase: Passphrase, entropy: Entropy, failpoints: Failpoints) -> Converted:
    """Everything is sealed, under the key of this home if it has one: what a copy brought back in clear too.

    SealedError `passphrase_missing`, `passphrase_wrong`; StorageError; IntegrityError as `convert`.
    """
    now = _settled(federation, passphrase, entropy, failpoints).now
    key = Seed(entropy.take(32)) if now is None else now
    return _change(federation, StorageKeys(key, None, True), passphrase, entropy, failpoints)


def rotate(federation: Federation, passphrase: Passphrase, entropy: Entropy, failpoints: Failpoints) -> Converted:
    """Everything is sealed under a new key: who had the old one reads nothing of what is written from now on.

    Errors as `seal`; ConfigError `storage_in_clear`.
    """
    before = _sealed(_settled(federation, passphrase, entropy, failpoints))
    return _change(federation, StorageKeys(Seed(entropy.take(32)), before, True), passphrase, entropy, failpoints)


def unseal(federation: Federation, passphrase: Passphrase, entropy: Entropy, failpoints: Failpoints) -> Converted:
    """Everything is in clear, and the key is gone. Errors as `rotate`."""
    before = _sealed(_settled(federation, passphrase, entropy, failpoints))
    return _change(federation, StorageKeys(None, before, True), passphrase, entropy, failpoints)


def rewrap(federation: Federation, old: Passphrase, new: Passphrase, entropy: Entropy) -> None:
    """The same key under the passphrase that opens the authority's key now. A copy of the old file opens as before.

    Errors as `rotate`.
    """
    federation.authority(new)
    keys = storage_key.read(federation.home, old)
    if not keys.converting:
        _sealed(keys)
    storage_key.write(federation.home, keys, new, entropy)


def _settled(federation: Federation, passphrase: Passphrase, entropy: Entropy, failpoints: Failpoints) -> StorageKeys:
    """The keys, once an interrupted order was finished."""
    federation.authority(passphrase)
    keys = storage_key.read(federation.home, passphrase)
    if not keys.converting:
        return keys
    _change(federation, keys, passphrase, entropy, failpoints)
    return StorageKeys(keys.now)


def _change(
    federation: Federation, keys: StorageKeys, passphrase: Passphrase, entropy: Entropy, failpoints: Failpoints
) -> Converted:
    storage_key.write(federation.home, keys, passphrase, entropy)
    made = convert(federation.home, keys.before, keys.now, entropy, failpoints)
    storage_key.write(federation.home, StorageKeys(keys.now), passphrase, entropy)
    return made


def _sealed(keys: StorageKeys) -> Seed:
    if keys.now is None:
        raise ConfigError(
            "storage_in_clear",
            "the files of this home are not sealed",
            not_done="nothing was changed",
            next_step="fedveil storage seal",
        )
    return keys.now
