"""The stages of one attempt at a participant, each holding only what that stage may know.

A secret that must not exist after a step does not exist in the class that follows it: the journal replaces the stored
stage in one transaction, so moving on erases. Source: FLSA/1 section 2.9 with A9 and A10 (docs/protocol.md).

    Idle -> Preparing -> Advertised -> Shared -> Acked -> Encoding -> Inputting -> Voted -> Revealed -> Idle
    Idle -> Preparing -> Announced -> Encrypting -> Submitted -> Voted -> Decrypting -> Idle    (under paillier)
    (every stage before a vote) -> AbortVoted -> Idle
"""

from dataclasses import dataclass

from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.messages import Manifest, SignedBlob
from fedveil_common.secret import PrivateKey, Seed, Share

from fedveil_participant.events import SpentKey


@dataclass(frozen=True, slots=True)
class Frame:
    """What every stage of an attempt knows: the manifest it is about, in bytes and parsed, and when it came.

    `spent_key` names the question (model or query), `update_key` the plan's step that asks it; a header spends both.
    """

    manifest_blob: SignedBlob
    manifest: Manifest
    t0: bytes
    spent_key: SpentKey
    update_key: SpentKey
    received_at: float

    @property
    def key(self) -> AttemptKey:
        """Which attempt this is."""
        return self.manifest.key

    @property
    def spends(self) -> tuple[SpentKey, SpentKey]:
        """What a header under this manifest spends."""
        return self.spent_key, self.update_key


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """The public keys and the kappa commitment in one member's advert."""

    org_id: OrgId
    mask_key: bytes
    channel_key: bytes
    kappa_commit: bytes


@dataclass(frozen=True, slots=True)
class Dealt:
    """The shares this participant dealt to one recipient, kept to answer that recipient's complaint."""

    recipient: OrgId
    key_share: Share
    self_share: Share


@dataclass(frozen=True, slots=True)
class Held:
    """The shares of one dealer held here. `kappa`: its part of the checksum key, until that key is made; empty if the
    shares came in a public opening, which does not tell it.
    """

    dealer: OrgId
    key_share: Share
    self_share: Share
    kappa: tuple[Seed, ...] = ()


@dataclass(frozen=True, slots=True)
class Idle:
    """No attempt is open."""


