"""The keys of Paillier protection as a participant uses them: what it pinned, the seeds it holds, and for which run.

Promise: a key that comes from here is the pinned one, its record verified under the pinned root and fingerprint, and is
made from this home alone: nobody is asked. One epoch serves one run, unless a person of this organisation consented to
more; which run it serves is durable before `claim` returns. Hold the `FolderLock` of the home: what was read once is
kept, because nobody else writes there. Source: docs/paillier-keys.md, "What a participant accepts" (P7, G6).
"""

from dataclasses import dataclass

from fedveil_common.crypto.labels import lp, u32
from fedveil_common.errors import PeerError, PolicyRefusal, StorageError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.paillier import key_record
from fedveil_common.paillier.epochs import KeyPin
from fedveil_common.paillier.holder_key import HolderKey
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.paillier.key_use import KeyUse, use_of_terms
from fedveil_common.paillier.octets import Octets
from fedveil_common.paillier.public_key import PublicKey, Terms
from fedveil_common.secret import Secret

from fedveil_participant.key_pins import load_pin
from fedveil_participant.key_seat import load_key
from fedveil_participant.store.holder_files import HolderFiles, Thing

_RUN_BYTES = 64


@dataclass(frozen=True, slots=True)
class AcceptedKey:
    """The key that this organisation pinned, as facts. `keys`: the holders' protocol keys, by index. Public."""

    terms: Terms
    keys: tuple[bytes, ...]
    epoch: int
    fingerprint: bytes

    @property
    def key_id(self) -> str:
        """As plans name it."""
        return self.terms.key_id

    @property
    def holders(self) -> tuple[OrgId, ...]:
        """Who can open sums together; a holder's index is its place."""
        return self.terms.holders

    @property
    def threshold(self) -> int:
        """How many of them it takes."""
        return self.terms.threshold

    @property
    def n(self) -> int:
        """The modulus."""
        return self.terms.n

    @property
    def s(self) -> int:
        """A plaintext has s times the bits of n."""
        return self.terms.s

    @property
    def columns(self) -> int:
        """K: ciphertexts under one header."""
        return self.terms.width


