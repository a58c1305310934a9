"""What holders say to each other when a key is made or moves to its next epoch: six bodies and one signed envelope.

Promise: one message has one encoding; sizes follow from the terms, so nothing is counted on the sender's word; parsing
gives a valid value or PeerError `bad_key_message`. Every body begins with what it follows: the hash of everything that
was said before it, by everybody. Two holders who were shown different things stop at the next message.
Source: docs/paillier-keys.md, "Messages" and "Encodings".
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fedveil_common.crypto import agreement, signing
from fedveil_common.crypto.labels import lp
from fedveil_common.errors import PeerError
from fedveil_common.paillier.contributions import SEALED_BYTES
from fedveil_common.paillier.encoding import hp, integer
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.holder_lists import ProvenList
from fedveil_common.paillier.list_proof import ListProof, response_bytes
from fedveil_common.paillier.octets import Octets
from fedveil_common.paillier.public_key import Terms
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.shares import MAX_HOLDERS, SeedSet, known_to
from fedveil_common.secret import PrivateKey

HASH_BYTES = 32
ENVELOPE_BYTES = 3 + 4 + signing.SIGNATURE_BYTES
MAX_MESSAGE_BYTES = 1 << 27
"""No message of 12 holders with the widest blocks and the longest modulus is longer."""

_VERSION = 1
_LABEL = "paillier/ceremony"


class Kind(enum.IntEnum):
    """The phases of a ceremony, in order; a refresh uses the last two."""

    CHANNEL_KEY = 1
    COMMITMENTS = 2
    CONTRIBUTIONS = 3
    LIST_HASHES = 4
    LISTS = 5
    APPROVAL = 6


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A body as its sender signed it. `sender`: holder index. Public: what is secret in a body is sealed."""

    kind: Kind
    sender: int
    body: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """u8 1 || u8 kind || u8 sender || LP(body) || signature."""
        return bytes([_VERSION, self.kind, self.sender]) + lp(self.body) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """PeerError `bad_key_message` for anything that `to_bytes` does not write. The body is not looked into."""
        octets = Octets(data, "envelope")
        version, kind, sender = octets.take(3)
        if version != _VERSION or kind not in set(Kind) or sender >= MAX_HOLDERS:
            raise octets.refused("its version, kind or sender is unknown")
        body = octets.prefixed(MAX_MESSAGE_BYTES)
        signature = octets.take(signing.SIGNATURE_BYTES)
        octets.end()
        return cls(Kind(kind), sender, body, signature)


@dataclass(frozen=True, slots=True)
class ChannelKey:
    """Phase 1: an X25519 key made for this ceremony."""

    follows: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Commitments:
    """Phase 2: for each set whose seed the sender may know, the hash of what it will contribute."""

    follows: bytes
    hashes: Mapping[SeedSet, bytes]


@dataclass(frozen=True, slots=True)
class Contributions:
    """Phase 3: for each such set and each other holder outside it, the contribution sealed for that holder."""

    follows: bytes
    sealed: Mapping[tuple[SeedSet, int], bytes]


@dataclass(frozen=True, slots=True)
class ListHashes:
    """Phase 4: for each such set the hash of the list h_A,k."""

    follows: bytes
    hashes: Mapping[SeedSet, bytes]


@dataclass(frozen=True, slots=True)
class ListsBody:
    """Phase 5: the lists themselves, each with the sender's own proof."""

    follows: bytes
    lists: Mapping[SeedSet, ProvenList]


@dataclass(frozen=True, slots=True)
class Approval:
    """Phase 6: the fingerprint of the key, and the sender's signature on it, which stays with the key."""

    follows: bytes
    fingerprint: bytes
    signature: bytes


Body = ChannelKey | Commitments | Contributions | ListHashes | ListsBody | Approval


def encode(body: Body, terms: Terms, sender: int) -> bytes:
    """The body as its sender signs it: fixed sizes, sets in lexicographic order, recipients ascending."""
    known = known_to(sender, terms.sets)
    match body:
        case ChannelKey(follows, key):
            return follows + key
        case Commitments(follows, hashes) | ListHashes(follows, hashes):
            return follows + b"".join(hashes[absent] for absent in known)
        case Contributions(follows, sealed):
            return follows + b"".join(sealed[place] for place in _places(terms, sender))
        case ListsBody(follows, lists):
            return follows + b"".join(encode_list(lists[absent], terms) for absent in known)
        case Approval(follows, fingerprint, signature):
            return follows + fingerprint + signature