@dataclass(frozen=True, slots=True)
class Preparing:
    """The manifest passed every check; the update is being computed. Nothing was sent."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Advertised:
    """The update is stored; fresh keys exist and their advert may be out."""

    frame: Frame
    advert: SignedBlob
    mask_key: PrivateKey
    channel_key: PrivateKey
    self_seed: Seed
    kappa: Seed


@dataclass(frozen=True, slots=True)
class Shared:
    """T1 is fixed; every ShareMsg is made and may be out."""

    frame: Frame
    t1: bytes
    peers: tuple[PeerKeys, ...]
    mask_key: PrivateKey
    channel_key: PrivateKey
    self_seed: Seed
    kappa: Seed
    shares: tuple[SignedBlob, ...]
    dealt: tuple[Dealt, ...]


@dataclass(frozen=True, slots=True)
class Acked:
    """The shares dealt to me are opened (the channel key is gone) and acknowledged, with complaints if any."""

    frame: Frame
    t1: bytes
    peers: tuple[PeerKeys, ...]
    mask_key: PrivateKey
    self_seed: Seed
    kappa: Seed
    dealt: tuple[Dealt, ...]
    held: tuple[Held, ...]
    deliveries: tuple[SignedBlob, ...]
    ack: SignedBlob
    openings: tuple[SignedBlob, ...]


@dataclass(frozen=True, slots=True)
class Encoding:
    """T2 is fixed; the masked input is being written. No header exists yet. `tag_key`: the checksum key of the dealers,
    here and in the stages that follow; empty if a dealer's part of it is not known here.
    """

    frame: Frame
    t1: bytes
    t2: bytes
    peers: tuple[PeerKeys, ...]
    mask_key: PrivateKey
    self_seed: Seed
    rounding: Seed
    held: tuple[Held, ...]
    tag_key: tuple[Seed, ...]


@dataclass(frozen=True, slots=True)
class Inputting:
    """The masked input is durable and its header may be out: the update is spent. The mask key is gone. `noise`: the
    links of its noise's chain, here and in the next stage; empty where the noise has no components.
    """

    frame: Frame
    t2: bytes
    dealers: tuple[OrgId, ...]
    self_seed: Seed
    held: tuple[Held, ...]
    tag_key: tuple[Seed, ...]
    header: SignedBlob
    leaf_hashes: tuple[bytes, ...]
    noise: tuple[Seed, ...] = ()


@dataclass(frozen=True, slots=True)
class Voted:
    """One vote, for one T3, for ever. `self_seed` is empty unless this participant is a survivor. Under paillier it has
    no secrets of a dealer; `headers`: of the survivors, which a holder multiplies; `own`: for the nonces of its proofs.
    """

    frame: Frame
    t2: bytes
    t3: bytes
    dealers: tuple[OrgId, ...]
    survivors: tuple[OrgId, ...]
    self_seed: tuple[Seed, ...]
    held: tuple[Held, ...]
    tag_key: tuple[Seed, ...]
    vote: SignedBlob
    headers: tuple[SignedBlob, ...] = ()
    own: tuple[Seed, ...] = ()
    noise: tuple[Seed, ...] = ()


@dataclass(frozen=True, slots=True)
class Revealed:
    """The certificate was valid; the reveal may be out. It is kept until the Result or seven days."""

    frame: Frame
    t3: bytes
    survivors: tuple[OrgId, ...]
    tag_key: tuple[Seed, ...]
    reveal: SignedBlob
    revealed_at: float


@dataclass(frozen=True, slots=True)
class Announced:
    """The update is stored; the advert that names the key may be out. There are no keys of this attempt."""

    frame: Frame
    advert: SignedBlob


@dataclass(frozen=True, slots=True)
class Encrypting:
    """T2 is fixed; the encrypted input is being written. No header exists yet: a restart encrypts anew."""

    frame: Frame
    t2: bytes
    members: tuple[OrgId, ...]
    rounding: Seed
    own: Seed


@dataclass(frozen=True, slots=True)
class Submitted:
    """The encrypted input is durable and its header may be out: the update is spent."""

    frame: Frame
    t2: bytes
    members: tuple[OrgId, ...]
    own: Seed
    header: SignedBlob
    leaf_hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a holder answered in one quorum: signed, durable, said again in the same bytes."""

    quorum: tuple[int, ...]
    partial: SignedBlob
    leaf_hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Decrypting:
    """The certificate was valid: what is behind `t3` may be opened, and nothing else of this attempt ever. `called`: in
    which quorum this holder is to answer (empty: none); `quorums`: all in which it was ever called; `answers`: those it
    gave; `failures`: of what it was to open.
    """

    frame: Frame
    t3: bytes
    survivors: tuple[OrgId, ...]
    headers: tuple[SignedBlob, ...]
    own: Seed
    certified_at: float
    called: tuple[int, ...] = ()
    quorums: tuple[tuple[int, ...], ...] = ()
    noise: tuple[SignedBlob, ...] = ()
    answers: tuple[Answer, ...] = ()
    failures: int = 0


@dataclass(frozen=True, slots=True)
class AbortVoted:
    """This participant asked that the attempt shall never open; it refuses any certificate. All keys are gone."""

    frame: Frame
    vote: SignedBlob
    spent: bool


Masked = Advertised | Shared | Acked | Encoding | Inputting
Encrypted = Announced | Encrypting | Submitted
BeforeVote = Preparing | Masked | Encrypted
"""The stages in which nothing was agreed to yet: an abort vote is still free."""

Working = Preparing | Encoding | Encrypting
"""The stages in which the update is worked on."""

Certain = Revealed | Decrypting
"""The stages that know a certificate."""

OpenStage = BeforeVote | Voted | Revealed | Decrypting | AbortVoted
Stage = Idle | OpenStage

STAGES: dict[str, type[OpenStage]] = {
    cls.__name__: cls
    for cls in (
        *(Preparing, Advertised, Shared, Acked, Encoding, Inputting, Voted, Revealed, AbortVoted),
        *(Announced, Encrypting, Submitted, Decrypting),
    )
}
"""Every stored stage by the name under which the journal keeps it."""