class KeyRing:
    """The keys in one home. `reuse`: this organisation consented to more than one run in an epoch of any key."""

    def __init__(self, files: HolderFiles, *, reuse: bool = False) -> None:
        self._files = files
        self._reuse = reuse
        self._pins: dict[str, tuple[KeyTerms, KeyPin]] = {}
        self._records: dict[str, KeyRecord] = {}
        self._public: dict[str, PublicKey] = {}
        self._held: dict[str, HolderKey | None] = {}

    def pinned(self) -> tuple[str, ...]:
        """The ids of the keys that are pinned here."""
        return self._files.ids(Thing.PIN)

    def accepted(self, key_id: str) -> AcceptedKey:
        """What is pinned under this id. PolicyRefusal `key_not_pinned`, `key_record_missing`; StorageError."""
        terms, pin = self._pin(key_id)
        self._record(key_id)
        return AcceptedKey(terms.terms, terms.holders.keys, pin.epoch, pin.fingerprint)

    def use(self, key_id: str) -> KeyUse:
        """The same as the round protocol needs it. Errors as `accepted`."""
        found = self.accepted(key_id)
        return use_of_terms(found.terms, found.epoch, found.fingerprint)

    def public(self, key_id: str) -> PublicKey:
        """The pinned key, to encrypt under. Seconds at the first call for a key, none later.

        PolicyRefusal `key_not_pinned`, `key_record_missing`; StorageError `key_record_damaged`.
        """
        if key_id not in self._public:
            _, pin = self._pin(key_id)
            try:
                found = key_record.verify(self._record(key_id), pin.root)
            except PeerError as error:
                raise _damaged(key_id, error.code) from error
            if found.fingerprint != pin.fingerprint:
                raise _damaged(key_id, "another fingerprint")
            self._public[key_id] = found
        return self._public[key_id]

    def holding(self, key_id: str, me: OrgId) -> HolderKey | None:
        """The seeds with which `me` answers as a holder in the pinned epoch; None if this home holds none. Secret.

        PolicyRefusal `holder_epoch_differs` if they are of another epoch than the pin, `holder_key_differs` if they are
        of another key or another holder; as `accepted`; StorageError.
        """
        if key_id not in self._held:
            self._held[key_id] = self._fitting(key_id, me)
        return self._held[key_id]

    def claim(self, key_id: str, epoch: int, run_id: RunId, *, reuse: bool = False) -> None:
        """This epoch of the key serves `run_id` from now on, durably; the same run again changes nothing.

        PolicyRefusal `key_epoch_used` if another run used it and nobody consented (`reuse`, here or for the ring), or
        if a later epoch served a run already. ValueError for another epoch than the pinned one.
        """
        if epoch != self.accepted(key_id).epoch:
            raise ValueError("only the pinned epoch serves a run")
        newest, runs = self._claims(key_id)
        if newest == epoch and run_id in runs:
            return
        if newest > epoch or (newest == epoch and not (reuse or self._reuse)):
            raise PolicyRefusal(
                "key_epoch_used",
                f"epoch {newest} of the key {key_id} served run {runs[-1]} of this organisation already",
                not_done=f"nothing was encrypted for run {run_id}",
                next_step="the holders make the next epoch (`fedveil key refresh`) and you pin it; "
                "`participate --reuse-key-epoch` consents to one epoch for several runs",
            )
        kept = (*runs, run_id) if newest == epoch else (run_id,)
        content = u32(epoch) + u32(len(kept)) + b"".join(lp(run.encode()) for run in kept)
        self._files.write(Thing.CLAIMS, key_id, Secret(content))

    def _pin(self, key_id: str) -> tuple[KeyTerms, KeyPin]:
        found = self._pins.get(key_id) or load_pin(self._files, key_id)
        if found is None:
            raise PolicyRefusal(
                "key_not_pinned",
                f"this organisation pinned no key {key_id}",
                not_done="nothing was encrypted",
                next_step="compare its root with the holders, then `fedveil key pin TERMS RECORD`",
            )
        self._pins[key_id] = found
        return found

    def _record(self, key_id: str) -> KeyRecord:
        """Of the pinned epoch, not verified."""
        if key_id not in self._records:
            _, pin = self._pin(key_id)
            content = self._files.read(Thing.RECORD, key_id)
            try:
                record = None if content is None else KeyRecord.from_bytes(content.expose())
            except PeerError as error:
                raise _damaged(key_id, error.code) from error
            if record is None or record.epoch != pin.epoch:  # else a crash came between the next record and its pin
                raise _record_missing(key_id, pin.epoch)
            self._records[key_id] = record
        return self._records[key_id]

    def _fitting(self, key_id: str, me: OrgId) -> HolderKey | None:
        _, pin = self._pin(key_id)
        found = load_key(self._files, key_id)
        if found is None:
            return None
        key = found[1]
        if key.holders.root != pin.root or key.holders.name(key.index) != me:
            raise _holder_key_differs(key_id, "are of another key or another holder than the pin says")
        if key.record.epoch != pin.epoch:
            behind = key.record.epoch < pin.epoch
            raise PolicyRefusal(
                "holder_epoch_differs",
                f"this home holds seeds of the key {key_id} in epoch {key.record.epoch}, and epoch {pin.epoch} is "
                "pinned",
                not_done="no share was applied",
                next_step="`fedveil key refresh adopt RECORD` brings the seeds to the pinned epoch"
                if behind
                else "`fedveil key pin TERMS RECORD` with the record of the epoch of the seeds",
            )
        if key.public.fingerprint != pin.fingerprint:
            raise _holder_key_differs(key_id, f"make another key of epoch {pin.epoch} than the pinned one")
        return key

    def _claims(self, key_id: str) -> tuple[int, tuple[RunId, ...]]:
        """(newest epoch that served a run, its runs, the last one last); (-1, ()) if none did."""
        content = self._files.read(Thing.CLAIMS, key_id)
        if content is None:
            return -1, ()
        octets = Octets(content.expose(), "stored claim")
        epoch, count = octets.unsigned(4), octets.unsigned(4)
        return epoch, tuple(RunId(octets.prefixed(_RUN_BYTES).decode()) for _ in range(count))


def _record_missing(key_id: str, epoch: int) -> PolicyRefusal:
    return PolicyRefusal(
        "key_record_missing",
        f"the key {key_id} is pinned at epoch {epoch} and the record of that epoch is not in this home",
        not_done="nothing was encrypted",
        next_step=f"pin it again: `fedveil key pin TERMS {key_id}.epoch-{epoch}.record`",
    )


def _damaged(key_id: str, why: str) -> StorageError:
    return StorageError(
        "key_record_damaged",
        f"the record of the key {key_id} in this home is not that of the pin ({why})",
        not_done="nothing was encrypted",
        next_step="check the disk, then pin the key again: `fedveil key pin TERMS RECORD`",
    )


def _holder_key_differs(key_id: str, why: str) -> PolicyRefusal:
    return PolicyRefusal(
        "holder_key_differs",
        f"the seeds of the key {key_id} in this home {why}",
        not_done="no share was applied",
        next_step="compare root and fingerprint of `fedveil key holders show` with the other holders by telephone",
    )
