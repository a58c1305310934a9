"""What a signed blob says: the bodies of the round protocol as frozen values, checked for size, range and shape.

A body is never re-serialised in order to verify it: a signature is over bytes as received, and only then is the body
parsed (`wire.parse_body`). M0..M10 are the message numbers of FLSA/1 (docs/protocol.md, section 2.3). Ids in every list
are byte-sorted and unique; hashes are 32 bytes; rounds and attempts count from 1.
"""

import enum
from dataclasses import dataclass

from fedveil_common.ids import AttemptKey, FederationId, OrgId, RunId


class BlobType(enum.StrEnum):
    """The `type` of a signed blob: part of what is signed, so that no signature can stand for another message."""

    MANIFEST = "manifest"
    ADVERT = "advert"
    SHARE = "share"
    SHARE_ACK = "share_ack"
    SHARE_OPENING = "share_opening"
    HEADER = "header"
    VOTE = "vote"
    ABORT = "abort"
    ABORT_REQUEST = "abort_request"
    REVEAL = "reveal"
    RESULT = "result"
    RECEIPT = "receipt"
    MODEL = "model"
    INVITE = "invite"
    KEY_ADVERT = "key_advert"
    CIPHER_HEADER = "cipher_header"
    PARTIAL = "partial"
    NOISE = "noise"
    COUNTERSIGNATURE = "countersignature"
    STAGE = "stage"


class Purpose(enum.StrEnum):
    """What a secure sum is for; part of the spent key."""

    STANDARDISE = "standardise"
    STATISTICS = "statistics"
    EVALUATE = "evaluate"
    TRAIN = "train"


class Phase(enum.StrEnum):
    """Where a participant stands in an attempt, as it reports it."""

    TRAINING = "training"
    ADVERTISED = "advertised"
    SHARED = "shared"
    INPUT = "input"
    VOTED = "voted"
    REVEALED = "revealed"


@dataclass(frozen=True, slots=True)
class SignedBlob:
    """`sig` = Ed25519 over LP("FLSA/1/sig/"+type) || LP(signer_id) || LP(body); signer: an org id or "coordinator"."""

    signer_id: OrgId
    type: BlobType
    body: bytes
    sig: bytes


# --- bodies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AbortCertificate:
    """A8: at least N+c-q+1 abort votes of distinct cohort members over `t0`. Frees the update of that attempt."""

    t0: bytes
    votes: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class SumRef:
    """Points at an opened sum: where it was made and the digest H("result", body) of its signed Result body."""

    run_id: RunId
    round: int
    result_hash: bytes


@dataclass(frozen=True, slots=True)
class Encryption:
    """Under which key the inputs of an attempt are encrypted: `fingerprint` is that of docs/paillier.md, section 2.

    `noise`: SHA-256 of the body of the coordinator's signed Noise, made before any input exists; empty for none.
    `noise_cap`: W_c, the largest absolute value that it adds to a coordinate; 0 without.
    """

    key_id: str
    epoch: int
    fingerprint: bytes
    noise: bytes
    noise_cap: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """M0: everything an attempt is about, signed by the coordinator; T0 = H("T0", body).

    `model_hash` is empty for purpose standardise; for the others `query_digest` is the hash of the strategy's moments
    beside that model, empty for a strategy without. `step` counts the model steps that went before (0 in the first
    train round). `standardise` names the sum behind the standardisation (empty tuple: none), `previous` the last opened
    train sum of this run (empty tuple before the first). `update_norm` in units of the update; `progress_s`,
    `hard_limit_s` in seconds on the receiver's monotonic clock. `encryption`: one under protection paillier, else none;
    there `ring_bits` is the ring of the opened sum, and `graph` and `prg` are "none".
    """

    federation_id: FederationId
    key: AttemptKey
    purpose: Purpose
    protection: str
    plan_hash: bytes
    previous_manifest_hash: bytes
    roster_version: int
    roster_hash: bytes
    cohort: tuple[OrgId, ...]
    corrupt: int
    quorum: int
    threshold: int
    min_survivors: int
    graph: str
    length: int
    ring_bits: int
    value_bits: int
    update_norm: float
    leaf_coordinates: int
    prg: str
    noise: str
    layout_hash: bytes
    dataset: str
    model_hash: bytes
    query_digest: bytes
    step: int
    standardise: tuple[SumRef, ...]
    previous: tuple[SumRef, ...]
    progress_s: float
    hard_limit_s: float
    nonce: bytes
    abort_certificates: tuple[AbortCertificate, ...]
    encryption: tuple[Encryption, ...] = ()


