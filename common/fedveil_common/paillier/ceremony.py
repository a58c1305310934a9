"""The making of a key without a dealer, seen by one holder: a pure state machine of six phases, all holders present.

Promise: a holder that finishes has seeds to which every co-holder contributed, with one honest contribution enough to
make them random; lists that it derived itself or that carry a proof; and the signature of every holder on the same
fingerprint. Whoever deviates is named by an error, and nothing more is sent.
`start` and `step` send nothing, read no clock and draw nothing: what they return is stored before it is sent (`store`).
An error about a message's form or signature leaves the ceremony as it was; any other error ends it for good.
Source: docs/paillier-keys.md (P-K, G6).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, assert_never

from fedveil_common.errors import PeerError
from fedveil_common.paillier import ceremony_messages as messages
from fedveil_common.paillier import contributions as sealing
from fedveil_common.paillier import holder_lists, key_record
from fedveil_common.paillier.ceremony_messages import (
    Approval,
    Body,
    ChannelKey,
    Commitments,
    Contributions,
    Kind,
    ListHashes,
    ListsBody,
    SignedMessage,
)
from fedveil_common.paillier.holder_key import HolderKey, StoredState
from fedveil_common.paillier.holder_lists import ProvenList
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.party import Heard, Party, pack, unpack
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.shares import SeedSet, known_to
from fedveil_common.secret import PrivateKey, Seed

FIRST_EPOCH = 0


@dataclass(frozen=True, slots=True)
class AwaitingChannelKeys:
    """Our channel key is out."""

    kind: ClassVar[Kind] = Kind.CHANNEL_KEY
    follows: bytes
    channel: PrivateKey


@dataclass(frozen=True, slots=True)
class AwaitingCommitments:
    """Every channel key is here; our commitments are out, and what they hide is still ours alone."""

    kind: ClassVar[Kind] = Kind.COMMITMENTS
    follows: bytes
    channel: PrivateKey
    channel_keys: Mapping[int, bytes]
    own: Mapping[SeedSet, Seed]


@dataclass(frozen=True, slots=True)
class AwaitingContributions:
    """Everybody is committed; our contributions are out, sealed."""

    kind: ClassVar[Kind] = Kind.CONTRIBUTIONS
    follows: bytes
    channel: PrivateKey
    channel_keys: Mapping[int, bytes]
    own: Mapping[SeedSet, Seed]
    committed_under: bytes
    commitments: Mapping[int, Mapping[SeedSet, bytes]]


@dataclass(frozen=True, slots=True)
class AwaitingListHashes:
    """The seeds exist, the channel is gone; the hashes of our lists are out."""

    kind: ClassVar[Kind] = Kind.LIST_HASHES
    follows: bytes
    seeds: Mapping[SeedSet, Seed]
    lists: Mapping[SeedSet, ProvenList]


@dataclass(frozen=True, slots=True)
class AwaitingLists:
    """Everybody has said which lists it will show; ours are out."""

    kind: ClassVar[Kind] = Kind.LISTS
    follows: bytes
    seeds: Mapping[SeedSet, Seed]
    hashes: Mapping[int, Mapping[SeedSet, bytes]]


@dataclass(frozen=True, slots=True)
class AwaitingApprovals:
    """We checked every list and signed the fingerprint."""

    kind: ClassVar[Kind] = Kind.APPROVAL
    follows: bytes
    seeds: Mapping[SeedSet, Seed]
    lists: Mapping[SeedSet, ProvenList]
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Made:
    """All holders signed. Keep `key`, publish `key.record`, erase the ceremony and the party's seed."""

    key: HolderKey


Awaiting = (
    AwaitingChannelKeys
    | AwaitingCommitments
    | AwaitingContributions
    | AwaitingListHashes
    | AwaitingLists
    | AwaitingApprovals
)
Stage = Awaiting | Made


@dataclass(frozen=True, slots=True)
class Ceremony:
    """One holder's state. Secret."""

    party: Party
    heard: Heard
    stage: Stage


Step = tuple[Ceremony, tuple[SignedMessage, ...]]
"""The state that follows, and what to send to every other holder once it is stored."""


