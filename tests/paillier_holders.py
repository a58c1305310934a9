"""Holders of a key at one table: real state machines, a transport that a test can lie through, everything seeded."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fedveil_common.crypto import signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.paillier import ceremony, refresh, rsa_2048
from fedveil_common.paillier import ceremony_messages as messages
from fedveil_common.paillier.ceremony_messages import Body, Kind, SignedMessage
from fedveil_common.paillier.holder_key import HolderKey
from fedveil_common.paillier.party import Party
from fedveil_common.paillier.public_key import Terms
from fedveil_common.paillier.root import Holders
from fedveil_common.secret import PrivateKey, Seed

RSA_2048 = int(rsa_2048.N)

Lie = Callable[[SignedMessage], Iterable[SignedMessage]]


def draw(*names: object) -> bytes:
    """32 bytes that look random and are the same each time."""
    return hashlib.sha256(repr(names).encode()).digest()


def terms_of(holders: int, threshold: int, width: int = 2, key_id: str = "key-1") -> Terms:
    names = tuple(OrgId(f"holder-{index}") for index in range(holders))
    return Terms("fed", key_id, RSA_2048, 1, width, 256, names, threshold)


def private_key(index: int, circle: str = "") -> PrivateKey:
    return PrivateKey(draw("protocol", circle, index))


def holders_of(terms: Terms, circle: str = "") -> Holders:
    keys = (signing.public_key(private_key(index, circle)) for index in range(len(terms.holders)))
    return Holders(terms, tuple(keys))


def party(holders: Holders, index: int, what: str = "ceremony", circle: str = "") -> Party:
    return Party(holders, index, private_key(index, circle), Seed(draw(what, holders.root, index)))


def again(holders: Holders, message: SignedMessage, body: Body) -> SignedMessage:
    """Another body in the place of a message, signed by its sender's own key."""
    data = messages.encode(body, holders.terms, message.sender)
    return messages.sign(holders, message.sender, private_key(message.sender), message.kind, data)


def honest(message: SignedMessage) -> Iterable[SignedMessage]:
    return (message,)


@dataclass
class Table:
    """`take`: which waiting message comes next. `refused`: each holder's last error. `sent`: all said."""

    holders: Holders
    lie: Lie = honest
    take: int = 0
    states: dict[int, ceremony.Ceremony] = field(default_factory=dict)
    sent: list[SignedMessage] = field(default_factory=list)
    refused: dict[int, PeerError] = field(default_factory=dict)

    def play(self) -> "Table":
        queue: list[SignedMessage] = []
        for index in range(len(self.holders.keys)):
            self.states[index], said = ceremony.start(party(self.holders, index))
            queue += said
        self.deliver(queue)
        return self

    def deliver(self, queue: list[SignedMessage]) -> None:
        queue = [told for message in queue for told in self.lie(message)]
        while queue:
            message = queue.pop(self.take)
            self.sent.append(message)
            for index in self.states:
                if index != message.sender and index not in self.refused:
                    for said in self.hear(index, message):
                        queue += self.lie(said)

    def hear(self, index: int, message: SignedMessage) -> tuple[SignedMessage, ...]:
        try:
            told = SignedMessage.from_bytes(message.to_bytes())
            self.states[index], said = ceremony.step(self.states[index], told)
        except PeerError as error:
            self.refused[index] = error
            return ()
        return said

    def codes(self) -> dict[int, tuple[str, str]]:
        return {index: (error.code, error.peer) for index, error in self.refused.items()}

    def finished(self) -> list[HolderKey]:
        found = []
        for index in sorted(self.states):
            stage = self.states[index].stage
            assert isinstance(stage, ceremony.Made), (index, stage, self.refused)
            found.append(stage.key)
        return found


def made(holders: int, threshold: int, width: int = 2) -> list[HolderKey]:
    return Table(holders_of(terms_of(holders, threshold, width))).play().finished()


@dataclass
class Renewal:
    """A refresh among those holders whose keys are given."""

    keys: list[HolderKey]
    lie: Lie = honest
    take: int = 0
    states: dict[int, refresh.Refresh] = field(default_factory=dict)
    sent: list[SignedMessage] = field(default_factory=list)
    refused: list[tuple[int, str, str]] = field(default_factory=list)

    def play(self) -> "Renewal":
        queue: list[SignedMessage] = []
        for key in self.keys:
            seat = party(key.holders, key.index, f"refresh {key.record.epoch}")
            present = frozenset(one.index for one in self.keys)
            self.states[key.index], said = refresh.start(seat, key, present)
            queue += said
        queue = [told for message in queue for told in self.lie(message)]
        while queue:
            message = queue.pop(self.take)
            self.sent.append(message)
            for index in self.states:
                if index != message.sender:
                    try:
                        self.states[index], said = refresh.step(self.states[index], message)
                    except PeerError as error:
                        self.refused.append((index, error.code, error.peer))
                    else:
                        for one in said:
                            queue += self.lie(one)
        return self

    def refreshed(self) -> dict[int, HolderKey]:
        return {
            index: state.stage.key for index, state in self.states.items() if isinstance(state.stage, refresh.Refreshed)
        }


def lists_of(sent: Iterable[SignedMessage], holders: Holders) -> dict[int, messages.ListsBody]:
    found = {}
    for message in sent:
        if message.kind is Kind.LISTS:
            body = messages.parse(message, holders)
            assert isinstance(body, messages.ListsBody)
            found[message.sender] = body
    return found
