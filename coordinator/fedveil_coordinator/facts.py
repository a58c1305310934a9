"""What has happened in a run, as the coordinator's journal keeps it: an append-only list of facts.

A run's state is the fold of its facts (`run.apply`), so a restart is a replay. A fact is written before anything that
follows from it is sent. Facts hold signed blobs as received; before a reveal none of them is a secret.
"""

from dataclasses import dataclass

from fedveil_common.ids import OrgId
from fedveil_common.messages import SignedBlob, SumRef
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.snapshot import SnapshotCodec


@dataclass(frozen=True, slots=True)
class RunOpened:
    """The run exists; `answer` points at an earlier sum that already answers the standardise query, if there is one.
    `key`: under which inputs are encrypted, one under protection paillier.
    """

    canonical_plan: bytes
    answer: tuple[SumRef, ...]
    key: tuple[KeyUse, ...] = ()


@dataclass(frozen=True, slots=True)
class Offered:
    """M0 is signed; the attempt is the one its key names. `noise`: the coordinator's own that it commits to, signed."""

    manifest: SignedBlob
    noise: tuple[SignedBlob, ...] = ()


@dataclass(frozen=True, slots=True)
class AdvertAccepted:
    """M1 of one member."""

    advert: SignedBlob


@dataclass(frozen=True, slots=True)
class KeySetFrozen:
    """U1, fixed before the key set was first sent."""

    members: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class SharesAccepted:
    """The complete ShareMsg set of one dealer."""

    dealer: OrgId
    shares: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class SharesDelivered:
    """Whose sets were complete when they were forwarded."""

    dealers: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class AckAccepted:
    """M4b of one member."""

    ack: SignedBlob


@dataclass(frozen=True, slots=True)
class OpeningsAccepted:
    """M4c: how one dealer answered complaints."""

    dealer: OrgId
    openings: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class DealersFrozen:
    """U2, fixed before the share set was first sent."""

    dealers: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class InputAccepted:
    """A header whose leaves are all verified and durable in the spool."""

    header: SignedBlob


@dataclass(frozen=True, slots=True)
class Proposed:
    """U3, fixed before the proposal was first sent."""

    survivors: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class VoteAccepted:
    """M7 of one member."""

    vote: SignedBlob


@dataclass(frozen=True, slots=True)
class Certified:
    """M8: the voters whose votes make the certificate."""

    voters: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class ProductMade:
    """The product of the certified inputs is durable, with the coordinator's noise if there is one; its leaf root."""

    noise: tuple[SignedBlob, ...]
    root: bytes


@dataclass(frozen=True, slots=True)
class QuorumCalled:
    """These holders, by index, were chosen to answer; fixed before they were first asked."""

    quorum: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RevealAccepted:
    """M9 of one member: every share in it matches its dealer's commitments; under paillier, its proof was checked and
    its leaves are durable.
    """

    reveal: SignedBlob


@dataclass(frozen=True, slots=True)
class OpeningStarted:
    """Enough is revealed; the sum is being computed. Names whose reveals were used."""

    revealers: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class SumOpened:
    """The sum is durable on disk and its Result signed."""

    result: SignedBlob


@dataclass(frozen=True, slots=True)
class AbortStarted:
    """The coordinator asks for abort votes; `reason` is a closed code, `missing` whom the attempt lacked."""

    reason: str
    missing: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class AbortVoteAccepted:
    """An abort vote of one member."""

    vote: SignedBlob


@dataclass(frozen=True, slots=True)
class AbortCertified:
    """The voters whose abort votes make the certificate."""

    voters: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class AttemptDied:
    """The attempt can neither open nor be certified as aborted: its updates are spent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Excluded:
    """A member broke the protocol in this attempt; the blobs are the evidence."""

    org_id: OrgId
    code: str
    evidence: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class SumApplied:
    """What the opened sum came to: the next model (empty hash: none), metrics of the model that was received.

    `state_hash`: of the strategy's moments beside that model; empty for a strategy without. `opened`: the blocks that
    were interpreted, and how many coordinates each had.
    """

    model_hash: bytes
    standardisation_hash: bytes
    loss: float | None
    accuracy: float | None
    auc: float | None
    rows: float | None
    rejected: str
    state_hash: bytes = b""
    opened: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over: `finished` or an error code; the signed model manifest, if there is a model; who was missing and
    how it had answered (empty: not at all), where the run waited for more participants than came.
    """

    code: str
    model: tuple[SignedBlob, ...]
    missing: tuple[tuple[OrgId, str], ...] = ()


Fact = (
    RunOpened
    | Offered
    | AdvertAccepted
    | KeySetFrozen
    | SharesAccepted
    | SharesDelivered
    | AckAccepted
    | OpeningsAccepted
    | DealersFrozen
    | InputAccepted
    | Proposed
    | VoteAccepted
    | Certified
    | ProductMade
    | QuorumCalled
    | RevealAccepted
    | OpeningStarted
    | SumOpened
    | AbortStarted
    | AbortVoteAccepted
    | AbortCertified
    | AttemptDied
    | Excluded
    | SumApplied
    | Ended
)

_KINDS: dict[str, type[Fact]] = {cls.__name__: cls for cls in Fact.__args__}
_CODEC = SnapshotCodec(_KINDS)


def kind_of(fact: Fact) -> str:
    """The name under which a fact is journaled."""
    return type(fact).__name__


def encode(fact: Fact) -> bytes:
    """A fact as JSON bytes, bytes fields in base64."""
    return _CODEC.encode(fact)


def decode(kind: str, body: bytes) -> Fact:
    """The fact written by `encode`; IntegrityError `journal_damaged` if the journal does not hold one."""
    return _CODEC.decode(kind, body)
