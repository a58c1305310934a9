"""The making of a key as one organisation goes through it: begin, take what the others said, and say the next thing.

Promise: a step is taken whole or not at all; its state is durable and sealed before a message of it leaves this module.
A key id is used for one ceremony. At the end the key is durable before the state is erased.
Source: docs/paillier-keys.md, "The ceremony, message by message".
"""

from fedveil_common.crypto.labels import lp
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.paillier import ceremony as machine
from fedveil_common.paillier.ceremony_messages import SignedMessage
from fedveil_common.paillier.holder_key import StoredState
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


def start(seat: Seat, terms: KeyTerms) -> Progress:
    """Our first message. ConfigError `not_a_holder`, `key_ceremony_open`, `key_id_used`; StorageError."""
    key_id, party = terms.terms.key_id, seat.party(terms)
    if key_id in seat.files.ids(Thing.KEY):
        raise ConfigError(
            "key_id_used",
            f"this home has a key {key_id} already",
            next_step="a new ceremony needs a new key id; the next epoch of this key is `fedveil key refresh start`",
        )
    if key_id in seat.files.ids(Thing.CEREMONY):
        raise ConfigError(
            "key_ceremony_open",
            f"the ceremony of {key_id} is under way in this home",
            not_done="it stays as it is",
            next_step="`fedveil key holders take --out FOLDER` writes its messages again; to begin anew take another "
            "key id",
        )
    ceremony, said = machine.start(party)
    _save(seat, terms, ceremony)
    return _progress(terms, ceremony, said)


def take(seat: Seat, key_id: str | None, read: Reader) -> Progress:
    """Every message that was told (`read`) is taken, or none. What comes back repeats all that we said.

    PeerError as `ceremony.step`, naming the holder and the file; ConfigError `no_key_here`, `which_key`; StorageError.
    After the end nothing changes any more.
    """
    name = chosen(seat.files, Thing.CEREMONY, key_id)
    _settle(seat, name)
    kept = seat.files.read(Thing.CEREMONY, name)
    if kept is None:
        return _made(seat, name)
    terms, ceremony, said = _restored(seat, kept)
    before = ceremony
    told = read(name, machine.FIRST_EPOCH)
    for one in told:
        if one.message.sender == ceremony.party.index:
            continue  # ours, come back with the others' in a shared folder
        try:
            ceremony, more = machine.step(ceremony, one.message)
        except PeerError as error:
            raise blamed(error, told, one, terms) from error
        said += more
    if ceremony is not before:
        _save(seat, terms, ceremony)
    if isinstance(ceremony.stage, machine.Made):
        save_key(seat, terms, ceremony.stage.key, said)
        _settle(seat, name)
        return _made(seat, name)
    return _progress(terms, ceremony, said)


def progress(seat: Seat, key_id: str) -> Progress:
    """How far the ceremony of `key_id` is; made if it ended. Nothing moves."""
    kept = seat.files.read(Thing.CEREMONY, key_id)
    if kept is None or key_id in seat.files.ids(Thing.KEY):
        return _made(seat, key_id)
    return _progress(*_restored(seat, kept))


def _settle(seat: Seat, key_id: str) -> None:
    """Once the key is durable, the state that gives every contribution and nonce of ours is erased."""
    if key_id in seat.files.ids(Thing.KEY):
        seat.files.erase(Thing.CEREMONY, key_id)


def _save(seat: Seat, terms: KeyTerms, ceremony: machine.Ceremony) -> None:
    """LP(terms) || the state."""
    content = Secret(lp(terms.encode()) + machine.store(ceremony).expose())
    seat.files.write(Thing.CEREMONY, terms.terms.key_id, content)
    seat.failpoints.hit("holder.stored")


def _restored(seat: Seat, kept: Secret) -> tuple[KeyTerms, machine.Ceremony, tuple[SignedMessage, ...]]:
    terms, rest = split_terms(kept)
    return terms, *machine.restore(seat.party(terms), StoredState(rest.rest()))


def _made(seat: Seat, key_id: str) -> Progress:
    found = load_key(seat.files, key_id)
    if found is None:
        raise ConfigError(
            "no_key_here", f"this home takes part in no key {key_id!r}", next_step="check --home and --id"
        )
    return made(seat.files, *found)


def _progress(terms: KeyTerms, ceremony: machine.Ceremony, said: tuple[SignedMessage, ...]) -> Progress:
    stage, index = ceremony.stage, ceremony.party.index
    if isinstance(stage, machine.Made):  # a crash came between state and key: the next `take` keeps the key
        return Progress(terms, index, 0, "ending", (), said, stage.key.public.fingerprint)
    heard = ceremony.heard.of(stage.kind)
    awaited = names(terms, set(range(len(terms.holders.keys))) - set(heard))
    fingerprint = stage.key.fingerprint if isinstance(stage, machine.AwaitingApprovals) else None
    return Progress(terms, index, 0, stage.kind.name.lower(), awaited, said, fingerprint)
