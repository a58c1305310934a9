"""What the participant's driver needs from its surroundings: connection, journal, bench, workers.

Built in `fedveil_cli`, in the store and in simulations.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Protocol

import numpy as np
from fedveil_common.errors import FedveilError
from fedveil_common.gate import UNLABELLED, Label
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.leafshape import Shape
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import CoordinatorMessage, Manifest, ParticipantMessage, Purpose, SignedBlob
from fedveil_common.noise_links import Coins
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.plan import Plan
from fedveil_common.ports import LeafSink, LeafSource
from fedveil_common.provenance import Lineage
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant.certified_headers import CertifiedHeaders
from fedveil_participant.checking import SumDownload
from fedveil_participant.events import AnswerQuorum, Changes, EncryptUpdate, ProvenAnswer, ProvenInput, SpentKey
from fedveil_participant.stages import Stage


class Link(Protocol):
    """The connection to the coordinator. All methods may be called from any thread."""

    def open(self, on_message: Callable[[CoordinatorMessage], None], on_closed: Callable[[FedveilError], None]) -> None:
        """Begin a session; what arrives goes to `on_message`, its end (or failure to begin) to `on_closed`, once."""
        ...

    def send(self, message: ParticipantMessage, label: Label = UNLABELLED) -> None:
        """Queue a message on the session; dropped if there is none. `label`: what the outbox says about it."""
        ...

    def submit_input(
        self, header: SignedBlob, leaf_hashes: tuple[bytes, ...], source: LeafSource, label: Label = UNLABELLED
    ) -> SignedBlob:
        """Upload a masked input; returns the coordinator's receipt, unchecked. Raises FedveilError."""
        ...

    def fetch_headers(self, key: AttemptKey) -> Iterable[tuple[str, int, bytes]]:
        """Under paillier: (survivor, block, c_b) and ("", block, L_b) of the certified inputs of an attempt, and
        ("coordinator", block, c_b) of its noise, big-endian. Nothing of it is checked. Raises FedveilError.
        """
        ...

    def fetch_sum(self, run_id: RunId, round: int) -> SumDownload:
        """Download an opened sum. Raises FedveilError."""
        ...

    def fetch_round(self, run_id: RunId, round: int) -> PublishedRound:
        """Download what was published of an opened round. Raises FedveilError."""
        ...

    def fetch_leaves(
        self, run_id: RunId, round: int, leaves: Sequence[int], kind: LeafKind = LeafKind.INPUT
    ) -> Iterable[tuple[OrgId, int, bytes]]:
        """Download leaves of all inputs, of the product or of the answers, in order. Raises FedveilError."""
        ...


class Cipher(Protocol):
    """Where updates are encrypted and, at a holder, sums decrypted in part: the keys of this home, and their tables."""

    def accepted(self, key_id: str) -> KeyUse:
        """The key that is pinned under this id. PolicyRefusal `key_not_pinned`."""
        ...

    def claim(self, use: KeyUse, run_id: RunId) -> None:
        """This epoch of the key serves this run. PolicyRefusal `key_epoch_used`."""
        ...

    def prepare(self, use: KeyUse, shape: RoundShape) -> None:
        """Inputs of this shape will be encrypted soon: make ready what takes time. Returns at once."""
        ...

    def encrypt(
        self, action: EncryptUpdate, use: KeyUse, me: OrgId, integers: NDArray[np.int64], sink: LeafSink
    ) -> tuple[ProvenInput, tuple[bytes, ...]]:
        """What the header says, and the leaf hashes; the leaves are durable. `integers`: the organisation's secret."""
        ...

    def answer(
        self, action: AnswerQuorum, use: KeyUse, me: OrgId, fetched: CertifiedHeaders, sink: LeafSink
    ) -> tuple[ProvenAnswer, tuple[bytes, ...]]:
        """The proof and the leaf hashes of this holder's partial decryptions; the leaves are durable.

        PeerError if anything that was fetched is not what was certified: then no share was used.
        """
        ...


class StoredUpdate(Protocol):
    """An update at rest: float64 blocks end to end, read piece by piece, from any thread."""

    @property
    def model_hash(self) -> bytes:
        """Of the model it was made from."""
        ...

    def read(self, start: int, count: int) -> NDArray[np.float64]:
        """Coordinates start .. start+count, the organisation's secret. IntegrityError if the disk changed them."""
        ...

    def close(self) -> None:
        """Done with it."""
        ...


