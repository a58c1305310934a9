"""What can happen to a participant's round machine, and what it asks its driver to do.

Events carry the instant (`at`, seconds on the local monotonic clock) and, where a step may need randomness, one fresh
32-byte seed; the machine itself reads no clock and draws nothing. Actions are carried out in order: a `Persist` is
durable before any action after it begins.
"""

from dataclasses import dataclass, field

from fedveil_common.dp import budget
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.messages import CoordinatorMessage, Manifest, ParticipantMessage, Purpose, SignedBlob
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey, Seed

from fedveil_participant.approval.binding import Binding

# --- standing facts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class SpentKey:
    """A2: one opening per data set version, purpose and subject. Subjects: the model (or query) that is asked about,
    and the plan's step that asks.
    """

    dataset: str
    version: bytes
    purpose: Purpose
    subject: bytes


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """A sum this participant voted for (`result` empty), or whose Result it has seen (`result`: its hash).

    For a round it voted in only a Result over that T3 is believed, and for any round only the first Result ever seen.
    """

    run_id: RunId
    round: int
    t3: bytes
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class TagKey:
    """The checksum key of a round whose sum was not yet checked here, for exactly the set of inputs behind `t3`."""

    run_id: RunId
    round: int
    t3: bytes
    key: Seed


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry of the privacy ledger of the data set registered as `dataset`."""

    dataset: str
    entry: budget.Entry


@dataclass(frozen=True, slots=True)
class Admission:
    """A run is let in: by which consent (`approved_by`; `number` of the approval, 0 if it is none), bound to what, and
    what its plan may use of the data set: rounds, and epsilon (0 where sums are exact).
    """

    run_id: RunId
    binding: Binding
    approved_by: str
    number: int
    rounds: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Changes:
    """What one transition adds to the standing facts; applied in the transaction that stores the stage. `checked`: keys
    of sums that were checked, which are erased. `admission`: the consent that an advert rests on, looked at again in
    that transaction.
    """

    high_water: AttemptKey | None = None
    spend: tuple[SpentKey, ...] = ()
    free: tuple[SpentKey, ...] = ()
    opened: tuple[OpenedSum, ...] = ()
    tag_keys: tuple[TagKey, ...] = ()
    checked: tuple[TagKey, ...] = ()
    disputed: tuple[RunId, ...] = ()
    roster: Roster | None = None
    ledger: tuple[LedgerEntry, ...] = ()
    admission: Admission | None = None

    def applied_to(self, keys: tuple[TagKey, ...]) -> tuple[TagKey, ...]:
        """The checksum keys after these changes: one for each (run, round, T3)."""
        kept = {(one.run_id, one.round, one.t3): one for one in keys}
        for one in self.checked:
            kept.pop((one.run_id, one.round, one.t3), None)
        kept |= {(one.run_id, one.round, one.t3): one for one in self.tag_keys}
        return tuple(kept[place] for place in sorted(kept))


@dataclass(frozen=True, slots=True)
class ProvenInput:
    """What a header says of an encrypted input, and the proof P1: the fields of `messages.CipherHeader`. Public."""

    blocks: int
    width: int
    headers_hash: bytes
    bodies_hash: bytes
    commitment: bytes
    body_commitment: bytes
    response: bytes


@dataclass(frozen=True, slots=True)
class ProvenAnswer:
    """The proof P3 of an answer: the fields of `messages.Partial`. Public."""

    commitment: bytes
    long_commitment: bytes
    response: bytes


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the coordinator's, parsed; nothing in it is believed yet."""

    message: CoordinatorMessage
    at: float
    seed: Seed


@dataclass(frozen=True, slots=True)
class UpdateReady:
    """The update of an attempt is computed and stored. `model_hash` is the hash of the model re-derived here, `walked`
    the sums that it was derived from, `admission` the consent that it rests on.
    """

    key: AttemptKey
    model_hash: bytes
    at: float
    seed: Seed
    walked: tuple[OpenedSum, ...] = ()
    admission: Admission | None = None


@dataclass(frozen=True, slots=True)
class UpdateFailed:
    """No update: the trainer failed, the model could not be re-derived, a value was not finite. `code` is closed."""

    key: AttemptKey
    code: str
    at: float


@dataclass(frozen=True, slots=True)
class InputReady:
    """The masked input under `t2` is durable on disk; these are its leaf hashes and its tag, masked."""

    key: AttemptKey
    t2: bytes
    leaf_hashes: tuple[bytes, ...]
    masked_tag: bytes
    at: float


@dataclass(frozen=True, slots=True)
class CiphertextsReady:
    """The encrypted input under `t2` is durable on disk: what its header says of it, and its leaf hashes."""

    key: AttemptKey
    t2: bytes
    proven: ProvenInput
    leaf_hashes: tuple[bytes, ...]
    at: float


