"""Whether this participant vouches for the final model of a run, and its signature over it.

Promise: signed is only a model that was derived here from audited sums, whose last round this organisation was invited
to; nothing is signed where the coordinator alone ever saw the exact sum. Source: docs/registry.md, section 3.
"""

from fedveil_common import noise, wire
from fedveil_common.messages import BlobType, Manifest, SignedBlob
from fedveil_common.modelfile import ModelManifest
from fedveil_common.registry import countersignature

from fedveil_participant.round import State


def countersign(manifest: ModelManifest, last: SignedBlob, state: State) -> tuple[SignedBlob, ...]:
    """The countersignature of the model in `manifest`, which was derived here; `last`: the signed manifest of the round
    that led to it. Empty if this participant has nothing to say: it was not invited to that round, or nobody can check.

    PeerError `wrong_transcript` if `last` is of another round.
    """
    round = wire.parse_body(BlobType.MANIFEST, last.body)
    assert isinstance(round, Manifest)
    body = countersignature.of_round(manifest, round)
    if noise.rests_on_coordinator(round) or state.me not in round.cohort:
        return ()
    return (countersignature.sign(body, state.me, state.signing_key),)
