"""An opened round as the coordinator publishes it, and the proof that it is the round that was certified.

Promise: what `verify` returns follows from signatures of the roster's members alone: their adverts, headers, votes and
reveals, bound to each other by T0..T3. Nobody learns from it more than the coordinator knew after the certificate: the
sum, and for each member one of its two secrets. `verify` is for protection masked; what holds whatever the protection
is shared with `published_cipher`, which has the other. Source: FLSA/1 sections 2.2, 2.7, 4.2 (docs/protocol.md).
"""

import contextlib
import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fedveil_common import noise_links, transcript, wire
from fedveil_common.crypto import signing
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking import opening, quorum
from fedveil_common.messages import (
    Advert,
    BlobType,
    Body,
    Header,
    Manifest,
    Removal,
    Result,
    Reveal,
    SignedBlob,
    Vote,
)
from fedveil_common.roster import Roster

T = TypeVar("T", bound=Body)


class LeafKind(enum.Enum):
    """Whose leaves are asked for: every survivor's input (and the noise); the product; each holder's answer."""

    INPUT = "input"
    PRODUCT = "product"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class PublishedRound:
    """Everything about an opened round but its leaves. All but the roster are public to the federation's members.

    `signed_roster`: the roster version the manifest binds. `adverts`: of U1; `dealers`: U2; `headers`: of U3; `votes`:
    the certificate; `reveals`: those the sum was opened with; `leaf_hashes`: of each survivor's protected input.

    Under paillier the blobs are of that protection's types, `dealers` is U1, `reveals` are the answers of the quorum,
    and besides there are: `noise`, at most one, whose leaf hashes stand under "coordinator"; the leaf hashes of the
    product, and of each answer; terms and record of the key. Under masked all of these are empty.
    """

    manifest: SignedBlob
    result: SignedBlob
    signed_roster: bytes
    adverts: tuple[SignedBlob, ...]
    dealers: tuple[OrgId, ...]
    headers: tuple[SignedBlob, ...]
    votes: tuple[SignedBlob, ...]
    reveals: tuple[SignedBlob, ...]
    leaf_hashes: Mapping[OrgId, tuple[bytes, ...]]
    product_hashes: tuple[bytes, ...] = ()
    partial_hashes: Mapping[OrgId, tuple[bytes, ...]] = field(default_factory=dict)
    key_terms: bytes = b""
    key_record: bytes = b""
    noise: tuple[SignedBlob, ...] = ()

    def hashes(self, kind: LeafKind) -> Mapping[OrgId, tuple[bytes, ...]]:
        """Whose leaves of a kind there are, and their hashes in order; nobody's where the protection has none."""
        match kind:
            case LeafKind.INPUT:
                return self.leaf_hashes
            case LeafKind.PRODUCT:
                return {COORDINATOR: self.product_hashes} if self.product_hashes else {}
            case LeafKind.PARTIAL:
                return self.partial_hashes


@dataclass(frozen=True, slots=True)
class Proven:
    """A published round under masked that was verified. `tag_sum`: what the headers' tags come to; empty if a header
    voids it.
    """

    manifest: Manifest
    result: Result
    t2: bytes
    unmasking: opening.Unmasking
    leaf_hashes: Mapping[OrgId, tuple[bytes, ...]]
    tag_sum: bytes


def verify(published: PublishedRound, roster: Roster, stated_corrupt: int = 1) -> Proven:
    """The round, if every part of it is proved by the members of `roster`, which is the version the manifest binds.

    Whoever looks at it may not have been there: cohort and quorum are held to the same formulas as before an advert
    (2.1, A1), with `stated_corrupt` from the plan where it is known. Else a few corrupt members would certify whatever
    they like under a manifest of their own.

    Raises PeerError `round_not_proved`: what was published is not the record of a certified round.
    """
    with proving():
        return _verify(published, roster, stated_corrupt)


