"""Re-deriving a model at a participant: from the seeded first model through the signed sums, never from given bytes.

Promise: what this returns was computed here, by the plan's strategy, from sums whose Result the coordinator signed and
whose leaves match it; for rounds this participant voted in, the Result must be over the T3 it voted for. A newcomer, or
one that missed rounds, walks the missing part again. Source: FLSA/1 section 2.6, "provenance" (docs/protocol.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedveil_common import layout, provenance, transcript, wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import RunId
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import Signed, signed, signed_zeros
from fedveil_common.messages import BlobType, Manifest, Purpose, Result, SignedBlob, SumRef
from fedveil_common.plan import Plan
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.roster import Roster

from fedveil_participant import checks
from fedveil_participant.events import OpenedSum


@dataclass(frozen=True, slots=True)
class SumDownload:
    """An opened sum as it arrives: two signed blobs, then (leaf index, packed leaf) in order."""

    result: SignedBlob
    manifest: SignedBlob
    leaves: Iterator[tuple[int, bytes]]


FetchSum = Callable[[RunId, int], SumDownload]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a downloaded sum must be of."""

    purpose: Purpose
    length: int


@dataclass(frozen=True, slots=True)
class Walk:
    """A re-derived model, and the sums it was derived from, as their Results say."""

    lineage: provenance.Lineage
    sums: tuple[OpenedSum, ...]


def fetch(
    source: FetchSum, run_id: RunId, round: int, expected: Expected, roster: Roster, opened: frozenset[OpenedSum]
) -> tuple[Signed, OpenedSum]:
    """The sum of one round, and which Result it came with. PeerError if anything in it does not fit."""
    download = source(run_id, round)
    checks.coordinator_signature(download.result, roster, BlobType.RESULT)
    checks.coordinator_signature(download.manifest, roster, BlobType.MANIFEST)
    result = wire.parse_body(BlobType.RESULT, download.result.body)
    manifest = wire.parse_body(BlobType.MANIFEST, download.manifest.body)
    assert isinstance(result, Result)
    assert isinstance(manifest, Manifest)
    place = (manifest.key.run_id, manifest.key.round, manifest.purpose, manifest.length)
    if place != (run_id, round, expected.purpose, result.length) or result.length != expected.length:
        raise PeerError("wrong_sum", f"round {round} of run {run_id} came as another sum")
    own_vote(result, run_id, round, opened)
    found = OpenedSum(run_id, round, result.t3, transcript.result_hash(download.result.body))
    first_result(found, opened)
    bits, values = manifest.ring_bits, signed_zeros(result.length, manifest.ring_bits)
    hashes: list[bytes] = []
    for index, data in download.leaves:
        if index != len(hashes) or index >= leaf_count(result.length):
            raise PeerError("bad_leaf", f"leaf {index} of the sum of round {round} is out of order")
        count, start = leaf_length(result.length, index), index * transcript.LEAF_COORDINATES
        values[start : start + count] = signed(unpack(data, count, bits), bits)
        hashes.append(transcript.sum_leaf(result.t3, index, data))
    sum_is_signed(result, hashes, round)
    return values, found


def own_vote(result: Result, run_id: RunId, round: int, opened: frozenset[OpenedSum]) -> None:
    """For a round I voted in, only a Result over a T3 that I voted for is believed."""
    voted = {one.t3 for one in opened if (one.run_id, one.round) == (run_id, round)}
    if voted and result.t3 not in voted:
        raise PeerError("wrong_transcript", f"the result of round {round} is not over the set that I voted for")


def first_result(found: OpenedSum, opened: frozenset[OpenedSum]) -> None:
    """Of each round only the Result that was seen first is believed, also after a restart."""
    seen = {one.result for one in opened if (one.run_id, one.round) == (found.run_id, found.round) and one.result}
    if seen and found.result not in seen:
        raise PeerError(
            "equivocation",
            f"another result of round {found.round} than the one seen before",
            not_done="no model was derived from it, nothing was trained",
            next_step="keep the participant's folder and call the operator",
        )


def sum_is_signed(result: Result, hashes: list[bytes], round: int) -> None:
    """The leaves are those whose root the coordinator signed."""
    if len(hashes) * transcript.LEAF_COORDINATES < result.length or transcript.leaf_root(hashes) != result.leaf_root:
        raise PeerError("sum_not_signed", f"the sum of round {round} does not match its signed root")


class Walker:
    """The walks this participant is on, one a run; what was kept is not walked again until a restart."""

    def __init__(self, source: FetchSum) -> None:
        self._source = source
        self._known: dict[RunId, Walk] = {}

    def walk(
        self,
        plan: Plan,
        run_id: RunId,
        standardise: tuple[SumRef, ...],
        step: int,
        previous: tuple[SumRef, ...],
        roster: Roster,
        opened: frozenset[OpenedSum],
    ) -> Walk:
        """The walk of `run_id` to `step` model steps. Raises PeerError if a sum cannot be trusted. Nothing is kept: the
        caller does that with `keep`, once the model is the one that was announced.

        Train rounds are numbered consecutively after the run's own standardise round, if it had one. `previous` names
        the last train sum: its hash must be that of the Result downloaded here.
        """
        known = self._known.get(run_id)
        if known is None or known.lineage.step > step:
            known = self._begin(plan, standardise, roster, opened)
        lineage, sums = known.lineage, list(known.sums)
        first = 2 if standardise and standardise[0].run_id == run_id else 1
        while lineage.step < step:
            number = first + lineage.step
            expected = Expected(Purpose.TRAIN, layout.layout_for(plan, Purpose.TRAIN, lineage.step).length)
            opened_sum, found = fetch(self._source, run_id, number, expected, roster, opened)
            if lineage.step + 1 == step and previous and previous[0] != SumRef(run_id, number, found.result):
                raise PeerError("wrong_sum", "the last train sum is not the one the manifest names")
            lineage = provenance.advance(lineage, opened_sum)
            sums.append(found)
        return Walk(lineage, tuple(sums))

    def _begin(self, plan: Plan, standardise: tuple[SumRef, ...], roster: Roster, opened: frozenset[OpenedSum]) -> Walk:
        if not layout.needs_standardise(plan):
            return Walk(provenance.begin(plan, None), ())
        if not standardise:
            raise PeerError("wrong_sum", "no standardise sum is named")
        ref = standardise[0]
        expected = Expected(Purpose.STANDARDISE, layout.layout_for(plan, Purpose.STANDARDISE, 0).length)
        scaling, found = fetch(self._source, ref.run_id, ref.round, expected, roster, opened)
        if found.result != ref.result_hash:
            raise PeerError("wrong_sum", "the standardise sum is not the one the manifest names")
        return Walk(provenance.begin(plan, scaling), (found,))

    def keep(self, run_id: RunId, walk: Walk) -> None:
        """Go on from here the next time."""
        self._known = {**self._known, run_id: walk}

    def forget(self, run_id: RunId) -> None:
        """The run is over."""
        self._known = {known: walk for known, walk in self._known.items() if known != run_id}
