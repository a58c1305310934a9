"""An organisation's seat among the holders of a key: what its home keeps, what it says, and whom it waits for.

Promise: what a holder says is durable in its home before anybody else can have it, and is said again in the same bytes
as often as it is asked for, after the end too. What must be secret is sealed in `HolderFiles`; what is in a `Progress`
is public. Source: docs/paillier-keys.md, "At rest".
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import lp, u32
from fedveil_common.errors import ConfigError, PeerError, StorageError
from fedveil_common.ids import OrgId
from fedveil_common.paillier import ceremony_messages
from fedveil_common.paillier.ceremony_messages import SignedMessage
from fedveil_common.paillier.holder_key import HolderKey, StoredState
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import MAX_TERMS, KeyTerms
from fedveil_common.paillier.octets import Octets
from fedveil_common.paillier.party import Party
from fedveil_common.ports import Entropy, Failpoints
from fedveil_common.secret import PrivateKey, Secret, Seed

from fedveil_participant.store.holder_files import HolderFiles, Thing

MAX_FILE = ceremony_messages.MAX_MESSAGE_BYTES + ceremony_messages.ENVELOPE_BYTES
"""Of a message's file."""

MADE = "made"
"""The stage of a key that is there."""


@dataclass(frozen=True, slots=True)
class Seat:
    """`private`: the protocol key of this home, which says who we are at every table. Secret."""

    files: HolderFiles
    private: PrivateKey
    entropy: Entropy
    failpoints: Failpoints

    def party(self, terms: KeyTerms) -> Party:
        """Our place under these terms, with a fresh seed. ConfigError `not_a_holder`."""
        own = signing.public_key(self.private)
        if own not in terms.holders.keys:
            raise ConfigError(
                "not_a_holder",
                f"the terms of {terms.terms.key_id} name no holder with the protocol key of this home",
                next_step="compare the terms with the roster: an organisation that joined again has another key",
            )
        return Party(terms.holders, terms.holders.keys.index(own), self.private, Seed(self.entropy.take(32)))


@dataclass(frozen=True, slots=True)
class Told:
    """A message and where it was found, for a person. `source`: a path."""

    message: SignedMessage
    source: str


Reader = Callable[[str, int], Sequence[Told]]
"""(key id, epoch) -> what was said about them and lies where a person told us to look."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a key is, seen from this seat. Public.

    `stage`: the phase whose messages are awaited, or "made". `said`: all that we said, to be sent to every other
    holder. `fingerprint`: 32 bytes, as soon as we checked the lists. `refused`: approvals that were not counted.
    """

    terms: KeyTerms
    index: int
    epoch: int
    stage: str
    awaited: tuple[OrgId, ...]
    said: tuple[SignedMessage, ...]
    fingerprint: bytes | None
    record: KeyRecord | None = None
    refused: tuple[PeerError, ...] = ()


def names(terms: KeyTerms, indices: Iterable[int]) -> tuple[OrgId, ...]:
    """The holders with these indices, ascending."""
    return tuple(terms.holders.name(index) for index in sorted(indices))


def blamed(error: PeerError, told: Iterable[Told], reading: Told, terms: KeyTerms) -> PeerError:
    """`error` with the holder and the file in its words. A fault may show only when a later message completes a phase:
    then the file of whoever is at fault is named, if it is one of those that were `told` now.
    """
    of_peer = [one for one in told if one.message.sender < len(terms.holders.keys) and error.peer]
    of_peer = [one for one in of_peer if terms.holders.name(one.message.sender) == error.peer]
    source = reading.source if reading in of_peer or not of_peer else of_peer[-1].source
    where = f"in {source!r}"
    if error.peer and not of_peer:
        where = f"in a message that came before; found when {source!r} was read"
    name = f"{error.peer}: " if error.peer and error.peer not in error.what else ""
    return PeerError(
        error.code,
        f"{name}{error.what} ({where})",
        peer=error.peer,
        not_done="nothing of what was given was taken, and nothing was written",
        next_step=error.next_step
        or "leave that file out, and ask that holder for it again over another channel; if the same comes, begin anew "
        "under another key id",
    )


# --- at rest ----------------------------------------------------------------------------------------------------------


def save_key(seat: Seat, terms: KeyTerms, key: HolderKey, said: Iterable[SignedMessage]) -> None:
    """`key` is the newest of its id, durably, in the place of the one before: LP(terms) || the holder's key. What we
    said on the way to it is durable first, because the state that it came from is erased next.
    """
    key_id = terms.terms.key_id
    messages = [lp(message.to_bytes()) for message in said]
    seat.files.write(Thing.SAID, key_id, Secret(u32(key.record.epoch) + u32(len(messages)) + b"".join(messages)))
    seat.files.write(Thing.KEY, key_id, Secret(lp(terms.encode()) + key.to_bytes().expose()))
    seat.failpoints.hit("holder.key")


def load_key(files: HolderFiles, key_id: str) -> tuple[KeyTerms, HolderKey] | None:
    """The key of this holder, every list and the modulus checked again; None if there is none. Secret.

    StorageError `holder_file_damaged`, `holder_key_damaged`; ConfigError of a modulus that is unfit.
    """
    content = files.read(Thing.KEY, key_id)
    if content is None:
        return None
    terms, rest = split_terms(content)
    return terms, HolderKey.from_bytes(StoredState(rest.rest()))


def made(files: HolderFiles, terms: KeyTerms, key: HolderKey, refused: tuple[PeerError, ...] = ()) -> Progress:
    """The progress of a key that is there."""
    content = files.read(Thing.SAID, terms.terms.key_id)
    said: list[SignedMessage] = []
    if content is not None:
        octets = Octets(content.expose(), "stored message")
        epoch, count = octets.unsigned(4), octets.unsigned(4)
        found = [SignedMessage.from_bytes(octets.prefixed(MAX_FILE)) for _ in range(count)]
        said = found if epoch == key.record.epoch else []
    record = key.record
    return Progress(
        terms, key.index, record.epoch, MADE, (), tuple(said), key.public.fingerprint, record=record, refused=refused
    )


def split_terms(content: Secret) -> tuple[KeyTerms, Octets]:
    """The terms at the front of what a file holds, their modulus checked again, and what follows them."""
    octets = Octets(content.expose(), "stored state")
    try:
        return KeyTerms.decode(octets.prefixed(MAX_TERMS)), octets
    except PeerError as error:
        raise StorageError(
            "key_ceremony_damaged",
            f"what this home keeps of a key has no terms ({error.code})",
            not_done="nothing was sent",
            next_step="begin anew with all holders, under another key id",
        ) from error


def chosen(files: HolderFiles, open_first: Thing, key_id: str | None) -> str:
    """Which key is meant: `key_id`, else the only one with something under way, else the only one of this home.

    ConfigError `no_key_here`, `which_key`.
    """
    under_way, keys = files.ids(open_first), files.ids(Thing.KEY)
    every = sorted({*under_way, *keys})
    found = [key_id] if key_id is not None else list(under_way or keys)
    if not found or found[0] not in every:
        raise ConfigError(
            "no_key_here",
            f"this home takes part in no key {key_id!r}" if key_id else "this home takes part in no key",
            next_step="is this the right --home? `fedveil key holders start TERMS` begins a ceremony",
        )
    if len(found) > 1:
        raise ConfigError("which_key", f"this home has several keys: {', '.join(found)}", next_step="name one: --id ID")
    return found[0]
