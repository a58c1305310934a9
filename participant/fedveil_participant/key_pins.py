"""Which key of Paillier protection this organisation encrypts under: its pin and the key's record, kept in its home.

Promise: the root of a key id never changes, its epoch never goes back and advances by one; the pin is durable before
this module says that it is in force, and the record is durable before the pin: nobody needs to be asked for it. Both
are public, but sealed at rest, so that nobody else writes one.
Source: docs/paillier-keys.md, "What a participant accepts".
"""

from fedveil_common.crypto.labels import lp, u32
from fedveil_common.errors import PeerError
from fedveil_common.paillier import epochs
from fedveil_common.paillier.epochs import KeyPin
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.secret import Secret

from fedveil_participant.key_seat import split_terms
from fedveil_participant.store.holder_files import HolderFiles, Thing


def load_pin(files: HolderFiles, key_id: str) -> tuple[KeyTerms, KeyPin] | None:
    """The pin, with the terms whose modulus is checked again; None if nothing is pinned. StorageError."""
    content = files.read(Thing.PIN, key_id)
    if content is None:
        return None
    terms, octets = split_terms(content)
    epoch, fingerprint = octets.unsigned(4), octets.take(32)
    octets.end()
    return terms, KeyPin(terms.holders.root, epoch, fingerprint)


def pin(files: HolderFiles, terms: KeyTerms, record: KeyRecord) -> KeyPin:
    """`record` is pinned under the root of `terms`, which a person compared: epoch 0 first, then one after the other.
    The pinned key again puts its record back where it is missing.

    PeerError `other_key_root` if the record or an earlier pin of this key id has another root; as `epochs.accept`.
    """
    found, root = load_pin(files, terms.terms.key_id), terms.holders.root
    if found is None:
        after, _ = epochs.accept_first(root, record)
    else:
        before = found[1]
        if before.root != root:
            raise PeerError(
                "other_key_root",
                f"another root is pinned for {terms.terms.key_id} than these terms have",
                not_done="the pin stayed as it was",
                next_step="a new key has a new id: ask the holders which terms are theirs",
            )
        after, _ = epochs.accept(before, record)
        if after == before:
            _keep(files, record)
            return after
        terms = found[0]  # the record of the modulus stays the one that was compared at the first pin
    content = lp(terms.encode()) + u32(after.epoch) + after.fingerprint
    _keep(files, record)
    files.write(Thing.PIN, terms.terms.key_id, Secret(content))
    return after


def _keep(files: HolderFiles, record: KeyRecord) -> None:
    """A record that verified is in the home, durably."""
    key_id, content = record.holders.terms.key_id, record.to_bytes()
    files.write(Thing.RECORD, key_id, Secret(content))