def start(party: Party) -> Step:
    """The first message of a ceremony. Terms and protocol keys were agreed on outside.

    The key id is one under which no ceremony was ever begun: a ceremony that failed is begun anew under another id, so
    that no message of the first fits into the second. `party.seed` is fresh.
    """
    follows = messages.start_of_ceremony(party.holders)
    channel = party.draws.private_key("paillier/channel", party.holders.root)
    stage = AwaitingChannelKeys(follows, channel)
    body = ChannelKey(follows, sealing.channel_key(channel))
    return _advance(Ceremony(party, Heard(), stage), [party.say(Kind.CHANNEL_KEY, body)])


def step(ceremony: Ceremony, message: SignedMessage) -> Step:
    """A message from another holder, in any order and any number of times.

    PeerError, naming the holder at fault where there is proof: `bad_key_message`, `bad_signature`, `bad_public_key`
    (the message is refused), `key_equivocation`, `key_views_differ`, `bad_contribution`, `key_list_differs`,
    `bad_list_proof`, `bad_group_element`, `bad_key_list` (the ceremony is over).
    """
    heard = ceremony.heard.add(message, ceremony.party.holders)
    if heard is ceremony.heard:
        return ceremony, ()
    return _advance(replace(ceremony, heard=heard), [])


def store(ceremony: Ceremony) -> StoredState:
    """What must be durable before the messages of the same step are sent."""
    return pack(ceremony.party.seed, ceremony.heard)


def restore(party: Party, state: StoredState) -> Step:
    """The ceremony as it was stored, and all of our messages so far, to be sent again. `party.seed` is ignored.

    StorageError `key_ceremony_damaged`; PeerError as `step`, for a ceremony that was over.
    """
    seed, heard = unpack(state)
    ceremony, sent = start(replace(party, seed=seed))
    for message in heard:
        ceremony, more = step(ceremony, message)
        sent += more
    return ceremony, sent


def _advance(ceremony: Ceremony, said: list[SignedMessage]) -> Step:
    """Hears our own messages and goes from phase to phase as long as each is complete."""
    party, heard, stage = ceremony.party, ceremony.heard, ceremony.stage
    sent = list(said)
    for message in said:
        heard = heard.add(message, party.holders)
    while not isinstance(stage, Made):
        bodies = heard.parsed(stage.kind, party.holders, stage.follows)
        if len(bodies) < len(party.holders.keys):
            break
        follows = messages.transcript(stage.follows, stage.kind, heard.bodies(stage.kind))
        stage, body = _next(party, stage, bodies, follows)
        if body is not None and not isinstance(stage, Made):
            sent.append(party.say(stage.kind, body))
            heard = heard.add(sent[-1], party.holders)
    return Ceremony(party, heard, stage), tuple(sent)


def _next(party: Party, stage: Awaiting, bodies: Mapping[int, Body], follows: bytes) -> tuple[Stage, Body | None]:
    match stage:
        case AwaitingChannelKeys():
            return _commit(party, stage, bodies, follows)
        case AwaitingCommitments():
            return _contribute(party, stage, bodies, follows)
        case AwaitingContributions():
            return _make_seeds(party, stage, bodies, follows)
        case AwaitingListHashes():
            return _show_lists(party, stage, bodies, follows)
        case AwaitingLists():
            return _approve(party, stage, bodies, follows)
        case AwaitingApprovals():
            return _finish(party, stage, bodies), None
        case _:
            assert_never(stage)


def _commit(party: Party, stage: AwaitingChannelKeys, bodies: Mapping[int, Body], follows: bytes) -> tuple[Stage, Body]:
    keys = {sender: body.key for sender, body in bodies.items() if isinstance(body, ChannelKey)}
    if len(set(keys.values())) != len(keys):
        raise PeerError("bad_public_key", "two holders sent one X25519 key", not_done="nothing was sent in answer")
    own = {
        absent: party.draws.seed("paillier/contribution", follows, bytes(absent))
        for absent in known_to(party.index, party.holders.terms.sets)
    }
    hashes = {absent: sealing.commitment(follows, absent, party.index, one) for absent, one in own.items()}
    return AwaitingCommitments(follows, stage.channel, keys, own), Commitments(follows, hashes)


