"""Opened sums at the coordinator: how one is computed, where it came from, what it leads to.

Promise: a sum is durable before its leaf root is handed on; a model is computed by the same walk that every participant
makes; what is implausible is said by a code, never by an exception that would end the process. Any thread.
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from fedveil_common import (
    decode,
    evaluation,
    jcs,
    layout,
    member_noise,
    noise,
    private_sum,
    provenance,
    sanity,
    transcript,
    wire,
)
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, RoundAborted
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.masking.ring import Signed
from fedveil_common.member_noise import Piece
from fedveil_common.messages import BlobType, Manifest, Purpose, Result, SignedBlob, SumRef
from fedveil_common.plan import Plan
from fedveil_common.ports import LeafSink, LeafSource
from fedveil_common.ringfile import residues
from fedveil_common.secret import Seed
from fedveil_common.statistics import answers as reading

from fedveil_coordinator import facts, opening
from fedveil_coordinator.attempt import Decrypting, Frame, Revealing
from fedveil_coordinator.cipher_desk import CipherDesk
from fedveil_coordinator.run import RunState

_SOURCES = frozenset({facts.Offered.__name__, facts.SumOpened.__name__})


class SumStore(Protocol):
    """Where sums, inputs and facts are kept; a part of the driver's journal."""

    def facts(self, run_id: RunId) -> list[tuple[str, bytes]]: ...  # noqa: D102
    def save_answer(self, query_digest: bytes, ref: SumRef) -> None: ...  # noqa: D102
    def new_sum(self, run_id: RunId, round: int, length: int, bits: int) -> LeafSink:
        """An opened sum on its way in."""
        ...

    def read_sum(self, run_id: RunId, round: int) -> Signed: ...  # noqa: D102
    def open_input(self, key: AttemptKey, org_id: OrgId) -> LeafSource:
        """A spooled masked input."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sum led to. `rejected` is empty, or the code of what is implausible in it. `opened`: the blocks that were
    interpreted, by name, and how many coordinates each had.
    """

    model_hash: bytes
    state_hash: bytes
    standardisation_hash: bytes
    measured: evaluation.Metrics | None
    rejected: str
    opened: tuple[tuple[str, int], ...]


