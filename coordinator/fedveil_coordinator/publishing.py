"""What the coordinator publishes of an opened round, from the facts of its run and the inputs it kept.

Promise: exactly the blobs with which the round was opened, so that every member can prove to itself what was summed.
Pure. Source: FLSA/1 section 4.2 (docs/protocol.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedveil_common import noise as noises
from fedveil_common import wire
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.messages import BlobType, Encryption, Manifest, SignedBlob

from fedveil_coordinator import facts


@dataclass(slots=True)
class Record:
    """The blobs of one opened attempt, by signer where there is one of each. `encryption`: one under paillier, whose
    `reveals` are the answers of the quorum that was called last; there `dealers` are the members. Nobody may see it if
    it `rests_on_coordinator`.
    """

    manifest: SignedBlob
    key: AttemptKey
    roster_version: int
    encryption: tuple[Encryption, ...] = ()
    adverts: dict[OrgId, SignedBlob] = field(default_factory=dict)
    members: tuple[OrgId, ...] = ()
    dealers: tuple[OrgId, ...] = ()
    headers: dict[OrgId, SignedBlob] = field(default_factory=dict)
    survivors: tuple[OrgId, ...] = ()
    votes: dict[OrgId, SignedBlob] = field(default_factory=dict)
    voters: tuple[OrgId, ...] = ()
    reveals: dict[OrgId, SignedBlob] = field(default_factory=dict)
    revealers: tuple[OrgId, ...] = ()
    noise: tuple[SignedBlob, ...] = ()
    result: SignedBlob | None = None
    rests_on_coordinator: bool = False

    def chosen(self, blobs: Mapping[OrgId, SignedBlob], names: Iterable[OrgId]) -> tuple[SignedBlob, ...]:
        """The blobs of `names`, in the order of their ids."""
        return tuple(blobs[org] for org in sorted(names))


def record_of(recorded: Iterable[tuple[str, bytes]], round: int) -> Record | None:
    """The record of the attempt that opened `round`, from the facts of its run in order; None if none did."""
    record: Record | None = None
    for kind, body in recorded:
        if kind not in _NEEDED or (record is None and kind != facts.Offered.__name__):
            continue
        match facts.decode(kind, body):
            case facts.Offered(manifest=blob):
                manifest = wire.parse_body(BlobType.MANIFEST, blob.body)
                assert isinstance(manifest, Manifest)
                fits = manifest.key.round == round
                record = _record(blob, manifest) if fits else None
            case fact if record is not None:
                _add(record, fact)
        if record is not None and record.result is not None:
            return record
    return None


def _record(blob: SignedBlob, manifest: Manifest) -> Record:
    trusted = noises.rests_on_coordinator(manifest)
    return Record(blob, manifest.key, manifest.roster_version, manifest.encryption, rests_on_coordinator=trusted)


def _add(record: Record, fact: facts.Fact) -> None:
    match fact:
        case facts.AdvertAccepted(advert=blob):
            record.adverts[blob.signer_id] = blob
        case facts.KeySetFrozen(members=members):
            record.members = members
            if record.encryption:
                record.dealers = members  # U2 is U1: nobody deals
        case facts.DealersFrozen(dealers=dealers):
            record.dealers = dealers
        case facts.InputAccepted(header=blob):
            record.headers[blob.signer_id] = blob
        case facts.Proposed(survivors=survivors):
            record.survivors = survivors
        case facts.VoteAccepted(vote=blob):
            record.votes[blob.signer_id] = blob
        case facts.Certified(voters=voters):
            record.voters = voters
        case facts.ProductMade(noise=noise):
            record.noise = noise
        case facts.QuorumCalled():
            record.reveals = {}
        case facts.RevealAccepted(reveal=blob):
            record.reveals[blob.signer_id] = blob
        case facts.OpeningStarted(revealers=revealers):
            record.revealers = revealers
        case facts.SumOpened(result=blob):
            record.result = blob
        case _:
            pass


_NEEDED = frozenset(
    one.__name__
    for one in (
        facts.Offered,
        facts.AdvertAccepted,
        facts.KeySetFrozen,
        facts.DealersFrozen,
        facts.InputAccepted,
        facts.Proposed,
        facts.VoteAccepted,
        facts.Certified,
        facts.ProductMade,
        facts.QuorumCalled,
        facts.RevealAccepted,
        facts.OpeningStarted,
        facts.SumOpened,
    )
)