def _contribute(
    party: Party, stage: AwaitingCommitments, bodies: Mapping[int, Body], follows: bytes
) -> tuple[Stage, Body]:
    commitments = {sender: body.hashes for sender, body in bodies.items() if isinstance(body, Commitments)}
    sealed = {
        (absent, other): sealing.seal(
            party.holders, follows, absent, party.index, other, stage.channel, stage.channel_keys[other], one
        )
        for absent, one in stage.own.items()
        for other in stage.channel_keys
        if other != party.index and other not in absent
    }
    after = AwaitingContributions(follows, stage.channel, stage.channel_keys, stage.own, stage.follows, commitments)
    return after, Contributions(follows, sealed)


def _make_seeds(
    party: Party, stage: AwaitingContributions, bodies: Mapping[int, Body], follows: bytes
) -> tuple[Stage, Body]:
    parts = {absent: {party.index: one} for absent, one in stage.own.items()}
    for dealer, body in bodies.items():
        if dealer == party.index or not isinstance(body, Contributions):
            continue
        for (absent, recipient), sealed in body.sealed.items():
            if recipient == party.index:
                parts[absent][dealer] = sealing.open_contribution(
                    party.holders,
                    stage.follows,
                    absent,
                    dealer,
                    recipient,
                    stage.channel,
                    stage.channel_keys[dealer],
                    sealed,
                    stage.commitments[dealer][absent],
                    stage.committed_under,
                )
    # Under the commitments' transcript, which fixes all contributions: the seed is fixed before any is opened.
    seeds = {absent: sealing.joint_seed(party.holders, stage.follows, absent, part) for absent, part in parts.items()}
    lists = holder_lists.proven_lists(party.holders, FIRST_EPOCH, seeds, party.draws)
    return AwaitingListHashes(follows, seeds, lists), ListHashes(follows, _hashes(party, lists))


def _show_lists(
    party: Party, stage: AwaitingListHashes, bodies: Mapping[int, Body], follows: bytes
) -> tuple[Stage, Body]:
    hashes = {sender: body.hashes for sender, body in bodies.items() if isinstance(body, ListHashes)}
    for sender, said in hashes.items():
        holder_lists.check_same(party.holders, sender, said, hashes[party.index])
    holder_lists.check_agreed(party.holders, hashes)
    return AwaitingLists(follows, stage.seeds, hashes), ListsBody(follows, stage.lists)


def _approve(party: Party, stage: AwaitingLists, bodies: Mapping[int, Body], follows: bytes) -> tuple[Stage, Body]:
    shown = {sender: body.lists for sender, body in bodies.items() if isinstance(body, ListsBody)}
    for sender, lists in shown.items():
        holder_lists.check_announced(party.holders, sender, _hashes(party, lists), stage.hashes[sender])
        holder_lists.check_proofs(party.holders, FIRST_EPOCH, lists, party.holders.name(sender))
    gathered = holder_lists.gather(shown)
    key = PublicKey(party.holders.terms, FIRST_EPOCH, holder_lists.values_of(gathered))
    signature = key_record.sign_key(party.private, party.holders, party.index, key)
    return AwaitingApprovals(follows, stage.seeds, gathered, key), Approval(follows, key.fingerprint, signature)


def _finish(party: Party, stage: AwaitingApprovals, bodies: Mapping[int, Body]) -> Made:
    signatures = {}
    for sender, body in bodies.items():
        if isinstance(body, Approval):
            key_record.check_approval(party.holders, sender, stage.key, body)
            signatures[sender] = body.signature
    record = KeyRecord(party.holders, FIRST_EPOCH, stage.lists, signatures)
    return Made(HolderKey(party.index, stage.seeds, record, stage.key))


def _hashes(party: Party, lists: Mapping[SeedSet, ProvenList]) -> dict[SeedSet, bytes]:
    return {
        absent: holder_lists.list_hash(party.holders, FIRST_EPOCH, absent, one.values) for absent, one in lists.items()
    }
