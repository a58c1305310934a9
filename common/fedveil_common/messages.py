"""What the two sides say to each other, as frozen values already checked for size, range and shape.

Three layers:
1. `SignedBlob`: bytes as received, with their signer. Signatures are verified over these bytes, and only then is the
   body parsed.
2. Bodies (`bodies`: `Manifest` ... `Result`): what a signed blob of one type says.
3. Envelopes (`CoordinatorMessage`, `ParticipantMessage`): what travels on a session; `wire.encode_*` / `wire.parse_*`.

Names follow the word list. Ids in every list are byte-sorted and unique; hashes are 32 bytes.
"""

from dataclasses import dataclass

from fedveil_common.bodies import (
    BODY_TYPES,
    AbortCertificate,
    AbortRequest,
    AbortVote,
    Advert,
    BlobType,
    Body,
    CipherHeader,
    Encryption,
    Header,
    KeyAdvert,
    Manifest,
    Noise,
    Partial,
    Phase,
    Purpose,
    Receipt,
    ReceiptKind,
    Removal,
    Result,
    Reveal,
    ShareAck,
    ShareMsg,
    ShareOpening,
    SignedBlob,
    SumRef,
    Vote,
)
from fedveil_common.ids import AttemptKey, FederationId, OrgId, RunId

# --- coordinator -> participant ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoordinatorHello:
    """First message of a session: who runs what, and which roster version is current."""

    software: str
    protocols: tuple[int, ...]
    federation_id: FederationId


@dataclass(frozen=True, slots=True)
class RosterNotice:
    """A roster version with its governance signatures (`roster.SignedRoster` as bytes) and the trust chain as bytes."""

    signed_roster: bytes
    trust_chain: bytes


@dataclass(frozen=True, slots=True)
class PlanOffer:
    """The canonical bytes of a plan that run `run_id` would execute; hashed as received."""

    run_id: RunId
    canonical_plan: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """M0."""

    manifest: SignedBlob


@dataclass(frozen=True, slots=True)
class KeySet:
    """M2: all adverts of an attempt. U1 = their signers."""

    t0: bytes
    adverts: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class ShareDelivery:
    """M4a: the ShareMsgs addressed to the receiver, one per dealer whose set arrived complete."""

    t1: bytes
    shares: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class OpeningRequest:
    """The signed acks that complain about the receiver's shares."""

    t1: bytes
    complaints: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class ShareSet:
    """M4: U2, and the openings by which dealers answered the receiver's own complaints."""

    t1: bytes
    dealers: tuple[OrgId, ...]
    openings: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """M6: all headers of the proposed survivors. U3 = their signers."""

    t2: bytes
    headers: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """M8: at least q votes over one T3 by distinct members of U2."""

    t3: bytes
    votes: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class QuorumCall:
    """M8 under protection paillier: the product of the certified inputs is there; these holders answer, by index.

    `noise`: the coordinator's signed Noise, if the manifest commits to one.
    """

    t3: bytes
    quorum: tuple[int, ...]
    noise: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class AbortOrder:
    """The coordinator's signed AbortRequest."""

    request: SignedBlob


@dataclass(frozen=True, slots=True)
class AbortNotice:
    """An abort certificate over the receiver's attempt."""

    certificate: AbortCertificate


@dataclass(frozen=True, slots=True)
class ResultNotice:
    """M10, signed."""

    key: AttemptKey
    result: SignedBlob


@dataclass(frozen=True, slots=True)
class ReceiptNotice:
    """A signed Receipt."""

    receipt: SignedBlob


@dataclass(frozen=True, slots=True)
class StatusNotice:
    """The status list in force, as its file (`registry.status`); nothing in it is believed yet."""

    document: bytes


@dataclass(frozen=True, slots=True)
class RunEnded:
    """How a run ended: `code` is `finished` or an error code; the signed model manifest if there is a final model, and
    the sum behind its standardisation (empty tuple: none).
    """

    run_id: RunId
    plan_hash: bytes
    code: str
    standardise: tuple[SumRef, ...]
    model: tuple[SignedBlob, ...]


CoordinatorMessage = (
    CoordinatorHello
    | RosterNotice
    | PlanOffer
    | Offer
    | KeySet
    | ShareDelivery
    | OpeningRequest
    | ShareSet
    | Proposal
    | Certificate
    | QuorumCall
    | AbortOrder
    | AbortNotice
    | ResultNotice
    | ReceiptNotice
    | RunEnded
    | StatusNotice
)


# --- participant -> coordinator ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParticipantHello:
    """First message of a session."""

    software: str
    protocols: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """Whether the participant will take part in runs of this plan; `code` is a closed code when it will not."""

    plan_hash: bytes
    accepted: bool
    code: str


@dataclass(frozen=True, slots=True)
class Progress:
    """I am alive and at work on this attempt; sent every progress_s/3."""

    key: AttemptKey
    phase: Phase


@dataclass(frozen=True, slots=True)
class AdvertMessage:
    """M1, signed."""

    advert: SignedBlob


@dataclass(frozen=True, slots=True)
class Shares:
    """M3 for every other member of U1, each signed."""

    t1: bytes
    shares: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class AckMessage:
    """M4b, signed."""

    ack: SignedBlob


@dataclass(frozen=True, slots=True)
class Openings:
    """M4c, one signed opening per complaint."""

    t1: bytes
    openings: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class VoteMessage:
    """M7: a signed Vote."""

    vote: SignedBlob


@dataclass(frozen=True, slots=True)
class AbortMessage:
    """M7: a signed AbortVote."""

    vote: SignedBlob


@dataclass(frozen=True, slots=True)
class RevealMessage:
    """M9, signed."""

    reveal: SignedBlob


@dataclass(frozen=True, slots=True)
class Refusal:
    """The participant will not go on in this attempt; `code` is a closed code without counts or names."""

    key: AttemptKey
    code: str


@dataclass(frozen=True, slots=True)
class RunEndedAck:
    """The end of the run, and its model if there is one, is verified and stored here."""

    run_id: RunId


ParticipantMessage = (
    ParticipantHello
    | PlanAnswer
    | Progress
    | AdvertMessage
    | Shares
    | AckMessage
    | Openings
    | VoteMessage
    | AbortMessage
    | RevealMessage
    | Refusal
    | RunEndedAck
    | SignedBlob
)

__all__ = [
    "BODY_TYPES",
    "AbortCertificate",
    "AbortMessage",
    "AbortNotice",
    "AbortOrder",
    "AbortRequest",
    "AbortVote",
    "AckMessage",
    "Advert",
    "AdvertMessage",
    "BlobType",
    "Body",
    "Certificate",
    "CipherHeader",
    "CoordinatorHello",
    "CoordinatorMessage",
    "Encryption",
    "Header",
    "KeyAdvert",
    "KeySet",
    "Manifest",
    "Noise",
    "Offer",
    "OpeningRequest",
    "Openings",
    "Partial",
    "ParticipantHello",
    "ParticipantMessage",
    "Phase",
    "PlanAnswer",
    "PlanOffer",
    "Progress",
    "Proposal",
    "Purpose",
    "QuorumCall",
    "Receipt",
    "ReceiptKind",
    "ReceiptNotice",
    "Refusal",
    "Removal",
    "Result",
    "ResultNotice",
    "Reveal",
    "RevealMessage",
    "RosterNotice",
    "RunEnded",
    "RunEndedAck",
    "ShareAck",
    "ShareDelivery",
    "ShareMsg",
    "ShareOpening",
    "ShareSet",
    "Shares",
    "SignedBlob",
    "StatusNotice",
    "SumRef",
    "Vote",
    "VoteMessage",
]