@dataclass(frozen=True, slots=True)
class Advert:
    """M1: a participant's fresh public keys for one attempt; it means "my update is ready"."""

    t0: bytes
    org_id: OrgId
    mask_key: bytes
    channel_key: bytes
    selfseed_commit: bytes
    kappa_commit: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class ShareMsg:
    """M3: the shares `dealer` deals to `recipient`, encrypted for it; commitments to each share in clear."""

    t1: bytes
    dealer: OrgId
    recipient: OrgId
    key_share_commit: bytes
    self_share_commit: bytes
    nonce: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class ShareAck:
    """M4b: `org_id` has opened what was forwarded under `t1`; `bad_dealers` sent it something unusable."""

    t1: bytes
    org_id: OrgId
    bad_dealers: tuple[OrgId, ...]


@dataclass(frozen=True, slots=True)
class ShareOpening:
    """M4c: `dealer` answers the complaint of `recipient` by opening both shares in public (33 bytes each)."""

    t1: bytes
    dealer: OrgId
    recipient: OrgId
    key_share: bytes
    self_share: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """M5: the signed commitment to a masked input. `masked_tag` is empty where `tag_ok` is False; `noise_chain`: the
    end of the chain that seeds of its noise come from, empty where there are none (`noise_links`).
    """

    t2: bytes
    org_id: OrgId
    length: int
    ring_bits: int
    leaf_count: int
    leaf_root: bytes
    tag_ok: bool
    masked_tag: bytes
    noise_chain: bytes = b""


@dataclass(frozen=True, slots=True)
class KeyAdvert:
    """M1 under protection paillier: "my update is ready", and which key it would be encrypted under. No key is made."""

    t0: bytes
    org_id: OrgId
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class CipherHeader:
    """M5 under protection paillier: the signed commitment to `blocks` blocks of `width` ciphertexts, with the proof P1.

    `headers_hash`: over c_1..c_B (`paillier.block_leaves`); `bodies_hash`: SHA-256 over the bodies; `commitment`,
    `body_commitment`: T and T' mod n, `response`: z, all big-endian. One leaf a block: c_b, C_b, bodies.
    """

    t2: bytes
    org_id: OrgId
    fingerprint: bytes
    length: int
    blocks: int
    width: int
    headers_hash: bytes
    bodies_hash: bytes
    commitment: bytes
    body_commitment: bytes
    response: bytes
    leaf_root: bytes


@dataclass(frozen=True, slots=True)
class Noise:
    """The coordinator's own noise as ciphertexts (P5): a header as a participant's, bound to the offer by its nonce."""

    nonce: bytes
    fingerprint: bytes
    blocks: int
    width: int
    headers_hash: bytes
    bodies_hash: bytes
    commitment: bytes
    body_commitment: bytes
    response: bytes
    leaf_root: bytes


@dataclass(frozen=True, slots=True)
class Vote:
    """M7: agreement to open exactly the set of inputs behind `t3`."""

    t3: bytes


@dataclass(frozen=True, slots=True)
class AbortVote:
    """M7, the other way: this attempt shall never open."""

    t0: bytes
    attempt: int


