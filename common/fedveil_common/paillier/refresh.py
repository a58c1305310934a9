"""From one epoch of a key to the next, seen by one holder: a pure state machine among those holders who are present.

Promise: every seed is ratcheted, so that what was encrypted before stays shut to whoever takes the new seeds; lists are
derived again or come with proofs; a holder signs one fingerprint for an epoch. Nobody contributes anything: a refresh
heals nothing, and after a compromise or the loss of a holder the ceremony is held anew.
A list that contradicts another one is never signed: those present must all show lists that agree, and who cannot is
left out by a person, as long as a threshold remains.
What `start` and `step` return is stored before it is sent (`store`): a holder that forgot could sign two keys, and its
second lists, with other proofs, would be held against it.
Source: docs/paillier-keys.md (P7, G6).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedveil_common.crypto.labels import u32
from fedveil_common.errors import PeerError
from fedveil_common.paillier import holder_lists, key_record
from fedveil_common.paillier.ceremony_messages import HASH_BYTES, Approval, Kind, ListsBody, SignedMessage
from fedveil_common.paillier.encoding import hp
from fedveil_common.paillier.holder_key import HolderKey, StoredState
from fedveil_common.paillier.holder_lists import ProvenList
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.party import Heard, Party, pack, unpack
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.shares import SeedSet, next_seed
from fedveil_common.secret import Seed

LAST_EPOCH = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Gathering:
    """Our lists are out; not all who are present have shown theirs."""


@dataclass(frozen=True, slots=True)
class Approving:
    """We checked a list for every set and signed the fingerprint."""

    lists: Mapping[SeedSet, ProvenList]
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A threshold of holders signed. Once `key` is durable, erase the old key, the refresh and the party's seed.

    `refused`: why approvals that came before ours were not counted; each error names its sender.
    """

    key: HolderKey
    refused: tuple[PeerError, ...]


@dataclass(frozen=True, slots=True)
class Refresh:
    """One holder's state. `present`: who takes part. `epoch`: the one that begins. `seeds`, `lists`: ours in it.
    Secret.
    """

    party: Party
    present: frozenset[int]
    epoch: int
    follows: bytes
    seeds: Mapping[SeedSet, Seed]
    lists: Mapping[SeedSet, ProvenList]
    heard: Heard
    stage: Gathering | Approving | Refreshed


Step = tuple[Refresh, tuple[SignedMessage, ...]]


def next_seeds(key: HolderKey) -> dict[SeedSet, Seed]:
    """A holder's seeds in the epoch after `key`'s. The old ones do not follow from them."""
    terms, epoch = key.holders.terms, key.record.epoch
    return {a: next_seed(seed, terms.federation, terms.key_id, epoch, a) for a, seed in key.seeds.items()}


def start(party: Party, key: HolderKey, present: frozenset[int]) -> Step:
    """The first message of a refresh of `key`; for an approved plan only, which the caller checks. `party.seed` is
    fresh. `present`: the holders who take part, best all: with fewer, one of them may be the only one who knows a seed.

    ValueError if party and key are not of one holder, after the last epoch, or unless a threshold is present with us.
    """
    every = frozenset(range(len(party.holders.keys)))
    if not present <= every or party.index not in present or len(present) < party.holders.terms.threshold:
        raise ValueError("a threshold of holders is present, this one among them")
    if party.index != key.index or party.holders != key.holders or key.record.epoch >= LAST_EPOCH:
        raise ValueError("the key is not this party's, or its epochs are used up")
    epoch, seeds = key.record.epoch + 1, next_seeds(key)
    follows = hp("refresh", party.holders.root, u32(epoch), key.public.fingerprint)
    lists = holder_lists.proven_lists(party.holders, epoch, seeds, party.draws)
    said = party.say(Kind.LISTS, ListsBody(follows, lists))
    heard = Heard().add(said, party.holders)
    refresh, more = _advance(Refresh(party, present, epoch, follows, seeds, lists, heard, Gathering()))
    return refresh, (said, *more)


def step(refresh: Refresh, message: SignedMessage) -> Step:
    """A message from another holder, in any order and any number of times.

    PeerError as in a ceremony's `step`: the message is refused and the refresh stays as it was. If its sender is named
    and does not mend it, the others go on without it: `restore` with fewer present. Who is not present is not heard;
    after the end nothing changes any more.
    """
    if message.kind not in {Kind.LISTS, Kind.APPROVAL}:
        raise PeerError("bad_key_message", "a refresh has lists and approvals only")
    if message.body[:HASH_BYTES] != refresh.follows:  # an old one, perhaps: it says nothing against its sender
        raise PeerError("key_views_differ", "a message follows another key or epoch than the one that ends here")
    heard = refresh.heard.add(message, refresh.party.holders)
    absent = message.sender not in refresh.present
    if absent or isinstance(refresh.stage, Refreshed) or heard is refresh.heard:
        return refresh, ()
    _check(refresh, heard, message)
    return _advance(replace(refresh, heard=heard))