def parse(message: SignedMessage, holders: Holders) -> Body:
    """The body of a message. PeerError `bad_key_message` or `bad_public_key`, naming the sender."""
    _check_sender(message, holders)
    terms, sender, name = holders.terms, message.sender, holders.name(message.sender)
    octets = Octets(message.body, message.kind.name.lower().replace("_", " "), name)
    follows = octets.take(HASH_BYTES)
    known = known_to(sender, terms.sets)
    body: Body
    match message.kind:
        case Kind.CHANNEL_KEY:
            body = ChannelKey(follows, _channel_key(octets.take(agreement.PUBLIC_KEY_BYTES), name))
        case Kind.COMMITMENTS:
            body = Commitments(follows, {absent: octets.take(HASH_BYTES) for absent in known})
        case Kind.CONTRIBUTIONS:
            body = Contributions(follows, {place: octets.take(SEALED_BYTES) for place in _places(terms, sender)})
        case Kind.LIST_HASHES:
            body = ListHashes(follows, {absent: octets.take(HASH_BYTES) for absent in known})
        case Kind.LISTS:
            body = ListsBody(follows, {absent: parse_list(octets, terms) for absent in known})
        case Kind.APPROVAL:
            body = Approval(follows, octets.take(HASH_BYTES), octets.take(signing.SIGNATURE_BYTES))
    octets.end()
    return body


def encode_list(one: ProvenList, terms: Terms) -> bytes:
    """I(h_A,0) .. I(h_A,K-1) || I(T) || z in ceil((WB+1)/8) bytes."""
    width = Group(terms.n, terms.s).short_bytes
    numbers = (*one.values, one.proof.commitment)
    return b"".join(integer(v, width) for v in numbers) + integer(one.proof.response, response_bytes(terms.bits))


def parse_list(octets: Octets, terms: Terms) -> ProvenList:
    """What `encode_list` wrote; whether the elements are canonical is for `list_proof.check` to say."""
    width = Group(terms.n, terms.s).short_bytes
    values = tuple(octets.element(width) for _ in range(terms.width))
    return ProvenList(values, ListProof(octets.element(width), octets.element(response_bytes(terms.bits))))


def sign(holders: Holders, sender: int, private: PrivateKey, kind: Kind, body: bytes) -> SignedMessage:
    """The envelope of `sender`, whose protocol key is `private`."""
    return SignedMessage(kind, sender, body, signing.sign_bytes(private, _LABEL, *_signed(holders, sender, kind, body)))


def verify(message: SignedMessage, holders: Holders) -> None:
    """Returns if the message is signed by the holder it names. PeerError `bad_key_message`, `bad_signature`."""
    _check_sender(message, holders)
    fields = _signed(holders, message.sender, message.kind, message.body)
    name = holders.name(message.sender)
    signing.verify_bytes(holders.keys[message.sender], message.signature, _LABEL, *fields, peer=name)


def start_of_ceremony(holders: Holders) -> bytes:
    """What the first body follows."""
    return hp("ceremony", holders.root)


def transcript(follows: bytes, kind: Kind, bodies: Mapping[int, bytes]) -> bytes:
    """What the next body follows: the hash of what came before and of every body of the phase, in holder order."""
    return hp("ceremony/transcript", follows, bytes([kind]), *(bodies[sender] for sender in sorted(bodies)))


def equivocators(holders: Holders, ours: list[SignedMessage], theirs: list[SignedMessage]) -> tuple[str, ...]:
    """Who signed two different bodies of one kind under one predecessor: compare two holders' messages after
    `key_views_differ`. Messages whose signature does not verify prove nothing and are skipped.
    """
    said: dict[tuple[Kind, int, bytes], bytes] = {}
    found: set[str] = set()
    for message in (*ours, *theirs):
        try:
            verify(message, holders)
        except PeerError:
            continue
        place = (message.kind, message.sender, message.body[:HASH_BYTES])
        if said.setdefault(place, message.body) != message.body:
            found.add(holders.name(message.sender))
    return tuple(sorted(found))


def _check_sender(message: SignedMessage, holders: Holders) -> None:
    if not 0 <= message.sender < len(holders.keys):
        raise PeerError("bad_key_message", f"there is no holder {message.sender}")


def _signed(holders: Holders, sender: int, kind: Kind, body: bytes) -> tuple[bytes, ...]:
    return holders.root, bytes([kind]), holders.name(sender).encode(), body


def _places(terms: Terms, sender: int) -> list[tuple[SeedSet, int]]:
    """To whom a holder sends contributions, for which set."""
    every = range(len(terms.holders))
    known = known_to(sender, terms.sets)
    return [(absent, other) for absent in known for other in every if other != sender and other not in absent]


def _channel_key(key: bytes, peer: str) -> bytes:
    try:
        agreement.check_public_key(key)
    except PeerError as error:
        raise PeerError("bad_public_key", error.what, peer=peer) from error
    return key
