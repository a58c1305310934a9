"""One holder's seat: who it is, and the messages it has heard, each verified and each said once.

Promise: `Heard` holds at most one message of a kind from a holder; a second, different one is proof of fault and names
the signer. What was heard can be stored and replayed: with the same draws the same messages come out.
Source: docs/paillier-keys.md, "Messages".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedveil_common.crypto import signing
from fedveil_common.crypto.draws import Draws
from fedveil_common.crypto.labels import lp, u32
from fedveil_common.errors import PeerError, StorageError
from fedveil_common.paillier import ceremony_messages as messages
from fedveil_common.paillier.ceremony_messages import Body, Kind, SignedMessage
from fedveil_common.paillier.holder_key import StoredState
from fedveil_common.paillier.octets import Octets
from fedveil_common.paillier.root import Holders
from fedveil_common.secret import PrivateKey, Seed

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Party:
    """`index`: our seat. `private`: our protocol key. `seed`: 32 fresh bytes for this run of the protocol alone, stored
    before anything is sent and erased when it ends: whoever has it knows what we contribute and every nonce.

    ValueError if the private key is not the one that the holders know for this seat.
    """

    holders: Holders
    index: int
    private: PrivateKey
    seed: Seed

    def __post_init__(self) -> None:
        if self.holders.keys[self.index] != signing.public_key(self.private):
            raise ValueError("the protocol key is not the one of this seat")

    @property
    def draws(self) -> Draws:
        """All randomness of this run."""
        return Draws(self.seed)

    def say(self, kind: Kind, body: Body) -> SignedMessage:
        """`body` encoded and signed."""
        data = messages.encode(body, self.holders.terms, self.index)
        return messages.sign(self.holders, self.index, self.private, kind, data)


@dataclass(frozen=True, slots=True)
class Heard:
    """Verified messages in the order in which they came, our own among them. Public."""

    order: tuple[SignedMessage, ...] = ()
    by_kind: Mapping[Kind, Mapping[int, SignedMessage]] = field(default_factory=dict)

    def of(self, kind: Kind) -> Mapping[int, SignedMessage]:
        """The messages of one kind, by sender."""
        return self.by_kind.get(kind, {})

    def bodies(self, kind: Kind) -> dict[int, bytes]:
        """Their bodies as they were signed."""
        return {sender: message.body for sender, message in self.of(kind).items()}

    def parsed(self, kind: Kind, holders: Holders, follows: bytes) -> dict[int, Body]:
        """Their parsed bodies, by ascending sender, each following what we saw.

        PeerError `key_views_differ`: the sender answers to something else. Either it is at fault, or somebody showed it
        and us different messages: `equivocators` over both holders' messages says who.
        """
        found: dict[int, Body] = {}
        for sender, message in sorted(self.of(kind).items()):
            body = messages.parse(message, holders)
            if body.follows != follows:
                raise PeerError(
                    "key_views_differ",
                    f"{holders.name(sender)} answers to other messages than those that arrived here",
                    peer=holders.name(sender),
                    not_done="nothing was sent in answer",
                    next_step="compare the signed messages of both holders: who signed two of one kind is at fault",
                )
            found[sender] = body
        return found

    def add(self, message: SignedMessage, holders: Holders) -> "Heard":
        """With `message`, or unchanged if it is known. PeerError `bad_signature`, `bad_key_message`, `bad_public_key`,
        `key_equivocation`, each naming the sender where one is proven: two bodies that follow the same. Whoever carries
        messages can play one of another epoch, and that proves nothing against its sender.
        """
        messages.verify(message, holders)
        messages.parse(message, holders)
        known = self.of(message.kind).get(message.sender)
        if known is None:
            of_kind = {**self.of(message.kind), message.sender: message}
            return Heard((*self.order, message), {**self.by_kind, message.kind: of_kind})
        if known.body != message.body:
            if known.body[: messages.HASH_BYTES] != message.body[: messages.HASH_BYTES]:
                raise PeerError("bad_key_message", "a message belongs to another ceremony or refresh of this key")
            name = holders.name(message.sender)
            raise PeerError(
                "key_equivocation",
                f"{name} signed two different messages of kind {message.kind.name.lower()}",
                peer=name,
                next_step="keep both as evidence and begin anew without that holder",
            )
        return self


def pack(seed: Seed, heard: Heard) -> StoredState:
    """A run of the protocol at rest: u8 1 || seed || u32 count || LP(message) ..., in the order of arrival."""
    parts = [lp(message.to_bytes()) for message in heard.order]
    return StoredState(bytes([_VERSION]) + seed.expose() + u32(len(parts)) + b"".join(parts))


def unpack(state: StoredState) -> tuple[Seed, list[SignedMessage]]:
    """What `pack` wrote. StorageError `key_ceremony_damaged` for anything else."""
    try:
        octets = Octets(state.expose(), "ceremony at rest")
        if octets.unsigned(1) != _VERSION:
            raise octets.refused("its version is unknown")
        seed, count = Seed(octets.take(32)), octets.unsigned(4)
        heard = [
            SignedMessage.from_bytes(octets.prefixed(messages.MAX_MESSAGE_BYTES + messages.ENVELOPE_BYTES))
            for _ in range(count)
        ]
        octets.end()
    except PeerError as error:
        raise StorageError(
            "key_ceremony_damaged",
            "a stored key ceremony is not one",
            not_done="nothing was sent",
            next_step="begin the ceremony or the refresh anew with all holders",
        ) from error
    return seed, heard
