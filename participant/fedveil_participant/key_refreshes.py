"""The next epoch of a key as one organisation goes to it: with the others, or after them by their record.

Promise: a step is taken whole or not at all; its state is durable and sealed before a message of it leaves this module.
The new seeds are durable before the old ones go: the new key's file takes the place of the old one's in one step.
Source: docs/paillier-keys.md, "The next epoch".
"""

from collections.abc import Collection
from dataclasses import dataclass

from fedveil_common.crypto.labels import lp, u32
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.paillier import refresh as machine
from fedveil_common.paillier.ceremony_messages import Kind, SignedMessage
from fedveil_common.paillier.holder_key import HolderKey, StoredState
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.secret import Secret

from fedveil_participant.key_seat import (
    Progress,
    Reader,
    Seat,
    blamed,
    chosen,
    load_key,
    made,
    names,
    save_key,
    split_terms,
)
from fedveil_participant.store.holder_files import Thing


@dataclass(frozen=True, slots=True)
class _Open:
    """A refresh under way. Secret."""

    terms: KeyTerms
    refresh: machine.Refresh
    said: tuple[SignedMessage, ...]


def start(seat: Seat, key_id: str | None, absent: Collection[OrgId]) -> Progress:
    """Our lists of the next epoch, among all holders but those who are `absent`.

    ConfigError `no_key_here`, `which_key`, `key_ceremony_open`, `bad_absent`; StorageError.
    """
    terms, key = _key(seat, key_id)
    if seat.files.read(Thing.REFRESH, terms.terms.key_id) is not None:
        raise ConfigError(
            "key_ceremony_open",
            f"a refresh of {terms.terms.key_id} is under way in this home",
            not_done="it stays as it is",
            next_step="`fedveil key refresh take --out FOLDER` writes its messages again; --absent leaves a holder out",
        )
    party = seat.party(terms)
    refresh, said = machine.start(party, key, _present(terms, key.index, absent))
    under_way = _Open(terms, refresh, said)
    _save(seat, under_way)
    return _progress(under_way)


def take(seat: Seat, key_id: str | None, read: Reader, absent: Collection[OrgId] | None = None) -> Progress:
    """Every message that was told (`read`) is taken, or none. What comes back repeats all that we said.
    `absent`: who is left out from now on, in the place of those who were; None changes nothing.

    PeerError as `refresh.step`, naming the holder and the file, and `key_equivocation`, naming us, if we signed a key
    already and should sign another; ConfigError as `start`. After the end nothing changes any more.
    """
    terms, key = _key(seat, chosen(seat.files, Thing.REFRESH, key_id))
    under_way = _restored(seat, terms, key, absent)
    if under_way is None:
        return made(seat.files, terms, key)
    refresh, said, before = under_way.refresh, under_way.said, under_way.refresh
    told = read(terms.terms.key_id, refresh.epoch)
    for one in told:
        if one.message.sender == key.index:
            continue  # ours, come back with the others' in a shared folder
        try:
            refresh, more = machine.step(refresh, one.message)
        except PeerError as error:
            raise blamed(error, told, one, terms) from error
        said += more
    under_way = _Open(terms, refresh, said)
    if refresh is not before or absent is not None:
        _save(seat, under_way)
    if isinstance(refresh.stage, machine.Refreshed):
        save_key(seat, terms, refresh.stage.key, said)
        seat.files.erase(Thing.REFRESH, terms.terms.key_id)
        return made(seat.files, terms, refresh.stage.key, refresh.stage.refused)
    return _progress(under_way)


def adopt(seat: Seat, record: KeyRecord) -> Progress:
    """Our key in the epoch of `record`, which the others made.

    PeerError as `refresh.adopt`, `other_key_root`; `key_list_differs` if we signed another key of that epoch;
    ConfigError `no_key_here`.
    """
    terms, key = _key(seat, record.holders.terms.key_id)
    if record.root != key.holders.root:
        raise PeerError(
            "other_key_root",
            "the record is of another key than the one that this home holds under this id",
            not_done="the seeds stayed where they were",
            next_step="compare the root with the holders by telephone",
        )
    following = machine.adopt(key, record)
    under_way = _restored(seat, terms, key, None)
    if under_way is not None and _signed(under_way.refresh) not in {None, following.public.fingerprint}:
        raise PeerError(
            "key_list_differs",
            f"this home signed another key of epoch {record.epoch} than the record's",
            not_done="the seeds stayed where they were",
            next_step="compare both records' fingerprints and signers with every holder by telephone",
        )
    save_key(seat, terms, following, ())
    seat.files.erase(Thing.REFRESH, terms.terms.key_id)
    return made(seat.files, terms, following)


