"""The wire format as tables: for each message its protobuf class and the rule of each field, in our own names.

A dataclass field and its protobuf field have the same name. Whoever adds a field adds it here, in `messages` and in
`proto/fedveil/v1/rounds.proto`; a test compares the three.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedveil.v1 import rounds_pb2 as pb

from fedveil_common import limits
from fedveil_common import messages as m
from fedveil_common.ids import AttemptKey
from fedveil_common.wire.fields import (
    ATTEMPT,
    BITS,
    CODE,
    CODE_OR_NONE,
    HASH,
    HASH_OR_NONE,
    LENGTH,
    MEMBERS,
    NAME,
    NAMES,
    PROTOCOLS,
    ROUND,
    SOME_NAMES,
    WORDS,
    Bytes,
    Choice,
    Flag,
    MalformedError,
    Many,
    Nested,
    Real,
    Rule,
    Scalars,
    Whole,
    one_of,
)

Table = dict[str, Rule]


def writer(table: Table) -> Callable[[Any, Any], None]:
    """Writes a dataclass into a protobuf message, field by field."""

    def write(message: Any, value: Any) -> None:
        message.SetInParent()
        for name, rule in table.items():
            rule.put(message, name, getattr(value, name))

    return write


def reader(kind: Callable[..., Any], table: Table) -> Callable[[Any, str], Any]:
    """Reads a protobuf message into `kind`; raises MalformedError with the path of the first wrong field."""

    def read(message: Any, path: str) -> Any:
        return kind(**{name: rule.get(message, name, f"{path}.{name}") for name, rule in table.items()})

    return read


def _nested(kind: Callable[..., Any], table: Table) -> Nested:
    return Nested(writer(table), reader(kind, table))


def _many(kind: Callable[..., Any], table: Table, most: int, least: int = 0, key: Any = None) -> Many:
    return Many(writer(table), reader(kind, table), most, least, key)


def _signer(blob: m.SignedBlob) -> str:
    return blob.signer_id


SIGNED_BLOB: Table = {
    "signer_id": NAME,
    "type": Choice(m.BlobType, pb.BlobType, "BLOB_TYPE_"),
    "body": Bytes(most=limits.MAX_BODY),
    "sig": Bytes((64,)),
}
KEY: Table = {"run_id": NAME, "round": ROUND, "attempt": ATTEMPT}
SUM_REF: Table = {"run_id": NAME, "round": ROUND, "result_hash": HASH}
BLOB = _nested(m.SignedBlob, SIGNED_BLOB)
BLOBS = _many(m.SignedBlob, SIGNED_BLOB, limits.MAX_MEMBERS, 0, _signer)
SOME_BLOBS = _many(m.SignedBlob, SIGNED_BLOB, limits.MAX_MEMBERS, 1, _signer)
UNSORTED_BLOBS = _many(m.SignedBlob, SIGNED_BLOB, limits.MAX_MEMBERS, 1)
"""For lists by one signer, and for votes: who signed twice is the reader's finding, not the parser's."""

ABORT_CERTIFICATE: Table = {"t0": HASH, "votes": UNSORTED_BLOBS}
KEY_FIELD = _nested(AttemptKey, KEY)
ENCRYPTION: Table = {
    "key_id": NAME,
    "epoch": Whole(0, 2**32 - 1),
    "fingerprint": HASH,
    "noise": HASH_OR_NONE,
    "noise_cap": Whole(0, 2**48),
}
AT_MOST_ONE_SUM = _many(m.SumRef, SUM_REF, 1)
SHARE = Bytes((33,))
NUMBER = Bytes(most=limits.MAX_NUMBER)
BLOCKS = Whole(1, limits.MAX_LEAVES)
WIDTH = Whole(1, limits.MAX_WIDTH)
HOLDERS = Scalars(lambda index: 0 <= index < limits.MAX_HOLDERS, "the index of a holder", limits.MAX_HOLDERS, 2)
PROVEN: Table = {
    "headers_hash": HASH,
    "bodies_hash": HASH,
    "commitment": NUMBER,
    "body_commitment": NUMBER,
    "response": NUMBER,
    "leaf_root": HASH,
}
"""What a header of ciphertexts ends with, whoever sends it."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """(whose, bytes) pairs in messages with the fields `whose` and `what`, sorted by whose and unique."""

    whose: str
    what: str
    rule: Bytes

    def put(self, message: Any, name: str, value: tuple[tuple[str, bytes], ...]) -> None:
        """See Rule."""
        for org, data in value:
            getattr(message, name).add(**{self.whose: org, self.what: data})

    def get(self, message: Any, name: str, path: str) -> tuple[tuple[str, bytes], ...]:
        """See Rule."""
        items = getattr(message, name)
        if len(items) > limits.MAX_MEMBERS:
            raise MalformedError(path, f"{len(items)} entries, not 0 to {limits.MAX_MEMBERS}")
        found = tuple(
            (
                NAME.get(item, self.whose, f"{path}[{i}].{self.whose}"),
                self.rule.get(item, self.what, f"{path}[{i}].{self.what}"),
            )
            for i, item in enumerate(items)
        )
        names = [org for org, _ in found]
        if names != sorted(set(names)):
            raise MalformedError(path, "entries are not sorted, or one stands twice")
        return found


SHARES_REVEALED = Pairs("dealer", "share", SHARE)
REMOVAL: Table = {
    "t2": HASH,
    "dealers": Whole(1, limits.MAX_MEMBERS),
    "links": Pairs("org_id", "link", Bytes((32,))),
}


BODIES: dict[m.BlobType, tuple[Any, type[Any], Table]] = {
    m.BlobType.MANIFEST: (
        pb.Manifest,
        m.Manifest,
        {
            "federation_id": NAME,
            "key": KEY_FIELD,
            "purpose": Choice(m.Purpose, pb.Purpose, "PURPOSE_"),
            "protection": one_of("masked", "paillier"),
            "plan_hash": HASH,
            "previous_manifest_hash": HASH_OR_NONE,
            "roster_version": Whole(1, 2**32 - 1),
            "roster_hash": HASH,
            "cohort": SOME_NAMES,
            "corrupt": MEMBERS,
            "quorum": MEMBERS,
            "threshold": MEMBERS,
            "min_survivors": MEMBERS,
            "graph": one_of("complete", "none"),
            "length": LENGTH,
            "ring_bits": BITS,
            "value_bits": Whole(2, 63),
            "update_norm": Real(),
            "leaf_coordinates": Whole(16_384, 16_384),
            "prg": one_of("AES256CTR", "none"),
            "noise": one_of("none", "participants", "coordinator"),
            "layout_hash": HASH,
            "dataset": NAME,
            "model_hash": HASH_OR_NONE,
            "query_digest": HASH_OR_NONE,
            "step": Whole(0, 2**31),
            "standardise": AT_MOST_ONE_SUM,
            "previous": AT_MOST_ONE_SUM,
            "progress_s": Real(),
            "hard_limit_s": Real(),
            "nonce": HASH,
            "abort_certificates": _many(m.AbortCertificate, ABORT_CERTIFICATE, limits.MAX_EARLIER_ATTEMPTS),
            "encryption": _many(m.Encryption, ENCRYPTION, 1),
        },
    ),
    m.BlobType.ADVERT: (
        pb.Advert,
        m.Advert,
        {
            "t0": HASH,
            "org_id": NAME,
            "mask_key": HASH,
            "channel_key": HASH,
            "selfseed_commit": HASH,
            "kappa_commit": HASH,
            "nonce": HASH,
        },
    ),
    m.BlobType.SHARE: (
        pb.ShareMsg,
        m.ShareMsg,
        {
            "t1": HASH,
            "dealer": NAME,
            "recipient": NAME,
            "key_share_commit": HASH,
            "self_share_commit": HASH,
            "nonce": Bytes((12,)),
            "ciphertext": Bytes((limits.SHARE_CIPHERTEXT,)),
        },
    ),
    m.BlobType.SHARE_ACK: (pb.ShareAck, m.ShareAck, {"t1": HASH, "org_id": NAME, "bad_dealers": NAMES}),
    m.BlobType.SHARE_OPENING: (
        pb.ShareOpening,
        m.ShareOpening,
        {"t1": HASH, "dealer": NAME, "recipient": NAME, "key_share": SHARE, "self_share": SHARE},
    ),
    m.BlobType.HEADER: (
        pb.Header,
        m.Header,
        {
            "t2": HASH,
            "org_id": NAME,
            "length": LENGTH,
            "ring_bits": BITS,
            "leaf_count": Whole(1, limits.MAX_LEAVES),
            "leaf_root": HASH,
            "tag_ok": Flag(),
            "masked_tag": Bytes((0, 8)),
            "noise_chain": HASH_OR_NONE,
        },
    ),
    m.BlobType.VOTE: (pb.Vote, m.Vote, {"t3": HASH}),
    m.BlobType.ABORT: (pb.AbortVote, m.AbortVote, {"t0": HASH, "attempt": ATTEMPT}),
    m.BlobType.ABORT_REQUEST: (pb.AbortRequest, m.AbortRequest, {"t0": HASH, "attempt": ATTEMPT, "reason": CODE}),
    m.BlobType.REVEAL: (
        pb.Reveal,
        m.Reveal,
        {
            "t3": HASH,
            "self_seed": Bytes((0, 32)),
            "self_shares": SHARES_REVEALED,
            "key_shares": SHARES_REVEALED,
            "noise_link": Bytes((0, 32)),
        },
    ),
    m.BlobType.RESULT: (
        pb.Result,
        m.Result,
        {
            "t3": HASH,
            "survivors": Whole(1, limits.MAX_MEMBERS),
            "length": LENGTH,
            "leaf_root": HASH,
            "tag_sum": Bytes((0, 8)),
            "noise_left": Real(zero=True),
            "product_root": HASH_OR_NONE,
            "removal": _many(m.Removal, REMOVAL, 1),
        },
    ),
    m.BlobType.RECEIPT: (
        pb.Receipt,
        m.Receipt,
        {"t0": HASH, "kind": Choice(m.ReceiptKind, pb.ReceiptKind, "RECEIPT_KIND_"), "digest": HASH},
    ),
    m.BlobType.KEY_ADVERT: (pb.KeyAdvert, m.KeyAdvert, {"t0": HASH, "org_id": NAME, "fingerprint": HASH}),
    m.BlobType.CIPHER_HEADER: (
        pb.CipherHeader,
        m.CipherHeader,
        {
            "t2": HASH,
            "org_id": NAME,
            "fingerprint": HASH,
            "length": LENGTH,
            "blocks": BLOCKS,
            "width": WIDTH,
            **PROVEN,
        },
    ),
    m.BlobType.PARTIAL: (
        pb.Partial,
        m.Partial,
        {
            "t3": HASH,
            "org_id": NAME,
            "quorum": HOLDERS,
            "commitment": NUMBER,
            "long_commitment": NUMBER,
            "response": NUMBER,
            "leaf_root": HASH,
        },
    ),
    m.BlobType.NOISE: (
        pb.Noise,
        m.Noise,
        {"nonce": HASH, "fingerprint": HASH, "blocks": BLOCKS, "width": WIDTH, **PROVEN},
    ),
}

DOCUMENT = Bytes(most=limits.MAX_DOCUMENT)

OUTWARD: dict[str, tuple[type[Any], Table]] = {
    "hello": (m.CoordinatorHello, {"software": WORDS, "protocols": PROTOCOLS, "federation_id": NAME}),
    "roster": (m.RosterNotice, {"signed_roster": DOCUMENT, "trust_chain": DOCUMENT}),
    "plan_offer": (m.PlanOffer, {"run_id": NAME, "canonical_plan": Bytes(most=limits.MAX_PLAN)}),
    "offer": (m.Offer, {"manifest": BLOB}),
    "key_set": (m.KeySet, {"t0": HASH, "adverts": SOME_BLOBS}),
    "share_delivery": (m.ShareDelivery, {"t1": HASH, "shares": BLOBS}),
    "opening_request": (m.OpeningRequest, {"t1": HASH, "complaints": SOME_BLOBS}),
    "share_set": (m.ShareSet, {"t1": HASH, "dealers": SOME_NAMES, "openings": BLOBS}),
    "proposal": (m.Proposal, {"t2": HASH, "headers": SOME_BLOBS}),
    "certificate": (m.Certificate, {"t3": HASH, "votes": UNSORTED_BLOBS}),
    "quorum_call": (m.QuorumCall, {"t3": HASH, "quorum": HOLDERS, "noise": _many(m.SignedBlob, SIGNED_BLOB, 1)}),
    "abort_order": (m.AbortOrder, {"request": BLOB}),
    "abort_notice": (m.AbortNotice, {"certificate": _nested(m.AbortCertificate, ABORT_CERTIFICATE)}),
    "result_notice": (m.ResultNotice, {"key": KEY_FIELD, "result": BLOB}),
    "receipt_notice": (m.ReceiptNotice, {"receipt": BLOB}),
    "run_ended": (
        m.RunEnded,
        {
            "run_id": NAME,
            "plan_hash": HASH,
            "code": CODE,
            "standardise": AT_MOST_ONE_SUM,
            "model": _many(m.SignedBlob, SIGNED_BLOB, 1),
        },
    ),
    "status": (m.StatusNotice, {"document": Bytes(most=limits.MAX_STATUS)}),
}
"""Coordinator -> participant, by the name of its case in SessionResponse."""

INWARD: dict[str, tuple[type[Any], Table]] = {
    "hello": (m.ParticipantHello, {"software": WORDS, "protocols": PROTOCOLS}),
    "plan_answer": (m.PlanAnswer, {"plan_hash": HASH, "accepted": Flag(), "code": CODE_OR_NONE}),
    "progress": (m.Progress, {"key": KEY_FIELD, "phase": Choice(m.Phase, pb.Phase, "PHASE_")}),
    "advert": (m.AdvertMessage, {"advert": BLOB}),
    "shares": (m.Shares, {"t1": HASH, "shares": UNSORTED_BLOBS}),
    "ack": (m.AckMessage, {"ack": BLOB}),
    "openings": (m.Openings, {"t1": HASH, "openings": UNSORTED_BLOBS}),
    "vote": (m.VoteMessage, {"vote": BLOB}),
    "abort": (m.AbortMessage, {"vote": BLOB}),
    "reveal": (m.RevealMessage, {"reveal": BLOB}),
    "refusal": (m.Refusal, {"key": KEY_FIELD, "code": CODE}),
    "run_ended_ack": (m.RunEndedAck, {"run_id": NAME}),
    "countersignature": (m.SignedBlob, SIGNED_BLOB),
}
"""Participant -> coordinator, by the name of its case in SessionRequest."""