@dataclass(frozen=True, slots=True)
class AbortRequest:
    """The coordinator's signed wish to end an attempt; `reason` is a closed code."""

    t0: bytes
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reveal:
    """M9: what a participant releases after a certificate. `self_seed` is empty unless the revealer is a survivor.

    `self_shares`: (dealer, share of its self seed) for the other survivors; `key_shares`: (dealer, share of its mask
    key) for those that shared and did not survive. Never both for one dealer. `noise_link`: of a survivor, the link
    from which the components of its noise that are to leave the sum are made; empty if none is.
    """

    t3: bytes
    self_seed: bytes
    self_shares: tuple[tuple[OrgId, bytes], ...]
    key_shares: tuple[tuple[OrgId, bytes], ...]
    noise_link: bytes = b""


@dataclass(frozen=True, slots=True)
class Partial:
    """M9 under protection paillier: one holder's partial decryptions in one quorum, with the proof P3.

    `quorum`: the holders that answer together, by index, ascending; `commitment` T1 mod n, `long_commitment` T2 mod
    n^(s+1), `response` z, big-endian. One leaf a block: D_b,1 .. D_b,width.
    """

    t3: bytes
    org_id: OrgId
    quorum: tuple[int, ...]
    commitment: bytes
    long_commitment: bytes
    response: bytes
    leaf_root: bytes


@dataclass(frozen=True, slots=True)
class Removal:
    """What settles a sum with its members' noise: `dealers` is |U2|; `links` holds (survivor, what it showed), of those
    who showed a link. Whoever has it takes the components out that no dropout used up (`member_noise.settled`).
    """

    t2: bytes
    dealers: int
    links: tuple[tuple[OrgId, bytes], ...]


@dataclass(frozen=True, slots=True)
class Result:
    """M10: the opened sum, by its leaf root. `tag_sum` is empty where there is no tag; `noise_left`: the variance of
    the noise in it once it is settled, grid units squared, 0 for an exact sum. `product_root`: under protection
    paillier, the leaf root of the product of the inputs; else empty. `removal`: at most one, where noise may leave.
    """

    t3: bytes
    survivors: int
    length: int
    leaf_root: bytes
    tag_sum: bytes
    noise_left: float
    product_root: bytes = b""
    removal: tuple[Removal, ...] = ()


class ReceiptKind(enum.StrEnum):
    """What a receipt acknowledges."""

    INPUT = "input"
    REVEAL = "reveal"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A19: the coordinator's signed acknowledgement; `digest` = SHA-256 of the leaf root or of the reveal's body."""

    t0: bytes
    kind: ReceiptKind
    digest: bytes


Body = (
    Manifest
    | Advert
    | ShareMsg
    | ShareAck
    | ShareOpening
    | Header
    | Vote
    | AbortVote
    | AbortRequest
    | Reveal
    | Result
    | Receipt
    | KeyAdvert
    | CipherHeader
    | Partial
    | Noise
)
"""Bodies in protobuf. Those of types `model`, `invite`, `countersignature` and `stage` are RFC 8785 JSON (see
`modelfile`, `roster`, `registry`).
"""

BODY_TYPES: dict[BlobType, type[Body]] = {
    BlobType.MANIFEST: Manifest,
    BlobType.ADVERT: Advert,
    BlobType.SHARE: ShareMsg,
    BlobType.SHARE_ACK: ShareAck,
    BlobType.SHARE_OPENING: ShareOpening,
    BlobType.HEADER: Header,
    BlobType.VOTE: Vote,
    BlobType.ABORT: AbortVote,
    BlobType.ABORT_REQUEST: AbortRequest,
    BlobType.REVEAL: Reveal,
    BlobType.RESULT: Result,
    BlobType.RECEIPT: Receipt,
    BlobType.KEY_ADVERT: KeyAdvert,
    BlobType.CIPHER_HEADER: CipherHeader,
    BlobType.PARTIAL: Partial,
    BlobType.NOISE: Noise,
}
