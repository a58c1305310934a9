"""Which private sums an organisation was invited to, from the facts of the runs. Pure. See `spending_record`."""

from collections.abc import Iterable

from fedveil_common import transcript, wire
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import BlobType, Manifest
from fedveil_common.spending_record import Attempted, RecordedRun

from fedveil_coordinator import facts


def recorded_run(run_id: RunId, canonical: bytes, recorded: Iterable[tuple[str, bytes]], org: OrgId) -> RecordedRun:
    """The attempts of a run that count for `org`: offered to it, with noise in their sum, not certified as aborted."""
    found: list[Attempted] = []
    invited = False
    for kind, body in recorded:
        if kind not in _NEEDED:
            continue
        match facts.decode(kind, body):
            case facts.Offered(manifest=blob):
                manifest = wire.parse_body(BlobType.MANIFEST, blob.body)
                assert isinstance(manifest, Manifest)
                invited = org in manifest.cohort and manifest.noise != "none"
                if invited:
                    key, t0 = manifest.key, transcript.t0(blob.body)
                    found.append(Attempted(key.round, key.attempt, t0, manifest.purpose, manifest.step))
            case facts.AbortCertified() if invited:
                found.pop()  # of the offer before it: no sum of it can ever open
                invited = False
            case _:
                pass
    return RecordedRun(run_id, canonical, tuple(found))


_NEEDED = frozenset({facts.Offered.__name__, facts.AbortCertified.__name__})