def protection_of(published: PublishedRound) -> str:
    """Which protection the manifest names: who verifies the round by that one trusts nothing. `round_not_proved`."""
    with proving():
        manifest = wire.parse_body(BlobType.MANIFEST, published.manifest.body)
    assert isinstance(manifest, Manifest), "the wire's table maps a blob type to one body"
    return manifest.protection


@contextlib.contextmanager
def proving() -> Iterator[None]:
    """Whatever is wrong within is wrong with what was published: PeerError `round_not_proved`."""
    try:
        yield
    except FedveilError as error:
        if error.code == "round_not_proved":
            raise
        raise not_proved(f"{error.what} ({error.code})") from error


def agreed(published: PublishedRound, protection: str, roster: Roster, stated_corrupt: int) -> tuple[Manifest, Result]:
    """What the coordinator signed of a round under `protection`, for a cohort and quorum that may stand."""
    signing.verify(published.manifest, roster.coordinator_key, BlobType.MANIFEST)
    signing.verify(published.result, roster.coordinator_key, BlobType.RESULT)
    if {published.manifest.signer_id, published.result.signer_id} != {COORDINATOR}:
        raise not_proved("manifest or result are not the coordinator's")
    manifest = body_of(published.manifest, BlobType.MANIFEST, Manifest)
    result = body_of(published.result, BlobType.RESULT, Result)
    if manifest.protection != protection:
        raise not_proved(f"its manifest is of protection {manifest.protection}, not {protection}")
    if (manifest.roster_version, manifest.roster_hash) != (roster.version, roster.hash):
        raise not_proved("the manifest binds another roster")
    _check_cohort(manifest, roster, stated_corrupt)
    return manifest, result


def certified(
    published: PublishedRound, manifest: Manifest, result: Result, t2: bytes, roster: Roster, members: Sequence[OrgId]
) -> bytes:
    """T3 of the published headers, if a quorum of `members` (U2) voted for it, they are not too few, and the result is
    of it.
    """
    t3 = transcript.t3(t2, {blob.signer_id: blob.body for blob in published.headers})
    survivors = len(published.headers)
    if survivors < manifest.min_survivors:
        raise not_proved("fewer inputs than may be opened")
    if (result.t3, result.survivors, result.length) != (t3, survivors, manifest.length):
        raise not_proved("the result is not of this set of inputs")
    votes = signed_by(published.votes, BlobType.VOTE, Vote, roster, members)
    if len(votes) < manifest.quorum or any(vote != Vote(t3) for vote in votes.values()):
        raise not_proved("the votes are no certificate over this set of inputs")
    return t3


