"""From an attempt under protection paillier to the arithmetic on its ciphertexts: what lies where, under which key.

Promise: an input or an answer is examined before the round hears of it; what is multiplied are exactly the certified
inputs and the noise that the manifest commits to. Any thread. Source: docs/paillier.md, section 6.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedveil_common import limits, transcript
from fedveil_common.errors import PeerError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.leafshape import BlockShape, Shape
from fedveil_common.messages import CipherHeader, Manifest, Noise, Partial
from fedveil_common.paillier.block_leaves import read_header, read_lift
from fedveil_common.paillier.encryption import PROOF_MARGIN, nonce_bits
from fedveil_common.paillier.input_proof import input_context
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape, shape_in_use
from fedveil_common.paillier.tables import ShortPowers
from fedveil_common.ports import Entropy, LeafSink, LeafSource

from fedveil_coordinator import ciphers
from fedveil_coordinator.attempt import Attempt, Collecting, Decrypting, Frame, Multiplying, Opening
from fedveil_coordinator.noising import NoiseSource, make_noise
from fedveil_coordinator.ports import Journal


class Keys(Protocol):
    """Where published keys are found."""

    def use(self, key_id: str) -> KeyUse:
        """The newest published epoch of a key. ConfigError `no_such_key`."""
        ...

    def public(self, fingerprint: bytes) -> PublicKey:
        """The verified key of a run. ConfigError `no_such_key`."""
        ...


class CipherStore(Protocol):
    """Where blocks are kept; a part of the driver's journal."""

    def open_input(self, key: AttemptKey, org_id: OrgId) -> LeafSource: ...  # noqa: D102
    def new_product(self, key: AttemptKey, shape: Shape) -> LeafSink: ...  # noqa: D102
    def open_product(self, key: AttemptKey) -> LeafSource: ...  # noqa: D102
    def open_answer(self, key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...]) -> LeafSource: ...  # noqa: D102
    def new_sum(self, run_id: RunId, round: int, length: int, bits: int) -> LeafSink: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class _Open:
    key: PublicKey
    short: ShortPowers