def store(refresh: Refresh) -> StoredState:
    """What must be durable, beside the old key, before the messages of the same step are sent."""
    return pack(refresh.party.seed, refresh.heard)


def restore(party: Party, key: HolderKey, present: frozenset[int], state: StoredState) -> Step:
    """The refresh of `key` as it was stored, and our messages so far, to be sent again. `party.seed` is ignored.

    `present` may be another one than before, as long as we signed no key: StorageError `key_ceremony_damaged`;
    PeerError as `step`, and `key_equivocation`, peer = ourselves, if we should sign a second key.
    """
    seed, heard = unpack(state)
    refresh, sent = start(replace(party, seed=seed), key, present)
    for message in heard:
        refresh, more = step(refresh, message)
        sent += more
    return refresh, sent


def adopt(key: HolderKey, record: KeyRecord) -> HolderKey:
    """For a holder that was away: its key in the epoch of `record`, the next one, made by the others.

    PeerError as `epochs.accept`, and `key_list_differs` if the others' list is not the one that our seed gives.
    """
    if record.epoch != key.record.epoch + 1:
        raise PeerError(
            "wrong_key_epoch",
            f"a key of epoch {record.epoch} does not follow one of epoch {key.record.epoch}",
            not_done="the seeds stayed where they were",
            next_step="fetch the records of the epochs between, and take them one by one",
        )
    return HolderKey.over(key.index, next_seeds(key), record, key.record.root)


def _check(refresh: Refresh, heard: Heard, message: SignedMessage) -> None:
    """A message is held against everything we know when it arrives. An approval that is early waits for its key."""
    party = refresh.party
    if message.kind is Kind.APPROVAL:
        approval = _approvals(refresh, heard)[message.sender]
        if isinstance(refresh.stage, Approving):
            key_record.check_approval(party.holders, message.sender, refresh.stage.key, approval)
        return
    shown = _shown(refresh, heard)
    said = shown[message.sender]
    own = holder_lists.values_of(refresh.lists)
    holder_lists.check_same(party.holders, message.sender, holder_lists.values_of(said), own)
    holder_lists.check_proofs(party.holders, refresh.epoch, said, party.holders.name(message.sender))
    holder_lists.check_agreed(party.holders, {sender: holder_lists.values_of(one) for sender, one in shown.items()})


def _shown(refresh: Refresh, heard: Heard) -> dict[int, Mapping[SeedSet, ProvenList]]:
    bodies = heard.parsed(Kind.LISTS, refresh.party.holders, refresh.follows)
    return {sender: body.lists for sender, body in bodies.items() if isinstance(body, ListsBody)}


def _approvals(refresh: Refresh, heard: Heard) -> dict[int, Approval]:
    bodies = heard.parsed(Kind.APPROVAL, refresh.party.holders, refresh.follows)
    return {sender: body for sender, body in bodies.items() if isinstance(body, Approval)}


def _advance(refresh: Refresh) -> Step:
    party, heard, stage = refresh.party, refresh.heard, refresh.stage
    terms = party.holders.terms
    sent: list[SignedMessage] = []
    if isinstance(stage, Gathering) and len(shown := _shown(refresh, heard)) == len(refresh.present):
        lists = holder_lists.gather(shown, first=party.index)
        key = PublicKey(terms, refresh.epoch, holder_lists.values_of(lists))
        signature = key_record.sign_key(party.private, party.holders, party.index, key)
        sent.append(party.say(Kind.APPROVAL, Approval(refresh.follows, key.fingerprint, signature)))
        heard = heard.add(sent[-1], party.holders)
        stage = Approving(lists, key)
    if isinstance(stage, Approving):
        signatures, refused = _count(refresh, heard, stage.key)
        if len(signatures) >= terms.threshold:
            record = KeyRecord(party.holders, refresh.epoch, stage.lists, signatures)
            stage = Refreshed(HolderKey(party.index, refresh.seeds, record, stage.key), refused)
    return replace(refresh, heard=heard, stage=stage), tuple(sent)


def _count(refresh: Refresh, heard: Heard, key: PublicKey) -> tuple[dict[int, bytes], tuple[PeerError, ...]]:
    """The good signatures, and why others are none: an early approval could not be checked when it came."""
    signatures: dict[int, bytes] = {}
    refused: list[PeerError] = []
    for sender, approval in _approvals(refresh, heard).items():
        try:
            key_record.check_approval(refresh.party.holders, sender, key, approval)
        except PeerError as error:
            refused.append(error)
        else:
            signatures[sender] = approval.signature
    return signatures, tuple(refused)
