"""What can happen to a run at the coordinator, and what its machine asks the driver to do.

Events carry the instant (`at`, seconds on the local monotonic clock) and, where a signature or nonce may be needed, one
fresh 32-byte seed. Actions are carried out in order: a `Persist` is durable before any action after it begins.
"""

from dataclasses import dataclass

from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.messages import CoordinatorMessage, Manifest, Noise, ParticipantMessage, SignedBlob
from fedveil_common.roster import Roster
from fedveil_common.secret import Seed

from fedveil_coordinator.facts import Fact

# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A parsed message on the session of `org_id`, whose certificate was checked; nothing in it is believed yet."""

    org_id: OrgId
    message: ParticipantMessage
    at: float
    seed: Seed


@dataclass(frozen=True, slots=True)
class Heard:
    """A sign of life that is no message: so many leaves of an upload are verified; 0 while it waits for its turn."""

    org_id: OrgId
    leaves: int
    at: float


@dataclass(frozen=True, slots=True)
class Connected:
    """A session of `org_id` stands (again)."""

    org_id: OrgId
    at: float
    seed: Seed


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session of `org_id` is gone."""

    org_id: OrgId
    at: float


@dataclass(frozen=True, slots=True)
class InputSpooled:
    """Every leaf under this header is verified and durable."""

    org_id: OrgId
    header: SignedBlob
    at: float


@dataclass(frozen=True, slots=True)
class UploadRefused:
    """What this member uploaded under its signed header is not what a header of this kind promises: `code` says how."""

    org_id: OrgId
    header: SignedBlob
    code: str
    at: float


@dataclass(frozen=True, slots=True)
class ProductReady:
    """The product of the certified inputs is durable; `noise`: the coordinator's own that is in it, if there is one."""

    key: AttemptKey
    noise: tuple[SignedBlob, ...]
    root: bytes
    at: float


@dataclass(frozen=True, slots=True)
class NoiseReady:
    """The coordinator's own noise is encrypted and durable, for the offer that `draft` is of."""

    draft: Manifest
    noise: Noise
    at: float


@dataclass(frozen=True, slots=True)
class SumReady:
    """The opened sum of an attempt is durable on disk; its leaves have this root, and this is its tag (empty: none).
    `noise_left`: the variance of the noise in it once it is settled (`Result`).
    """

    key: AttemptKey
    leaf_root: bytes
    tag_sum: bytes
    noise_left: float
    at: float


@dataclass(frozen=True, slots=True)
class OpeningFailed:
    """What was revealed interpolates to a wrong secret: the dealer's own signed commitments convict it. No dealer if
    what was decrypted is no sum that honest inputs add up to. `code`: which of these.
    """

    key: AttemptKey
    dealer: OrgId
    at: float
    code: str = "inconsistent_shares"


@dataclass(frozen=True, slots=True)
class SumProcessed:
    """What the strategy and the metrics make of an opened sum. `norm_code` is empty if the norm is plausible. `opened`:
    the blocks that were interpreted.
    """

    key: AttemptKey
    model_hash: bytes
    standardisation_hash: bytes
    loss: float | None
    accuracy: float | None
    auc: float | None
    rows: float | None
    norm_code: str
    at: float
    seed: Seed
    state_hash: bytes = b""
    opened: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """A new roster version is current; running attempts finish under theirs."""

    roster: Roster
    at: float


@dataclass(frozen=True, slots=True)
class AbortOrdered:
    """The operator ends the run."""

    at: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """The process started from its journal; the monotonic clock may have begun anew."""

    at: float


@dataclass(frozen=True, slots=True)
class Tick:
    """`deadline(state)` has passed."""

    at: float
    seed: Seed


Event = (
    Received
    | Heard
    | Connected
    | Disconnected
    | InputSpooled
    | UploadRefused
    | ProductReady
    | NoiseReady
    | SumReady
    | OpeningFailed
    | SumProcessed
    | RosterChanged
    | AbortOrdered
    | Resumed
    | Tick
)

# --- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Append this fact to the run's journal."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class Send:
    """Send on the session of `org_id`; dropped if there is none (it is sent again on the next `Connected`)."""

    org_id: OrgId
    message: CoordinatorMessage


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Answer the upload of `org_id` with this signed receipt."""

    org_id: OrgId
    receipt: SignedBlob


@dataclass(frozen=True, slots=True)
class MakeNoise:
    """Draw and encrypt the noise of the offer that `draft` is of; `NoiseReady`."""

    draft: Manifest


@dataclass(frozen=True, slots=True)
class MultiplyInputs:
    """Multiply the spooled inputs of the certified survivors, and the noise the manifest commits to; `ProductReady`."""

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class OpenSum:
    """Recover the seeds, add the spooled inputs of the survivors, remove the masks; under paillier combine the partial
    decryptions of the quorum; then `SumReady`.
    """

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class ProcessSum:
    """Decode the opened sum, apply the strategy, measure; then `SumProcessed`."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class DiscardInputs:
    """The spooled inputs of an attempt are no longer needed."""

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class KeepInputs:
    """The inputs of these survivors stay for whoever audits the sum of this attempt; older ones may go for them, and
    what else was spooled of the attempt goes. Under paillier the product and the answers of the `holders` in `quorum`
    stay too.
    """

    key: AttemptKey
    survivors: tuple[OrgId, ...]
    quorum: tuple[int, ...] = ()
    holders: tuple[OrgId, ...] = ()


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell whoever watches the run (operator, log): a closed kind and public facts."""

    kind: str
    facts: tuple[tuple[str, str], ...] = ()


Action = (
    Persist
    | Send
    | Acknowledge
    | MakeNoise
    | MultiplyInputs
    | OpenSum
    | ProcessSum
    | DiscardInputs
    | KeepInputs
    | Announce
)