class CipherDesk:
    """The tables of a key are made once, at its first use: some ten milliseconds."""

    def __init__(self, keys: Keys, store: CipherStore, entropy: Entropy) -> None:
        self._keys = keys
        self._store = store
        self._entropy = entropy
        self._lock = threading.Lock()
        self._known: dict[bytes, _Open] = {}
        self._headers: dict[AttemptKey, dict[bytes, OrgId]] = {}

    def _open(self, use: KeyUse) -> _Open:
        with self._lock:
            if use.fingerprint not in self._known:
                key = self._keys.public(use.fingerprint)
                powers = ShortPowers(key.g, key.group.n, nonce_bits(key.terms.bits) + PROOF_MARGIN)
                self._known = {use.fingerprint: _Open(key, powers)}
            return self._known[use.fingerprint]

    def noise(self, use: KeyUse, draft: Manifest, source: NoiseSource, journal: Journal) -> Noise:
        """The noise of an offer that is to be made, encrypted and durable."""
        return make_noise(self._open(use).key, shape_in_use(use, draft), draft, source, journal, self._entropy)

    def examine(self, attempt: Attempt, org: OrgId, body: CipherHeader | Partial) -> None:
        """What `org` uploaded under `body`; every leaf of it is there. PeerError names it: then it counts nowhere."""
        frame, use = attempt.frame, attempt.frame.keys[0]
        opened, shape = self._open(use), shape_in_use(use, frame.manifest)
        if isinstance(body, CipherHeader):
            context = input_context(frame.t0, org, shape.slots.length, shape.blocks.count, shape.blocks.width)
            with _closing([self._store.open_input(frame.key, org)]) as (source,):
                ciphers.examine_input(opened.key, opened.short, shape, context, body, org, source, self._entropy)
                self._check_distinct(attempt, org, source, shape)
            return
        sources = [self._store.open_answer(frame.key, org, body.quorum), self._store.open_product(frame.key)]
        with _closing(sources) as (answer, product):
            holder = use.holders.index(org)
            ciphers.examine_partial(opened.key, opened.short, shape, body.t3, body, holder, answer, product)

    def _check_distinct(self, attempt: Attempt, org: OrgId, source: LeafSource, shape: RoundShape) -> None:
        """PeerError naming `org` if a header of it is one of an input that was examined before."""
        key, stage = attempt.key, attempt.stage
        with self._lock:  # of two that arrive at the same time one is the later
            if key not in self._headers:  # the first input of the attempt that this process sees
                seen: dict[bytes, OrgId] = {}
                for one in sorted(stage.headers) if isinstance(stage, Collecting) else ():
                    with _closing([self._store.open_input(key, one)]) as (accepted,):
                        ciphers.check_distinct(seen, one, ciphers.read_headers(shape, accepted))
                before = list(self._headers.items())[-1:]  # of which one may still be examined
                self._headers = {**dict(before), key: seen}
            ciphers.check_distinct(self._headers[key], org, ciphers.read_headers(shape, source))

    def multiply(self, frame: Frame, stage: Multiplying) -> bytes:
        """The product of the certified inputs is durable; its leaf root."""
        use = frame.keys[0]
        opened, shape = self._open(use), shape_in_use(use, frame.manifest)
        sink = self._store.new_product(frame.key, BlockShape(shape.blocks.count, shape.input_leaf_bytes))
        try:
            inputs = [*sorted(stage.headers), *(blob.signer_id for blob in frame.noise)]
            with _closing([self._store.open_input(frame.key, org) for org in inputs]) as sources:
                hashes = ciphers.multiply(opened.key, shape, stage.t3, sources, sink)
            sink.finish(replace=True)
        finally:
            sink.discard()
        return transcript.leaf_root(hashes)

    def open(self, frame: Frame, stage: Decrypting) -> bytes:
        """The sum is durable; its leaf root. IntegrityError `not_opened`, `sum_out_of_range`."""
        use, manifest, quorum = frame.keys[0], frame.manifest, stage.quorums[-1]
        opened, shape = self._open(use), shape_in_use(use, manifest)
        sink = self._store.new_sum(frame.key.run_id, frame.key.round, manifest.length, manifest.ring_bits)
        sources = [self._store.open_product(frame.key)]
        sources += [self._store.open_answer(frame.key, org, quorum) for org in use.names(quorum)]
        try:
            with _closing(sources) as (product, *answers):
                survivors = len(stage.headers)
                hashes = ciphers.open_sum(
                    opened.key, shape, stage.t3, survivors, product, answers, manifest.ring_bits, sink.write
                )
            sink.finish(replace=True)
        finally:
            sink.discard()
        return transcript.leaf_root(hashes)

    def headers(self, attempt: Attempt, org: OrgId) -> Iterator[tuple[str, int, list[bytes]]]:
        """What a holder checks and multiplies: (survivor, first block, c_b ..) of each, then ("", first block, L_b ..);
        the noise under "coordinator".

        PeerError `headers_not_due` unless `org` is a holder and the product is there.
        """
        frame, stage = attempt.frame, attempt.stage
        if not isinstance(stage, Decrypting | Opening) or org not in frame.keys[0].holders:
            raise PeerError("headers_not_due", "nothing is to be decrypted by this organisation now", peer=org)
        shape = shape_in_use(frame.keys[0], frame.manifest)
        held = stage.revealing if isinstance(stage, Opening) else stage
        for one in [*sorted(held.headers), *(blob.signer_id for blob in frame.noise)]:
            yield from _pieces(self._store.open_input(frame.key, one), one, shape, read_header)
        yield from _pieces(self._store.open_product(frame.key), "", shape, read_lift)

    def shape(self, attempt: Attempt) -> RoundShape | None:
        """Of the blocks of an attempt; None under masked."""
        return shape_in_use(attempt.frame.keys[0], attempt.frame.manifest) if attempt.frame.keys else None


def _pieces(
    source: LeafSource, name: str, shape: RoundShape, read: Callable[[bytes | bytearray, RoundShape], bytes]
) -> Iterator[tuple[str, int, list[bytes]]]:
    """One number of each block, some at a time."""
    with _closing([source]):
        for first in range(0, shape.blocks.count, limits.NUMBERS_PER_FRAME):
            last = min(first + limits.NUMBERS_PER_FRAME, shape.blocks.count)
            yield name, first, [read(source.packed(index), shape) for index in range(first, last)]


class _closing:
    """Sources that are closed at the end."""

    def __init__(self, sources: Sequence[LeafSource]) -> None:
        self._sources = sources

    def __enter__(self) -> Sequence[LeafSource]:
        return self._sources

    def __exit__(self, *_: object) -> None:
        for source in self._sources:
            source.close()
