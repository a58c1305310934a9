"""Re-deriving a model at a participant: from the seeded first model through the signed sums, never from given bytes.

Promise: what this returns was computed here, by the plan's strategy, from sums whose Result the coordinator signed and
whose leaves match it; for rounds this participant voted in, the Result must be over the T3 it voted for. Every sum goes
through `checking` before anything is derived from it. A newcomer, or one that missed rounds, walks the missing part
again. Source: FLSA/1 section 2.6, "provenance" (docs/protocol.md).
"""

from concurrent.futures import Executor
from dataclasses import dataclass, replace

from fedveil_common import layout, member_noise, noise, private_sum, provenance, transcript, wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import RunId
from fedveil_common.masking import checksum, quorum
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import Signed, signed, signed_zeros
from fedveil_common.messages import BlobType, Manifest, Purpose, Result, SignedBlob, SumRef
from fedveil_common.plan import Plan, canonical, plan_hash
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.roster import Roster

from fedveil_participant import checks
from fedveil_participant.checking import Checker, DownloadedSum, FetchSum, RoundSource
from fedveil_participant.events import OpenedSum, TagKey
from fedveil_participant.round import State


@dataclass(frozen=True, slots=True)
class Expected:
    """What a downloaded sum must be of: the question by which it is known (a plan's hash, or the digest of a query,
    which plans share), its length, and the plan, by which the bits of a coordinate and the corrupt members are known.

    `question` is None for an earlier run that the plan continues: that run's plan had other rounds, so its hash is not
    known here. There the first model that the plan names is what the sums must lead to (`provenance.set_out`).
    """

    purpose: Purpose
    question: bytes | None
    length: int
    plan: Plan
    noise_cap: int = 0

    @classmethod
    def of(cls, plan: Plan, purpose: Purpose, step: int) -> "Expected":
        """The sum of this purpose that a run of `plan` itself has at `step`."""
        known = layout.query_digest(plan) if layout.is_query(purpose) else plan_hash(canonical(plan))
        return replace(cls.earlier(plan, purpose, step), question=known)

    @classmethod
    def earlier(cls, plan: Plan, purpose: Purpose, step: int) -> "Expected":
        """The sum that an earlier run had at `step`, which differed from `plan` in its rounds alone."""
        length = layout.layout_for(plan, purpose, step).length
        cap = noise.coordinator_cap(plan)
        return cls(purpose, None, length, plan, cap)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a walk goes by: the pinned roster, the sums seen so far, the keys of sums that are still to be checked."""

    roster: Roster
    opened: frozenset[OpenedSum]
    tag_keys: tuple[TagKey, ...] = ()


def basis_of(state: State) -> Basis:
    """What a participant in this state goes by."""
    return Basis(state.roster, state.opened, state.tag_keys)


@dataclass(frozen=True, slots=True)
class Walk:
    """A re-derived model, and the sums it was derived from, as their Results say. `last`: the signed manifest of the
    last train round, empty before the first.
    """

    lineage: provenance.Lineage
    sums: tuple[OpenedSum, ...]
    last: tuple[SignedBlob, ...] = ()


def fetch(
    source: FetchSum, run_id: RunId, round: int, expected: Expected, basis: Basis, pool: Executor | None = None
) -> tuple[DownloadedSum, OpenedSum]:
    """The sum of one round, and which Result it came with. PeerError if anything in it does not fit."""
    download = source(run_id, round)
    checks.coordinator_signature(download.result, basis.roster, BlobType.RESULT)
    checks.coordinator_signature(download.manifest, basis.roster, BlobType.MANIFEST)
    result = wire.parse_body(BlobType.RESULT, download.result.body)
    manifest = wire.parse_body(BlobType.MANIFEST, download.manifest.body)
    assert isinstance(result, Result)
    assert isinstance(manifest, Manifest)
    place = (manifest.key.run_id, manifest.key.round, manifest.purpose, manifest.length)
    if place != (run_id, round, expected.purpose, result.length) or result.length != expected.length:
        raise PeerError("wrong_sum", f"round {round} of run {run_id} came as another sum")
    asked = manifest.query_digest if layout.is_query(manifest.purpose) else manifest.plan_hash
    if expected.question is not None and asked != expected.question:
        raise PeerError("wrong_sum", f"round {round} of run {run_id} is not of this plan")
    if manifest.noise != private_sum.noise_of(expected.plan) or bool(manifest.encryption) != bool(
        expected.plan.protection.key
    ):
        raise PeerError("wrong_sum", f"round {round} of run {run_id} has another protection or noise than the plan")
    quorum.check_parameters(  # what is computed from these figures below is defined for a cohort that may stand
        len(manifest.cohort), manifest.corrupt, manifest.quorum, manifest.threshold, manifest.min_survivors, 1
    )
    own_vote(result, run_id, round, basis.opened)
    found = OpenedSum(run_id, round, result.t3, transcript.result_hash(download.result.body))
    first_result(found, basis.opened)
    bits, values = manifest.ring_bits, signed_zeros(result.length, manifest.ring_bits)
    hashes: list[bytes] = []
    for index, data in download.leaves:
        if index != len(hashes) or index >= leaf_count(result.length):
            raise PeerError("bad_leaf", f"leaf {index} of the sum of round {round} is out of order")
        count, start = leaf_length(result.length, index), index * transcript.LEAF_COORDINATES
        values[start : start + count] = signed(unpack(data, count, bits), bits)
        hashes.append(transcript.sum_leaf(result.t3, index, data))
    sum_is_signed(result, hashes, round)
    member_noise.check_settling(expected.plan, manifest, result)
    value_bits = private_sum.value_bits(expected.plan, len(manifest.cohort), manifest.quorum, manifest.corrupt)
    bound = checksum.bound(result.survivors, value_bits) + expected.noise_cap
    corrupt = expected.plan.cohort.max_corrupt
    settled = member_noise.settled(expected.plan, manifest, result, values, pool)
    return DownloadedSum(
        download.manifest,
        download.result,
        result,
        values,
        settled,
        tuple(hashes),
        bound,
        corrupt,
        unproved=noise.rests_on_coordinator(manifest),
    ), found


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

    def __init__(self, source: RoundSource, checker: Checker, pool: Executor | None = None) -> None:
        self._source = source
        self._checker = checker
        self._pool = pool
        self._known: dict[RunId, Walk] = {}

    def walk(
        self,
        plan: Plan,
        run_id: RunId,
        standardise: tuple[SumRef, ...],
        step: int,
        previous: tuple[SumRef, ...],
        basis: Basis,
    ) -> Walk:
        """The walk of `run_id` to `step` model steps, or to where the plan's stopping rule ends the run. Raises
        PeerError if a sum cannot be trusted. Nothing is kept: the caller does that with `keep`, once the model is the
        one that was announced.

        Train rounds are numbered consecutively after the run's own standardise round, if it had one. `previous` names
        the last train sum: its hash must be that of the Result downloaded here. The last sum is audited.
        """
        known = self._known.get(run_id)
        own = bool(standardise) and standardise[0].run_id == run_id
        if known is None or known.lineage.step > step:
            known = self._begin(plan, standardise, basis, audited=own and step == 0)
        lineage, sums, newest = known.lineage, list(known.sums), known.last
        first = 2 if own else 1
        while lineage.step < step and not lineage.verdict.stopped:
            number = first + lineage.step
            expected = Expected.of(plan, Purpose.TRAIN, lineage.step)
            downloaded, found = fetch(self._source.fetch_sum, run_id, number, expected, basis, self._pool)
            last = lineage.step + 1 == step
            if last and previous and previous[0] != SumRef(run_id, number, found.result):
                raise PeerError("wrong_sum", "the last train sum is not the one the manifest names")
            after = provenance.advance(lineage, downloaded.settled)
            self._checker.check(downloaded, found, _key(found, basis), audited=last or after.verdict.stopped)
            lineage, newest = after, (downloaded.manifest,)
            sums.append(found)
        return Walk(lineage, tuple(sums), newest)

    def _begin(self, plan: Plan, standardise: tuple[SumRef, ...], basis: Basis, *, audited: bool) -> Walk:
        """The first model of the run: drawn from the seed, or walked through the runs that the plan continues."""
        if not layout.needs_standardise(plan):
            scaling, walked, ran = None, [], None
        elif not standardise:
            raise PeerError("wrong_sum", "no standardise sum is named")
        else:
            ran = standardise[0].run_id
            downloaded, found = self.answer(plan, Purpose.STANDARDISE, standardise[0], basis, audited=audited)
            scaling, walked = downloaded.settled, [found]

        def read(run_id: RunId, number: int, at: provenance.Lineage) -> Signed:
            due = Expected.earlier(at.plan, Purpose.TRAIN, at.step)
            earlier, one = fetch(self._source.fetch_sum, run_id, number, due, basis, self._pool)
            self._checker.check(earlier, one, _key(one, basis), audited=False)
            walked.append(one)
            return earlier.settled

        return Walk(provenance.set_out(plan, scaling, ran, read), tuple(walked))

    def answer(
        self, plan: Plan, purpose: Purpose, ref: SumRef, basis: Basis, *, audited: bool
    ) -> tuple[DownloadedSum, OpenedSum]:
        """The sum that answers the plan's question of this purpose, checked. PeerError if it is not that of `ref`."""
        expected = Expected.of(plan, purpose, 0)
        downloaded, found = fetch(self._source.fetch_sum, ref.run_id, ref.round, expected, basis, self._pool)
        if found.result != ref.result_hash:
            raise PeerError("wrong_sum", f"the {purpose} sum is not the one that was named")
        self._checker.check(downloaded, found, _key(found, basis), audited=audited)
        return downloaded, found

    def keep(self, run_id: RunId, walk: Walk) -> None:
        """Go on from here the next time."""
        self._known = {**self._known, run_id: walk}

    def forget(self, run_id: RunId) -> None:
        """The run is over."""
        self._known = {known: walk for known, walk in self._known.items() if known != run_id}


def _key(found: OpenedSum, basis: Basis) -> TagKey | None:
    """The checksum key of exactly this sum, if it is held here."""
    place = (found.run_id, found.round, found.t3)
    return next((one for one in basis.tag_keys if (one.run_id, one.round, one.t3) == place), None)
