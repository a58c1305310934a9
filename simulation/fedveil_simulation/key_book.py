"""Keys of Paillier protection in a simulation: a real ceremony between the holders, in one process.

Promise: every message of the ceremony is made, signed and checked as in production; one seed fixes the key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import h
from fedveil_common.errors import ConfigError, PolicyRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.paillier import ceremony
from fedveil_common.paillier.ceremony_messages import SignedMessage
from fedveil_common.paillier.holder_key import HolderKey
from fedveil_common.paillier.key_terms import KeyTerms, agree
from fedveil_common.paillier.key_use import KeyUse, use_of
from fedveil_common.paillier.modulus_record import adopt_rsa_2048
from fedveil_common.paillier.party import Party
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.secret import PrivateKey, Seed


@dataclass(frozen=True, slots=True)
class KeyBook:
    """One key and all its holders' parts: what the coordinator and every member of a simulation look it up in."""

    terms: KeyTerms
    held: Mapping[OrgId, HolderKey]
    claims: dict[tuple[OrgId, str], RunId] = field(default_factory=dict)

    @property
    def key(self) -> PublicKey:
        """The public key."""
        return next(iter(self.held.values())).public

    def published(self, fingerprint: bytes) -> tuple[bytes, bytes]:
        """Terms and record of the key, as auditors get them."""
        self.public(fingerprint)
        return self.terms.encode(), next(iter(self.held.values())).record.to_bytes()

    def use(self, key_id: str) -> KeyUse:
        """As the coordinator sees it. ConfigError `no_such_key`."""
        if key_id != self.terms.terms.key_id:
            raise ConfigError("no_such_key", f"no key {key_id} was published", next_step="fedveil key publish")
        return use_of(self.key)

    def public(self, fingerprint: bytes) -> PublicKey:
        """As the coordinator sees it. ConfigError `no_such_key`."""
        if fingerprint != self.key.fingerprint:
            raise ConfigError("no_such_key", "no key of this fingerprint was published")
        return self.key


class NoKeys:
    """Of a coordinator to which no key was published."""

    def use(self, key_id: str) -> KeyUse:
        """ConfigError `no_such_key`."""
        raise ConfigError("no_such_key", f"no key {key_id} was published", next_step="fedveil key publish")

    def public(self, fingerprint: bytes) -> PublicKey:
        """ConfigError `no_such_key`."""
        raise ConfigError("no_such_key", "no key was published", next_step="fedveil key publish")


NO_KEYS = NoKeys()


@dataclass(frozen=True, slots=True)
class MemberKeys:
    """What one member pinned and holds; `book` is None for a member without a key."""

    book: KeyBook | None
    me: OrgId

    def use(self, key_id: str) -> KeyUse:
        """The pinned key. PolicyRefusal `key_not_pinned`."""
        return use_of(self.public(key_id))

    def public(self, key_id: str) -> PublicKey:
        """The pinned key. PolicyRefusal `key_not_pinned`."""
        if self.book is None or key_id != self.book.terms.terms.key_id:
            raise PolicyRefusal("key_not_pinned", f"no key {key_id} is pinned")
        return self.book.key

    def holding(self, key_id: str, me: OrgId) -> HolderKey | None:
        """The seeds of this member. Secret."""
        self.public(key_id)
        assert self.book is not None
        return self.book.held.get(me)

    def claim(self, key_id: str, epoch: int, run_id: RunId) -> None:
        """One run for a key, as in production."""
        assert self.book is not None
        first = self.book.claims.setdefault((self.me, key_id), run_id)
        if first != run_id:
            raise PolicyRefusal("key_epoch_used", f"epoch {epoch} of {key_id} serves run {first}")


def make_key(
    federation: str,
    holders: Mapping[OrgId, PrivateKey],
    threshold: int,
    seed: int,
    columns: int = 2,
    key_id: str = "sim-key",
) -> KeyBook:
    """A key of these holders (id -> protocol key) under RSA-2048, `threshold` of whom open a sum."""
    keys = {org: signing.public_key(private) for org, private in sorted(holders.items())}
    terms = agree(adopt_rsa_2048(1), federation, key_id, keys, threshold, columns)
    parties = [
        Party(terms.holders, index, holders[org], Seed(h("simulation/key", seed.to_bytes(8, "big"), org.encode())))
        for index, org in enumerate(terms.terms.holders)
    ]
    held = hold(parties)
    return KeyBook(terms, {terms.holders.name(key.index): key for key, _ in held})


def hold(parties: Sequence[Party]) -> list[tuple[HolderKey, tuple[SignedMessage, ...]]]:
    """A ceremony between all holders of a key, every message delivered: what each has then, and what it said. Secret.

    PeerError as `ceremony.step`.
    """
    states: list[ceremony.Ceremony] = []
    said: list[list[SignedMessage]] = [[] for _ in parties]
    queue: list[SignedMessage] = []

    def go(index: int, step: ceremony.Step) -> ceremony.Ceremony:
        said[index] += step[1]
        queue.extend(step[1])
        return step[0]

    for index, party in enumerate(parties):
        states.append(go(index, ceremony.start(party)))
    while queue:
        message = queue.pop(0)
        for index, state in enumerate(states):
            if index != message.sender:
                states[index] = go(index, ceremony.step(state, message))
    return [(_made(state), tuple(words)) for state, words in zip(states, said, strict=True)]


def _made(state: ceremony.Ceremony) -> HolderKey:
    assert isinstance(state.stage, ceremony.Made), "every message was delivered"
    return state.stage.key
