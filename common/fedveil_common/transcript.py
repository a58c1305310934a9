"""The transcript hashes T0..T3 and the leaf hashes: what an attempt has agreed on so far, in 32 bytes each.

Each hash contains the one before it, and mask keys are derived under T2, so that participants who were shown different
manifests, key sets or dealer sets end up with masks that do not cancel. Source: FLSA/1 sections 2.2, 2.3, A17, A18.
"""

from collections.abc import Iterable, Mapping, Sequence

from fedveil_common.crypto.labels import h, u32
from fedveil_common.ids import COORDINATOR, OrgId

LEAF_COORDINATES = 16_384
"""Coordinates of a vector in one leaf, whatever the ring (A14)."""

MODEL_LEAF_BYTES = 65_536
"""Bytes of a model in one leaf (A18)."""


def t0(manifest_body: bytes) -> bytes:
    """T0 = H("T0", manifest body as received)."""
    return h("T0", manifest_body)


def t1(t0_hash: bytes, adverts: Mapping[OrgId, bytes]) -> bytes:
    """T1 over the advert bodies of U1, by sorted id."""
    fields = [f for org in sorted(adverts) for f in (org.encode(), h("advert", adverts[org]))]
    return h("T1", t0_hash, *fields)


def t2(t1_hash: bytes, dealers: Iterable[OrgId]) -> bytes:
    """T2 over the ids of U2, sorted."""
    return h("T2", t1_hash, *[org.encode() for org in sorted(dealers)])


def t3(t2_hash: bytes, headers: Mapping[OrgId, bytes]) -> bytes:
    """T3 over the header bodies of U3, by sorted id."""
    fields = [f for org in sorted(headers) for f in (org.encode(), h("header", headers[org]))]
    return h("T3", t2_hash, *fields)


def input_leaf(t2_hash: bytes, org_id: OrgId, index: int, data: bytes | bytearray | memoryview) -> bytes:
    """h_l of a masked input: H("chunk", T2, org, u32be(l), packed leaf)."""
    return h("chunk", t2_hash, org_id.encode(), u32(index), data)


def noise_leaf(nonce: bytes, index: int, data: bytes | bytearray | memoryview) -> bytes:
    """h_l of the coordinator's noise under paillier: H("chunk", offer nonce, "coordinator", u32be(l), block).

    The nonce stands where an input has T2: noise is older than every transcript hash of its attempt.
    """
    return input_leaf(nonce, COORDINATOR, index, data)


def product_leaf(t3_hash: bytes, index: int, data: bytes | bytearray | memoryview) -> bytes:
    """h_l of the product of the certified inputs under paillier: H("productleaf", T3, u32be(l), block)."""
    return h("productleaf", t3_hash, u32(index), data)


def partial_leaf(
    t3_hash: bytes, org_id: OrgId, quorum: Sequence[int], index: int, data: bytes | bytearray | memoryview
) -> bytes:
    """h_l of a holder's partial decryptions: H("partialleaf", T3, org, quorum as u8 indices, u32be(l), block)."""
    return h("partialleaf", t3_hash, org_id.encode(), bytes(quorum), u32(index), data)


def sum_leaf(t3_hash: bytes, index: int, data: bytes | bytearray | memoryview) -> bytes:
    """h_l of an opened sum: H("sumleaf", T3, u32be(l), packed leaf)."""
    return h("sumleaf", t3_hash, u32(index), data)


def leaf_root(leaves: Sequence[bytes]) -> bytes:
    """H("leaves", h_0, ..): the root over the leaf hashes in order."""
    return h("leaves", *leaves)


def result_hash(result_body: bytes) -> bytes:
    """H("result", body): how later manifests name an opened sum."""
    return h("result", result_body)


def manifest_hash(manifest_body: bytes) -> bytes:
    """H("manifest", body): how the next manifest names this one."""
    return h("manifest", manifest_body)


def model_hash(model: bytes | memoryview) -> bytes:
    """H("model", h_0, ..) over 64 KiB leaves of float32 little-endian bytes in plan order; the last leaf is shorter."""
    return model_root(model_leaves(model, 0))


def model_leaves(part: bytes | bytearray | memoryview, first: int) -> list[bytes]:
    """The leaf hashes of a part of a model that begins with leaf `first` and, unless it is the end, ends with a whole
    one. Parts are independent of each other.
    """
    view = memoryview(part).cast("B")
    return [
        h("modelleaf", u32(first + index), view[start : start + MODEL_LEAF_BYTES])
        for index, start in enumerate(range(0, len(view), MODEL_LEAF_BYTES))
    ]


def model_root(leaves: Iterable[bytes]) -> bytes:
    """H("model", h_0, ..): `model_hash` from all leaf hashes in order."""
    return h("model", *leaves)
