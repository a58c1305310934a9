"""The keys of Paillier protection that the operator published, verified as a participant verifies them.

Promise: what is on the shelf passed `epochs.accept` under the root of its own terms, epoch after epoch, and was made by
organisations that were members under the same protocol keys when it came. The coordinator needs no trust in it for
secrecy, which rests on what participants pinned; it only refuses to begin what no participant would join. Any thread.
Source: docs/paillier-keys.md, section 6 (P7, G6).
"""

import functools
import threading
from collections.abc import Collection

from fedveil_common.errors import ConfigError, IntegrityError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.paillier import epochs, key_record
from fedveil_common.paillier.epochs import KeyPin
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.paillier.key_use import KeyUse, use_of_terms
from fedveil_common.paillier.public_key import PublicKey

from fedveil_coordinator.store.published_keys import PublishedKey, PublishedKeys


class ShelvedKey:
    """One epoch of a key. Terms and key are read from what is stored at their first use."""

    def __init__(self, stored: PublishedKey) -> None:
        self._stored = stored
        self.key_id = stored.key_id
        self.epoch = stored.epoch
        self.fingerprint = stored.fingerprint

    @functools.cached_property
    def terms(self) -> KeyTerms:
        """What the holders agreed on, the modulus checked. IntegrityError `published_key_damaged`."""
        try:
            return KeyTerms.decode(self._stored.terms)
        except PeerError as error:
            raise self._damaged(error) from error

    @functools.cached_property
    def record(self) -> KeyRecord:
        """From which anybody can check the key. IntegrityError `published_key_damaged`."""
        try:
            return KeyRecord.from_bytes(self._stored.record)
        except PeerError as error:
            raise self._damaged(error) from error

    @functools.cached_property
    def public(self) -> PublicKey:
        """The key, verified. IntegrityError `published_key_damaged`."""
        try:
            return key_record.verify(self.record, self.terms.holders.root)
        except PeerError as error:
            raise self._damaged(error) from error

    @property
    def documents(self) -> tuple[bytes, bytes]:
        """Terms and record, as they were published."""
        return self._stored.terms, self._stored.record

    @property
    def use(self) -> KeyUse:
        """What a round needs to know of it."""
        return use_of_terms(self.terms.terms, self.epoch, self.fingerprint)

    def _damaged(self, error: PeerError) -> IntegrityError:
        return IntegrityError(
            "published_key_damaged",
            f"what is stored of the key {self.key_id} in epoch {self.epoch} is not what was published ({error.code})",
            not_done="no run used it",
            next_step="stop the coordinator and look at its database",
        )


class KeyShelf:
    """Every published epoch of every key."""

    def __init__(self, store: PublishedKeys) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._newest: dict[str, ShelvedKey] = {}
        self._known: dict[bytes, ShelvedKey] = {}
        for stored in store.every():
            self._put(ShelvedKey(stored))

    def current(self, key_id: str) -> ShelvedKey:
        """The newest epoch of a key. ConfigError `no_such_key`."""
        found = self._newest.get(key_id)
        if found is None:
            raise _no_such_key(f"no key {key_id} was published")
        return found

    def at(self, fingerprint: bytes) -> ShelvedKey:
        """The epoch with this fingerprint. ConfigError `no_such_key`."""
        found = self._known.get(fingerprint)
        if found is None:
            raise _no_such_key(f"no key with the fingerprint {fingerprint.hex()} was published")
        return found

    def newest(self) -> list[ShelvedKey]:
        """The newest epoch of each key, by id."""
        return [key for _, key in sorted(list(self._newest.items()), key=lambda item: item[0])]

    def use(self, key_id: str) -> KeyUse:
        """The newest epoch, for a new run. ConfigError `no_such_key`."""
        return self.current(key_id).use

    def public(self, fingerprint: bytes) -> PublicKey:
        """The key of a run. ConfigError `no_such_key`."""
        return self.at(fingerprint).public

    def documents(self, fingerprint: bytes) -> tuple[bytes, bytes]:
        """Terms and record of the key of a run, for who audits it. ConfigError `no_such_key`."""
        return self.at(fingerprint).documents

    def publish(
        self, terms: bytes, record: bytes, federation: str, members: Collection[tuple[OrgId, bytes]]
    ) -> ShelvedKey:
        """The key is on the shelf, durably: epoch 0 first, then one after the other. What is there already changes
        nothing. `members`: (organisation, protocol key) of who is a member.

        PeerError as `KeyTerms.decode`, `KeyRecord.from_bytes` and `epochs.accept`, `other_key_root`; ConfigError
        `other_federation`, `holder_not_listed`, and those of a modulus.
        """
        read, made = KeyTerms.decode(terms), KeyRecord.from_bytes(record)
        agreed, root = read.terms, read.holders.root
        if agreed.federation != federation:
            raise ConfigError(
                "other_federation",
                f"the key {agreed.key_id} is of federation {agreed.federation}, and this one is {federation}",
                not_done="nothing was published",
                next_step="is this the right --home?",
            )
        check_holders(read, members, "the key was not published")
        with self._lock:
            before = self._newest.get(agreed.key_id)
            if before is not None and before.terms.holders.root != root:
                raise PeerError(
                    "other_key_root",
                    f"another key is published as {agreed.key_id}: it has another root than these terms",
                    not_done="the published key stayed as it was",
                    next_step="a new key has a new id: ask the holders which terms are theirs",
                )
            for known in self._known.values():
                if (known.key_id, known.epoch) == (agreed.key_id, made.epoch) and known.record == made:
                    return known
            if before is None:
                after, public = epochs.accept_first(root, made)
            else:
                after, public = epochs.accept(KeyPin(root, before.epoch, before.fingerprint), made)
            if before is not None and after.epoch == before.epoch:
                return before  # the same key, from another holder's copy
            kept = read.encode() if before is None else before.terms.encode()
            stored = PublishedKey(agreed.key_id, after.epoch, after.fingerprint, kept, made.to_bytes())
            self._store.add(stored)
            shelved = ShelvedKey(stored)
            shelved.public = public
            self._put(shelved)
            return shelved

    def _put(self, key: ShelvedKey) -> None:
        self._newest[key.key_id] = key
        self._known[key.fingerprint] = key


def check_holders(terms: KeyTerms, members: Collection[tuple[OrgId, bytes]], not_done: str) -> None:
    """Returns if every holder is a member under the protocol key that the terms give it. ConfigError
    `holder_not_listed`, naming who is not.
    """
    pairs = zip(terms.terms.holders, terms.holders.keys, strict=True)
    missing = [str(org) for org, key in pairs if (org, key) not in members]
    if missing:
        raise ConfigError(
            "holder_not_listed",
            f"these holders of the key {terms.terms.key_id} are no members under the keys of its terms: "
            f"{', '.join(missing)}",
            not_done=not_done,
            next_step="an organisation that joined again or was revoked holds no key: the others make a new one",
        )


def _no_such_key(what: str) -> ConfigError:
    return ConfigError(
        "no_such_key",
        what,
        not_done="no run was started",
        next_step="`fedveil key publish TERMS RECORD` with what the holders made",
    )