class Sums:
    """The opened sums of every run."""

    def __init__(self, store: SumStore, ciphers: CipherDesk, pool: Executor | None = None) -> None:
        self._store = store
        self._pool = pool
        self._ciphers = ciphers
        self._offered: dict[RunId, SignedBlob] = {}
        self._known: dict[tuple[RunId, int], tuple[SignedBlob, SignedBlob]] = {}
        self._lineage: tuple[RunId, provenance.Lineage] | None = None

    def open(
        self, plan: Plan, frame: Frame, revealing: Revealing | Decrypting, pool: Executor | None, seed: Seed
    ) -> tuple[bytes, bytes]:
        """Recover the seeds, add the inputs, remove the masks, store the sum; its leaf root and its tag. Under paillier
        what the holders decrypted is combined. `seed`: fresh; of the coordinator's own noise, where the plan has it.

        PeerError `wrong_secret_dealt` names the dealer whose own commitments convict it. IntegrityError if what the
        holders decrypted is no sum of honest inputs.
        """
        if isinstance(revealing, Decrypting):
            return self._ciphers.open(frame, revealing), b""
        key = frame.key
        unmasking = opening.recover(frame, revealing)
        drawn = private_sum.coordinator_noise(plan) if noise.rests_on_coordinator(frame.manifest) else None
        own = None if drawn is None else Piece(seed, drawn)
        sink = self._store.new_sum(key.run_id, key.round, unmasking.length, unmasking.bits)
        inputs: dict[OrgId, LeafSource] = {}
        try:
            for org in unmasking.survivors:
                inputs[org] = self._store.open_input(key, org)
            hashes = opening.open_leaves(
                unmasking, lambda org, index: residues(inputs[org], index), sink.write, pool, own
            )
            sink.finish(replace=True)
        except BaseException:
            sink.discard()
            raise
        finally:
            for source in inputs.values():
                source.close()
        tag = b"" if own else opening.tag_of(revealing, unmasking)  # it would tell the exact sum from what is published
        return transcript.leaf_root(hashes), tag

    def process(self, state: RunState, manifest: Manifest, survivors: int) -> Outcome:
        """Decode the sum of an opened round; the next model or the standardisation; what it measures."""
        plan, key = state.plan, manifest.key
        opened = self._settled(plan, key.run_id, key.round)
        heard: list[tuple[str, int]] = []
        shape = layout.layout_for(plan, manifest.purpose, manifest.step)
        decoded = decode.decode(shape, opened, lambda block, coordinates: heard.append((block, coordinates)))
        model_hash, state_hash, scaling_hash, rejected = b"", b"", b"", ""
        try:
            if manifest.purpose is Purpose.STANDARDISE:
                lineage = provenance.begin(plan, opened)
                scaling_hash = lineage.standardisation.hash
                self._store.save_answer(manifest.query_digest, self._reference(key))
                self._lineage = (key.run_id, lineage)
            elif manifest.purpose is Purpose.STATISTICS:
                reading.check_sum(plan, decoded, survivors, self._said(key.run_id, key.round)[1].noise_left)
                self._store.save_answer(layout.answer_digest(plan), self._reference(key))
            elif manifest.purpose is Purpose.TRAIN:
                sanity.check_norm(plan, decoded, survivors)
                lineage = provenance.advance(self.lineage(state), opened)
                model_hash, scaling_hash = lineage.model_hash, lineage.standardisation.hash
                state_hash = lineage.state_hash
                self._lineage = (key.run_id, lineage)
        except FedveilError as error:
            rejected = error.code
        measured = None
        try:
            measured = self._measure(state, manifest, decoded, survivors)
        except IntegrityError as error:
            rejected = error.code
        return Outcome(model_hash, state_hash, scaling_hash, measured, rejected, tuple(heard))

    def _measure(
        self, state: RunState, manifest: Manifest, decoded: decode.Decoded, survivors: int
    ) -> evaluation.Metrics | None:
        """IntegrityError `model_rejected` if what was measured cannot come from rows that exist."""
        plan = state.plan
        due = manifest.purpose is Purpose.TRAIN and layout.evaluation_due(plan, manifest.step)
        if manifest.purpose is not Purpose.EVALUATE and not due:
            return None
        _, result = self._said(manifest.key.run_id, manifest.key.round)
        sanity.check_measures(plan, decoded, survivors, private_sum.count_deviation(plan, result.noise_left))
        try:
            return evaluation.metrics(plan, decoded)
        except RoundAborted:
            if plan.privacy is None:  # else the noise alone can do it
                sanity.check_still_measured(state.best_loss)
            return None  # nobody holds out a row: nothing was ever measured

    def lineage(self, state: RunState) -> provenance.Lineage:
        """The walk to the current model of a run: remembered, or made again from the stored sums."""
        if self._lineage is not None and self._lineage[0] == state.run_id and self._lineage[1].step == state.step:
            return self._lineage[1]
        return self.lineage_to(state, state.step)

    def lineage_to(self, state: RunState, step: int) -> provenance.Lineage:
        """The walk of a run up to `step` model steps, from the stored sums."""
        scaling = None
        if state.standardise:
            scaling = self._settled(state.plan, state.standardise[0].run_id, state.standardise[0].round)
        ran = state.standardise[0].run_id if state.standardise else None
        lineage = provenance.set_out(
            state.plan, scaling, ran, lambda run, number, _: self._settled(state.plan, run, number)
        )
        for version in state.versions[:step]:
            lineage = provenance.advance(lineage, self._settled(state.plan, state.run_id, version.round))
        return lineage

    def _settled(self, plan: Plan, run_id: RunId, round: int) -> Signed:
        """The sum of a round as models are made of it: without the noise that no dropout used up."""
        opened = self._store.read_sum(run_id, round)
        if plan.privacy is None:
            return opened
        return member_noise.settled(plan, *self._said(run_id, round), opened, self._pool)

    def _said(self, run_id: RunId, round: int) -> tuple[Manifest, Result]:
        """What was signed of an opened sum."""
        offered, signed = self.source(run_id, round)
        manifest = wire.parse_body(BlobType.MANIFEST, offered.body)
        result = wire.parse_body(BlobType.RESULT, signed.body)
        assert isinstance(manifest, Manifest)
        assert isinstance(result, Result)
        return manifest, result

    def answers(self, state: RunState) -> list[dict[str, jcs.Json]]:
        """The answers of a statistics run whose sum, or an earlier one to the same questions, was opened."""
        ref, plan = state.standardise[0], state.plan
        _, result = self._said(ref.run_id, ref.round)
        opened = self._settled(plan, ref.run_id, ref.round)
        decoded = decode.decode(layout.layout_for(plan, Purpose.STATISTICS, 0), opened)
        return reading.to_json(plan, reading.answers(plan, decoded, result.noise_left))

    def source(self, run_id: RunId, round: int) -> tuple[SignedBlob, SignedBlob]:
        """The signed Manifest and Result of an opened sum. ConfigError `unknown_round`."""
        known = self._known.get((run_id, round))
        if known is not None:
            return known
        offered: SignedBlob | None = None  # a fold of its own: the driver may be noting the next offer meanwhile
        for kind, body in self._store.facts(run_id):
            match facts.decode(kind, body) if kind in _SOURCES else None:
                case facts.Offered(manifest=manifest):
                    offered = manifest
                case facts.SumOpened(result=result) if offered is not None and _round_of(offered) == round:
                    self._known[run_id, round] = (offered, result)
                    return offered, result
                case _:
                    pass
        raise ConfigError("unknown_round", f"run {run_id} has no opened round {round}")

    def note(self, run_id: RunId, fact: facts.Fact) -> int | None:
        """Remember where a sum came from, so that serving it costs no walk through the journal; the fact's round.

        On the driver's thread only: `_offered` is its own.
        """
        match fact:
            case facts.Offered():
                self._offered[run_id] = fact.manifest
                return _round_of(fact.manifest)
            case facts.SumOpened():
                manifest = self._offered[run_id]
                self._known[run_id, _round_of(manifest)] = (manifest, fact.result)
                return _round_of(manifest)
            case _:
                return None

    def _reference(self, key: AttemptKey) -> SumRef:
        """How later manifests name the sum that was just opened."""
        _, result = self.source(key.run_id, key.round)
        return SumRef(key.run_id, key.round, transcript.result_hash(result.body))


def _round_of(manifest: SignedBlob) -> int:
    parsed = wire.parse_body(BlobType.MANIFEST, manifest.body)
    assert isinstance(parsed, Manifest)
    return parsed.key.round