def progress(seat: Seat, key_id: str) -> Progress | None:
    """How far the refresh of `key_id` is; None if none is under way. Nothing moves."""
    found = load_key(seat.files, key_id)
    under_way = None if found is None else _restored(seat, *found, None)
    return None if under_way is None else _progress(under_way)


def _key(seat: Seat, key_id: str | None) -> tuple[KeyTerms, HolderKey]:
    name = chosen(seat.files, Thing.KEY, key_id)
    found = load_key(seat.files, name)
    if found is None:
        raise ConfigError(
            "no_key_here", f"the ceremony of {name} has not ended in this home", next_step="`fedveil key holders show`"
        )
    terms, key = found
    kept = seat.files.read(Thing.REFRESH, name)
    if kept is not None and _epoch(kept) <= key.record.epoch:  # a crash came between the new key and this
        seat.files.erase(Thing.REFRESH, name)
    return terms, key


def _present(terms: KeyTerms, own: int, absent: Collection[OrgId]) -> frozenset[int]:
    every = terms.terms.holders
    present = frozenset(index for index, name in enumerate(every) if name not in absent)
    if not set(absent) <= set(every) or own not in present or len(present) < terms.terms.threshold:
        raise ConfigError(
            "bad_absent",
            f"absent may be other holders only, and {terms.terms.threshold} of {len(every)} must be present",
            next_step=f"the holders are {', '.join(every)}; with fewer the ceremony is held anew",
        )
    return present


def _save(seat: Seat, under_way: _Open) -> None:
    """u32 epoch || u8 number present || their indices || LP(state)."""
    refresh = under_way.refresh
    present = bytes(sorted(refresh.present))
    content = u32(refresh.epoch) + bytes([len(present)]) + present + lp(machine.store(refresh).expose())
    key_id = under_way.terms.terms.key_id
    seat.files.write(Thing.REFRESH, key_id, Secret(lp(under_way.terms.encode()) + content))
    seat.failpoints.hit("holder.stored")


def _epoch(kept: Secret) -> int:
    return split_terms(kept)[1].unsigned(4)


def _restored(seat: Seat, terms: KeyTerms, key: HolderKey, absent: Collection[OrgId] | None) -> _Open | None:
    kept = seat.files.read(Thing.REFRESH, terms.terms.key_id)
    if kept is None:
        return None
    _, octets = split_terms(kept)
    if octets.unsigned(4) != key.record.epoch + 1:
        return None
    present = frozenset(octets.take(octets.unsigned(1)))
    if absent is not None:
        present = _present(terms, key.index, absent)
    size = octets.unsigned(4)
    refresh, said = machine.restore(seat.party(terms), key, present, StoredState(octets.take(size)))
    return _Open(terms, refresh, said)


def _signed(refresh: machine.Refresh) -> bytes | None:
    """The fingerprint that we signed in this refresh."""
    match refresh.stage:
        case machine.Approving(_, key):
            return key.fingerprint
        case machine.Refreshed(key, _):
            return key.public.fingerprint
        case machine.Gathering():
            return None


def _progress(under_way: _Open) -> Progress:
    refresh, stage = under_way.refresh, under_way.refresh.stage
    terms, index = under_way.terms, refresh.party.index
    kind = Kind.LISTS if isinstance(stage, machine.Gathering) else Kind.APPROVAL
    awaited = names(terms, refresh.present - set(refresh.heard.of(kind)))
    if isinstance(stage, machine.Refreshed):  # a crash came between state and key: the next `take` keeps the key
        return Progress(terms, index, refresh.epoch, "ending", (), under_way.said, _signed(refresh))
    return Progress(terms, index, refresh.epoch, kind.name.lower(), awaited, under_way.said, _signed(refresh))