@dataclass(frozen=True, slots=True)
class AnswerReady:
    """This holder's partial decryptions in `quorum` are durable on disk, with their proof."""

    key: AttemptKey
    t3: bytes
    quorum: tuple[int, ...]
    proven: ProvenAnswer
    leaf_hashes: tuple[bytes, ...]
    at: float


@dataclass(frozen=True, slots=True)
class AnswerFailed:
    """No answer in `quorum`: what is to be opened failed a check. `code` is closed."""

    key: AttemptKey
    quorum: tuple[int, ...]
    code: str
    at: float


@dataclass(frozen=True, slots=True)
class Connected:
    """The session with the coordinator stands (again)."""

    at: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """The process started from its journal; the monotonic clock may have begun anew. `refused`: why the input that is
    being made may not be given as this house is now, a code that may leave; "" if it may.
    """

    at: float
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """`deadline(state)` has passed."""

    at: float


@dataclass(frozen=True, slots=True)
class EndStored:
    """The end of a run is verified and stored here: nothing of that run is waited for any more."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class InputsHeld:
    """From now on no input is made: `code` says why (paused, out of hours, leaving); "" lifts it."""

    code: str


@dataclass(frozen=True, slots=True)
class ConsentChanged:
    """From now on no input is made for a run: `code` says why; "" lets it go on."""

    run_id: RunId
    code: str


@dataclass(frozen=True, slots=True)
class SumDisputed:
    """The published inputs of a run's round do not add up to the sum that the coordinator signed."""

    run_id: RunId
    what: str


Event = (
    Received
    | UpdateReady
    | UpdateFailed
    | InputReady
    | CiphertextsReady
    | AnswerReady
    | AnswerFailed
    | Connected
    | Resumed
    | Tick
    | EndStored
    | SumDisputed
    | InputsHeld
    | ConsentChanged
)


# --- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Make the current stage (`state.stage` after this step) and `changes` durable. `trail` holds public facts only."""

    kind: str
    changes: Changes = field(default_factory=Changes)
    trail: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """Send on the session; dropped if there is none (it is sent again on the next `Connected`)."""

    message: ParticipantMessage


@dataclass(frozen=True, slots=True)
class PrepareUpdate:
    """Re-derive the model, train (or measure), store the update sealed; then `UpdateReady` or `UpdateFailed`."""

    manifest: Manifest
    update_key: SpentKey


@dataclass(frozen=True, slots=True)
class ProtectUpdate:
    """Encode and mask the stored update under `t2`, write the masked leaves durably; then `InputReady`.

    `mask_key` and `self_seed` are this participant's secrets; `keys` the public mask keys of U2 without its own;
    `tag_key` the checksum key that the dealers share, empty if it is not known here.
    The same call yields the same bytes: `rounding` fixes the stochastic rounding of this attempt.
    """

    manifest: Manifest
    update_key: SpentKey
    t2: bytes
    mask_key: PrivateKey
    self_seed: Seed
    rounding: Seed
    tag_key: tuple[Seed, ...]
    keys: tuple[tuple[OrgId, bytes], ...]


@dataclass(frozen=True, slots=True)
class EncryptUpdate:
    """Encode and encrypt the stored update, write its blocks durably; then `CiphertextsReady`.

    Every call encrypts anew: what an earlier one left was never sent. `rounding` fixes the stochastic rounding of this
    attempt; `own` is this participant's secret part of its proof's nonce.
    """

    manifest: Manifest
    update_key: SpentKey
    t0: bytes
    t2: bytes
    rounding: Seed
    own: Seed


@dataclass(frozen=True, slots=True)
class AnswerQuorum:
    """Fetch the certified headers, check them, decrypt their product in part; then `AnswerReady` or `AnswerFailed`.

    `headers`: the signed ones that this participant voted for, no others; `noise`: what the manifest commits to.
    """

    manifest: Manifest
    t0: bytes
    t3: bytes
    quorum: tuple[int, ...]
    headers: tuple[SignedBlob, ...]
    noise: tuple[SignedBlob, ...]
    own: Seed


@dataclass(frozen=True, slots=True)
class UploadInput:
    """Submit the input on disk under this header; repeated until a receipt comes or the stage moves on. With `quorum`
    it is this holder's answer in that quorum that is submitted.
    """

    key: AttemptKey
    header: SignedBlob
    leaf_hashes: tuple[bytes, ...]
    quorum: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DiscardInput:
    """Delete the masked or encrypted input of an attempt and its answers from disk; with `update`, the cached update of
    that key too.
    """

    key: AttemptKey
    update: SpentKey | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Tell the local operator (log, status). Never sent."""

    code: str
    text: str


Action = (
    Persist | Send | PrepareUpdate | ProtectUpdate | EncryptUpdate | AnswerQuorum | UploadInput | DiscardInput | Note
)