class Journal(Protocol):
    """What the driver keeps. `stage` is sealed by the store; one transaction per call."""

    def save(
        self, key: AttemptKey, stage: Stage, kind: str, trail: tuple[tuple[str, str], ...], changes: Changes
    ) -> None:
        """Replace the stage, apply the changes, append to the trail: in one transaction."""
        ...

    def new_input(self, key: AttemptKey, length: int, bits: int) -> LeafSink: ...  # noqa: D102
    def new_blocks(self, key: AttemptKey, shape: Shape) -> LeafSink: ...  # noqa: D102
    def new_answer(self, key: AttemptKey, quorum: tuple[int, ...], shape: Shape) -> LeafSink: ...  # noqa: D102
    def open_answer(self, key: AttemptKey, quorum: tuple[int, ...]) -> LeafSource: ...  # noqa: D102
    def open_input(self, key: AttemptKey) -> LeafSource: ...  # noqa: D102
    def discard_input(self, key: AttemptKey) -> None: ...  # noqa: D102
    def put_update(  # noqa: D102
        self, key: SpentKey, model_hash: bytes, blocks: Sequence[NDArray[np.float64]]
    ) -> None: ...
    def open_update(self, key: SpentKey) -> StoredUpdate | None: ...  # noqa: D102
    def drop_update(self, key: SpentKey) -> None: ...  # noqa: D102
    def admit_version(self, dataset: str, version: bytes) -> None: ...  # noqa: D102
    def admit_ledger(self, dataset: str) -> None: ...  # noqa: D102
    def drop_updates(self) -> None: ...  # noqa: D102
    def save_plan(self, run_id: RunId, plan_hash: bytes, canonical: bytes, version: bytes) -> None: ...  # noqa: D102
    def save_sketch(self, version: bytes, sketch: bytes) -> None: ...  # noqa: D102
    def keep_snapshots(self, wanted: Iterable[tuple[bytes, bytes]]) -> None:
        """Accepted data is kept for these (plan hash, version) alone, and erased for all others."""
        ...

    def save_roster(self, signed: bytes) -> None: ...  # noqa: D102
    def save_newer_roster(self, signed: bytes) -> None: ...  # noqa: D102
    def save_end(self, run_id: RunId, plan_hash: bytes, code: str, model_file: bytes, answers: bytes = b"") -> None:
        """How a run ended; its final model, and the answers of a statistics run, each empty if there is none."""
        ...

    def put_countersignature(self, run_id: RunId, blob: SignedBlob, *, held: bool) -> None:
        """This participant vouches for the model of a run; `held`: once its owner has said so."""
        ...

    def countersignature(self, run_id: RunId) -> tuple[SignedBlob, ...]: ...  # noqa: D102
    def countersignature_held(self, run_id: RunId) -> bool: ...  # noqa: D102
    def has_end(self, run_id: RunId) -> bool: ...  # noqa: D102
    def note(self, kind: str, facts: tuple[tuple[str, str], ...]) -> None: ...  # noqa: D102
    def keep_receipt(self, receipt: SignedBlob, key: bytes, due: bytes) -> bool:
        """A receipt is durable beside the outbox row that awaits the body `due`; whether there was such a row without
        one. `key`: the coordinator's protocol key that is pinned now.
        """
        ...


class Bench(Protocol):
    """Where data is read and models are trained: the organisation's own table, behind its own checks."""

    def accept(self, plan: Plan) -> bytes:
        """The version label of the registered data set under this plan. Raises FedveilError if it does not fit."""
        ...

    def sketch(self, version: bytes) -> bytes:
        """Of a version that `accept` gave: tells it from one with few other rows. Empty if there is none."""

    def rows(self, plan: Plan, version: bytes) -> int:
        """How many rows an input of this plan is made from, after all filters; `version` is what was accepted. The
        organisation's own figure. Raises FedveilError.
        """
        ...

    def contribution(
        self, plan: Plan, version: bytes, purpose: Purpose, lineage: Lineage | None, fresh: Callable[[], Seed]
    ) -> Sequence[NDArray[np.float64]]:
        """The update and all else that enters the sum, before quantisation: float64 blocks, d coordinates in all.

        `lineage` is None for purpose standardise. `fresh` draws the 32 bytes that choose the sample and its rounding
        where the plan has differential privacy. PolicyRefusal `data_changed` if the data is no longer `version`.
        """
        ...

    def encode(self, plan: Plan, manifest: Manifest, values: NDArray[np.float64], coins: Coins, start: int) -> Signed:
        """`values`, coordinates start .. start+len of a sum's vector, quantised under the plan's layout, with this
        participant's own noise: signed integers in fresh memory. The same whatever the pieces; any thread.
        """
        ...


class Workers(Protocol):
    """Where long work runs: a bounded pool in production, inline in a simulation."""

    @property
    def pool(self) -> Executor | None:
        """For parallel pieces of one job; None: do them in order."""
        ...

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which posts what comes of it and raises nothing but defects."""
        ...