def _verify(published: PublishedRound, roster: Roster, stated_corrupt: int) -> Proven:
    manifest, result = agreed(published, "masked", roster, stated_corrupt)
    if (
        published.noise
        or published.key_terms
        or published.key_record
        or published.product_hashes
        or published.partial_hashes
    ):
        raise not_proved("it has parts of another protection")
    t0 = transcript.t0(published.manifest.body)
    adverts = signed_by(published.adverts, BlobType.ADVERT, Advert, roster, manifest.cohort)
    if any(one.t0 != t0 or one.org_id != org for org, one in adverts.items()):
        raise not_proved("an advert is of another attempt or member")
    t1 = transcript.t1(t0, {blob.signer_id: blob.body for blob in published.adverts})
    dealers = published.dealers
    if list(dealers) != sorted(set(dealers)) or not set(dealers) <= set(adverts):
        raise not_proved("the dealers are not sorted members of the key set")
    t2 = transcript.t2(t1, dealers)
    headers = signed_by(published.headers, BlobType.HEADER, Header, roster, dealers)
    leaves = -(-manifest.length // manifest.leaf_coordinates)
    shape = (t2, manifest.length, manifest.ring_bits, leaves)
    for org, header in headers.items():
        if header.org_id != org or (header.t2, header.length, header.ring_bits, header.leaf_count) != shape:
            raise not_proved(f"the header of {org} is of another attempt or shape")
        hashes = published.leaf_hashes.get(org, ())
        if len(hashes) != leaves or transcript.leaf_root(hashes) != header.leaf_root:
            raise not_proved(f"the leaf hashes of {org} are not those of its header")
    t3 = certified(published, manifest, result, t2, roster, dealers)
    reveals = signed_by(published.reveals, BlobType.REVEAL, Reveal, roster, dealers)
    if any(one.t3 != t3 for one in reveals.values()):
        raise not_proved("a reveal is for another set of inputs")
    ends = {org: header.noise_chain for org, header in headers.items()}
    links = {org: one.noise_link for org, one in reveals.items()}
    if result.removal != _removal(manifest, t2, len(dealers), ends, links):
        raise not_proved("what is taken out of its noise is not what the survivors showed")
    unmasking = opening.recover(
        manifest, t0, t2, t3, {org: adverts[org] for org in dealers}, tuple(sorted(headers)), reveals
    )
    tags = {org: (header.tag_ok, header.masked_tag) for org, header in headers.items()}
    return Proven(
        manifest,
        result,
        t2,
        unmasking,
        {org: tuple(published.leaf_hashes[org]) for org in headers},
        opening.sum_of_tags(tags, unmasking),
    )


def _removal(
    manifest: Manifest, t2: bytes, dealers: int, ends: Mapping[OrgId, bytes], links: Mapping[OrgId, bytes]
) -> tuple[Removal, ...]:
    """What the Result of these chain ends of headers and links of reveals must say. PeerError if one cannot be so."""
    if any(not noise_links.check_chain_end(manifest, dealers, end) for end in ends.values()):
        raise not_proved("a header's noise chain is not what the manifest asks for")
    for org, link in links.items():
        if org in ends:
            noise_links.check_shown(manifest, t2, org, dealers, len(ends), link, ends[org])
        elif link:
            raise not_proved(f"{org} is no survivor and shows a noise link")
    return noise_links.removal(manifest, t2, dealers, links.items())


def _check_cohort(manifest: Manifest, roster: Roster, stated_corrupt: int) -> None:
    """So many organisations of the roster, and so large a quorum of them, that honest members are in it."""
    if not set(manifest.cohort) <= set(roster.participants):
        raise not_proved("the cohort holds others than the organisations of the roster")
    quorum.check_parameters(
        len(manifest.cohort),
        manifest.corrupt,
        manifest.quorum,
        manifest.threshold,
        manifest.min_survivors,
        quorum.corrupt_bound(stated_corrupt, len(roster.participants)),
    )


def signed_by(
    blobs: Sequence[SignedBlob], expected: BlobType, kind: type[T], roster: Roster, members: Sequence[OrgId]
) -> dict[OrgId, T]:
    """The bodies by signer: each signed by another one of `members` under its roster key."""
    found: dict[OrgId, T] = {}
    for blob in blobs:
        if blob.signer_id not in members or blob.signer_id in found:
            raise not_proved(f"a {expected} of {blob.signer_id} is one too many")
        signing.verify(blob, roster.key_of(blob.signer_id), expected)
        found[blob.signer_id] = body_of(blob, expected, kind)
    return found


def body_of(blob: SignedBlob, expected: BlobType, kind: type[T]) -> T:
    """The body of a blob whose signature was verified as one of type `expected`."""
    body = wire.parse_body(expected, blob.body)
    assert isinstance(body, kind), "the wire's table maps a blob type to one body"
    return body


def not_proved(why: str) -> PeerError:
    """What was published is not the record of a certified round."""
    return PeerError(
        "round_not_proved",
        f"what the coordinator published of this round proves no certified sum: {why}",
        peer=COORDINATOR,
        not_done="the sum was not accepted",
        next_step="try again; if it stays so, call the operator and the other organisations",
    )
