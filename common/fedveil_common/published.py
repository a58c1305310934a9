"""An opened round as the coordinator publishes it, and the proof that it is the round that was certified.

Promise: what `verify` returns follows from signatures of the roster's members alone: their adverts, headers, votes and
reveals, bound to each other by T0..T3. Nobody learns from it more than the coordinator knew after the certificate: the
sum, and for each member one of its two secrets. Source: FLSA/1 sections 2.2, 2.7, 4.2 (docs/protocol.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fedveil_common import transcript, wire
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
    Result,
    Reveal,
    SignedBlob,
    Vote,
)
from fedveil_common.roster import Roster

T = TypeVar("T", bound=Body)


@dataclass(frozen=True, slots=True)
class PublishedRound:
    """Everything about an opened round but its leaves. All but the roster are public to the federation's members.

    `signed_roster`: the roster version the manifest binds. `adverts`: of U1; `dealers`: U2; `headers`: of U3; `votes`:
    the certificate; `reveals`: those the sum was opened with; `leaf_hashes`: of each survivor's masked input.
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


@dataclass(frozen=True, slots=True)
class Proven:
    """A published round that was verified. `tag_sum`: what the headers' tags come to; empty if a header voids it."""

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
    try:
        return _verify(published, roster, stated_corrupt)
    except FedveilError as error:
        if error.code == "round_not_proved":
            raise
        raise not_proved(f"{error.what} ({error.code})") from error


def _verify(published: PublishedRound, roster: Roster, stated_corrupt: int) -> Proven:
    signing.verify(published.manifest, roster.coordinator_key, BlobType.MANIFEST)
    signing.verify(published.result, roster.coordinator_key, BlobType.RESULT)
    if {published.manifest.signer_id, published.result.signer_id} != {COORDINATOR}:
        raise not_proved("manifest or result are not the coordinator's")
    manifest = _body(published.manifest, BlobType.MANIFEST, Manifest)
    result = _body(published.result, BlobType.RESULT, Result)
    if (manifest.roster_version, manifest.roster_hash) != (roster.version, roster.hash):
        raise not_proved("the manifest binds another roster")
    _check_cohort(manifest, roster, stated_corrupt)
    t0 = transcript.t0(published.manifest.body)
    adverts = _signed(published.adverts, BlobType.ADVERT, Advert, roster, manifest.cohort)
    if any(one.t0 != t0 or one.org_id != org for org, one in adverts.items()):
        raise not_proved("an advert is of another attempt or member")
    t1 = transcript.t1(t0, {blob.signer_id: blob.body for blob in published.adverts})
    dealers = published.dealers
    if list(dealers) != sorted(set(dealers)) or not set(dealers) <= set(adverts):
        raise not_proved("the dealers are not sorted members of the key set")
    t2 = transcript.t2(t1, dealers)
    headers = _signed(published.headers, BlobType.HEADER, Header, roster, dealers)
    leaves = -(-manifest.length // manifest.leaf_coordinates)
    shape = (t2, manifest.length, manifest.ring_bits, leaves)
    for org, header in headers.items():
        if header.org_id != org or (header.t2, header.length, header.ring_bits, header.leaf_count) != shape:
            raise not_proved(f"the header of {org} is of another attempt or shape")
        hashes = published.leaf_hashes.get(org, ())
        if len(hashes) != leaves or transcript.leaf_root(hashes) != header.leaf_root:
            raise not_proved(f"the leaf hashes of {org} are not those of its header")
    t3 = transcript.t3(t2, {blob.signer_id: blob.body for blob in published.headers})
    if len(headers) < manifest.min_survivors:
        raise not_proved("fewer inputs than may be opened")
    if (result.t3, result.survivors, result.length) != (t3, len(headers), manifest.length):
        raise not_proved("the result is not of this set of inputs")
    votes = _signed(published.votes, BlobType.VOTE, Vote, roster, dealers)
    if len(votes) < manifest.quorum or any(vote != Vote(t3) for vote in votes.values()):
        raise not_proved("the votes are no certificate over this set of inputs")
    reveals = _signed(published.reveals, BlobType.REVEAL, Reveal, roster, dealers)
    if any(one.t3 != t3 for one in reveals.values()):
        raise not_proved("a reveal is for another set of inputs")
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


def _signed(
    blobs: Sequence[SignedBlob], expected: BlobType, kind: type[T], roster: Roster, members: Sequence[OrgId]
) -> dict[OrgId, T]:
    """The bodies by signer: each signed by another one of `members` under its roster key."""
    found: dict[OrgId, T] = {}
    for blob in blobs:
        if blob.signer_id not in members or blob.signer_id in found:
            raise not_proved(f"a {expected} of {blob.signer_id} is one too many")
        signing.verify(blob, roster.key_of(blob.signer_id), expected)
        found[blob.signer_id] = _body(blob, expected, kind)
    return found


def _body(blob: SignedBlob, expected: BlobType, kind: type[T]) -> T:
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
