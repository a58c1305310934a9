"""Which key a participant encrypts under: the one its pin says, or the next epoch of the same holders, and no other.

Promise: the pinned root never changes here, the epoch never decreases and advances by one, and one epoch has one
fingerprint. A participant that was away walks through the records it missed. Pure: the caller stores the new pin before
it encrypts anything under it, and asks only for an approved plan. Source: docs/paillier-keys.md (P7, G6).
"""

from dataclasses import dataclass

from fedveil_common.errors import PeerError
from fedveil_common.paillier import key_record
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.public_key import PublicKey


@dataclass(frozen=True, slots=True)
class KeyPin:
    """What a participant remembers of a key. `root`, `fingerprint`: 32 bytes. Public, but nobody else may change it."""

    root: bytes
    epoch: int
    fingerprint: bytes


def accept_first(root: bytes, record: KeyRecord) -> tuple[KeyPin, PublicKey]:
    """The first pin under `root`, which a person compared: the record of epoch 0, signed by all holders.

    PeerError `wrong_key_epoch`, and as `key_record.verify`.
    """
    if record.epoch != 0:
        raise _wrong_epoch(f"the first key is of epoch {record.epoch}, not 0")
    return _pinned(record, root)


def accept(pin: KeyPin, record: KeyRecord) -> tuple[KeyPin, PublicKey]:
    """The pin after `record`: the same for the pinned key again, the next one for the next epoch.

    PeerError `wrong_key_epoch` for an earlier epoch, one that skips, or another key in the pinned epoch; and as
    `key_record.verify`: `other_key_root`, `too_few_key_signatures`, `bad_signature`, `bad_list_proof` ...
    """
    if record.epoch not in {pin.epoch, pin.epoch + 1}:
        raise _wrong_epoch(f"a key of epoch {record.epoch} does not follow one of epoch {pin.epoch}")
    after, key = _pinned(record, pin.root)
    if after.epoch == pin.epoch and after != pin:
        raise _wrong_epoch(f"another key of epoch {pin.epoch} is pinned already")
    return after, key


def _pinned(record: KeyRecord, root: bytes) -> tuple[KeyPin, PublicKey]:
    key = key_record.verify(record, root)
    return KeyPin(root, key.epoch, key.fingerprint), key


def _wrong_epoch(what: str) -> PeerError:
    return PeerError(
        "wrong_key_epoch",
        f"the key is not the next one: {what}",
        not_done="the key was not accepted and nothing is encrypted under it",
        next_step="fetch the records of the epochs between; if there are none, ask the holders",
    )
