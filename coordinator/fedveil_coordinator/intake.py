"""The leaves of one upload: each verified as it arrives, in order, against the hash list that the header commits to.

Promise: nothing is handed on that does not match; a fault names the leaf; state is a counter. Source: FLSA/1 2.10.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedveil_common import transcript, wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.leafshape import BlockShape, RingShape, Shape
from fedveil_common.leafspool import Announced
from fedveil_common.masking import packing
from fedveil_common.messages import CipherHeader, Header, Partial, SignedBlob
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.ringfile import leaf_length

UPLOADS_AT_ONCE = 4
"""Uploads received at the same time; further ones wait, so that memory does not grow with the cohort."""


def _nowhere(index: int, data: bytes) -> None:
    raise ValueError(f"leaf {index} came before the upload began")


@dataclass(frozen=True, slots=True)
class Due:
    """What an upload must be: whose, of which shape, and the hash that its signed body gives to each leaf. `quorum`: of
    the holder's answer that it is; empty for an input.
    """

    org: OrgId
    shape: Shape
    leaf_root: bytes
    hash_leaf: Callable[[int, bytes], bytes]
    quorum: tuple[int, ...] = ()


def due(body: Header | CipherHeader | Partial, blocks: RoundShape | None) -> Due:
    """What `body`, whose signature and transcript were checked, announces. `blocks`: of the attempt, under paillier."""
    if isinstance(body, Header):
        ring, t2, org = RingShape(body.length, body.ring_bits), body.t2, body.org_id
        return Due(org, ring, body.leaf_root, lambda index, data: transcript.input_leaf(t2, org, index, data))
    assert blocks is not None, "ciphertexts come under paillier"
    count, org = blocks.blocks.count, body.org_id
    if isinstance(body, CipherHeader):
        shape, t2 = BlockShape(count, blocks.input_leaf_bytes), body.t2
        return Due(org, shape, body.leaf_root, lambda index, data: transcript.input_leaf(t2, org, index, data))
    shape, t3, quorum = BlockShape(count, blocks.partial_leaf_bytes), body.t3, body.quorum

    def hash_leaf(index: int, data: bytes) -> bytes:
        return transcript.partial_leaf(t3, org, quorum, index, data)

    return Due(org, shape, body.leaf_root, hash_leaf, quorum)


class Intake:
    """One upload. `begin` says where it goes; then come `take`s and `complete`. PeerError `wrong_leaf_root`."""

    def __init__(self, upload: Due, leaf_hashes: Sequence[bytes]) -> None:
        self._due = upload
        self._hashes = leaf_hashes
        self._next = 0
        self._write: Callable[[int, bytes], None] = _nowhere
        if len(leaf_hashes) != upload.shape.leaves or transcript.leaf_root(leaf_hashes) != upload.leaf_root:
            raise self._fault("wrong_leaf_root", "the announced leaf hashes are not those of the header")

    def announced(self, header: SignedBlob) -> Announced:
        """What `header`, the signed form of this upload's, commits its sender to."""
        identity = hashlib.sha256(wire.encode_blob(header)).digest()
        return Announced(self._due.shape, identity, self.matches)

    def matches(self, index: int, data: bytes) -> bool:
        """Whether `data` is leaf `index` as announced."""
        return self._due.hash_leaf(index, data) == self._hashes[index]

    def begin(self, first: int, write: Callable[[int, bytes], None]) -> None:
        """The leaves before `first` are there; `write(leaf index, data)` is called for each verified one, in order."""
        self._next, self._write = first, write

    def take(self, first: int, leaves: Sequence[bytes]) -> None:
        """Consecutive leaves beginning with number `first`. PeerError names the leaf; nothing of it was written."""
        for index, data in enumerate(leaves, first):
            if index >= len(self._hashes):
                raise self._fault("extra_leaf", f"leaf {index} does not exist, there are {len(self._hashes)}")
            if index < self._next:
                raise self._fault("duplicate_leaf", f"leaf {index} came twice")
            if index > self._next:
                raise self._fault("leaf_out_of_order", f"leaf {index} came before leaf {self._next}")
            self._check_form(index, data)
            if not self.matches(index, data):
                raise self._fault("bad_leaf", f"leaf {index} does not match its announced hash")
            self._write(index, data)
            self._next = index + 1

    def _check_form(self, index: int, data: bytes) -> None:
        """The size of a leaf, and zeros in the padding that only a last leaf of residues can have."""
        shape = self._due.shape
        if len(data) != shape.size(index):
            raise self._fault("bad_leaf", f"leaf {index} has {len(data)} bytes, not {shape.size(index)}")
        if not isinstance(shape, RingShape):
            return
        length, bits = leaf_length(shape.length, index), shape.bits
        if length % 8:
            try:
                packing.unpack(data, length, bits)
            except PeerError as error:
                raise self._fault("bad_leaf", f"leaf {index}: {error.what}") from None

    def complete(self) -> None:
        """Raises PeerError `missing_leaf` unless every leaf has come."""
        if self._next != len(self._hashes):
            raise self._fault("missing_leaf", f"the upload ended before leaf {self._next} of {len(self._hashes)}")

    def _fault(self, code: str, what: str) -> PeerError:
        return PeerError(
            code,
            what,
            peer=self._due.org,
            not_done="the input was not accepted and nothing was added to any sum",
            next_step="the participant goes on from the first leaf that is missing",
        )
