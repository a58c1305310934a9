"""A published round as a sequence of parts: how it travels, and how `fedveil verify` writes it into a file.

Promise: parsing yields a value whose every part has its size and form, or raises MalformedError; whether it proves
anything is for `published.verify`. Parts, in this order: manifest, result, signed roster, dealers, adverts, headers,
votes, reveals, leaf hashes; under paillier also noise, terms and record of the key, leaf hashes of the product and of
each answer. In a file each part is preceded by its length, u32 big-endian.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedveil.v1 import rounds_pb2 as pb
from google.protobuf.message import DecodeError

from fedveil_common import limits
from fedveil_common.ids import COORDINATOR, OrgId, is_name
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.wire import tables
from fedveil_common.wire.fields import MalformedError

_PLACES = {
    BlobType.ADVERT: "adverts",
    BlobType.KEY_ADVERT: "adverts",
    BlobType.HEADER: "headers",
    BlobType.CIPHER_HEADER: "headers",
    BlobType.VOTE: "votes",
    BlobType.REVEAL: "reveals",
    BlobType.PARTIAL: "reveals",
}
"""Where a blob belongs; that all of a place are of the type of its protection is for who verifies them."""

_ONCE = (BlobType.MANIFEST, BlobType.RESULT, BlobType.NOISE)
_MOST_PARTS = 5 * limits.MAX_MEMBERS + 4

LEAF_KINDS: Mapping[LeafKind, "pb.LeafKind.ValueType"] = {
    LeafKind.INPUT: pb.LEAF_KIND_UNSPECIFIED,
    LeafKind.PRODUCT: pb.LEAF_KIND_PRODUCT,
    LeafKind.PARTIAL: pb.LEAF_KIND_PARTIAL,
}
"""How a request for leaves says of what."""

_LENGTH_BYTES = 4
_MOST_BYTES = {
    "signed_roster": limits.MAX_DOCUMENT,
    "key_terms": limits.MAX_DOCUMENT,
    "key_record": limits.MAX_KEY_RECORD,
}


def encode_parts(published: PublishedRound) -> Iterator[bytes]:
    """The parts of a round, one RoundPart each."""
    for blob in (published.manifest, published.result):
        yield _blob(blob)
    yield pb.RoundPart(signed_roster=published.signed_roster).SerializeToString(deterministic=True)
    dealers = pb.Dealers(org_ids=list(published.dealers))
    yield pb.RoundPart(dealers=dealers).SerializeToString(deterministic=True)
    for blobs in (published.adverts, published.headers, published.votes, published.reveals):
        for blob in blobs:
            yield _blob(blob)
    for org in sorted(published.leaf_hashes):
        part = pb.RoundPart(leaf_hashes=_hashes(org, published.leaf_hashes[org]))
        yield part.SerializeToString(deterministic=True)
    for blob in published.noise:
        yield _blob(blob)
    if published.key_terms:
        yield pb.RoundPart(key_terms=published.key_terms).SerializeToString(deterministic=True)
    if published.key_record:
        yield pb.RoundPart(key_record=published.key_record).SerializeToString(deterministic=True)
    if published.product_hashes:
        part = pb.RoundPart(product_hashes=_hashes(COORDINATOR, published.product_hashes))
        yield part.SerializeToString(deterministic=True)
    for org in sorted(published.partial_hashes):
        part = pb.RoundPart(partial_hashes=_hashes(org, published.partial_hashes[org]))
        yield part.SerializeToString(deterministic=True)


def parse_parts(parts: Iterable[bytes]) -> PublishedRound:
    """The round behind its parts. MalformedError with the path of what is wrong; memory is bounded by the limits."""
    single: dict[str, Any] = {}
    blobs: dict[str, list[SignedBlob]] = {place: [] for place in _PLACES.values()}
    hashes: dict[OrgId, tuple[bytes, ...]] = {}
    partials: dict[OrgId, tuple[bytes, ...]] = {}
    for number, data in enumerate(parts):
        path = f"part {number}"
        if number > _MOST_PARTS or len(data) > limits.MAX_MESSAGE:
            raise MalformedError(path, "more than a round can have")
        part = _decode(data, path)
        match part.WhichOneof("part"):
            case "blob":
                blob: SignedBlob = tables.BLOB.get(part, "blob", path)
                if blob.type in _PLACES:
                    found = blobs[_PLACES[blob.type]]
                    if len(found) >= limits.MAX_MEMBERS:
                        raise MalformedError(path, f"more {blob.type} blobs than a cohort has members")
                    found.append(blob)
                elif blob.type in _ONCE:
                    _once(single, blob.type.value, blob, path)
                else:
                    raise MalformedError(path, f"a blob of type {blob.type} is not published")
            case "signed_roster" | "key_terms" | "key_record" as name:
                document, most = getattr(part, name), _MOST_BYTES[name]
                if not 1 <= len(document) <= most:
                    raise MalformedError(path, f"{name} of {len(document)} bytes, not 1 to {most}")
                _once(single, name, document, path)
            case "dealers":
                _once(single, "dealers", tuple(_name(one, path) for one in part.dealers.org_ids), path)
            case "leaf_hashes":
                _add_hashes(hashes, part.leaf_hashes, limits.MAX_MEMBERS + 1, path)
            case "partial_hashes":
                _add_hashes(partials, part.partial_hashes, limits.MAX_HOLDERS, path)
            case "product_hashes":
                product: dict[OrgId, tuple[bytes, ...]] = {}
                _add_hashes(product, part.product_hashes, 1, path)
                if set(product) != {COORDINATOR}:
                    raise MalformedError(path, "the product is not the coordinator's")
                _once(single, "product_hashes", product[COORDINATOR], path)
            case _:
                raise MalformedError(path, "no known part")
    missing = {"manifest", "result", "signed_roster", "dealers"} - single.keys()
    if missing or len(single["dealers"]) > limits.MAX_MEMBERS:
        raise MalformedError("parts", f"missing: {', '.join(sorted(missing))}" if missing else "too many dealers")
    return PublishedRound(
        single["manifest"],
        single["result"],
        single["signed_roster"],
        tuple(blobs["adverts"]),
        single["dealers"],
        tuple(blobs["headers"]),
        tuple(blobs["votes"]),
        tuple(blobs["reveals"]),
        hashes,
        single.get("product_hashes", ()),
        partials,
        single.get("key_terms", b""),
        single.get("key_record", b""),
        (single["noise"],) if "noise" in single else (),
    )


def to_file(published: PublishedRound) -> bytes:
    """The parts end to end, each after its length."""
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in encode_parts(published))


def from_file(data: bytes) -> PublishedRound:
    """The inverse of `to_file`. MalformedError."""

    def parts() -> Iterator[bytes]:
        at = 0
        while at < len(data):
            start = at + _LENGTH_BYTES
            at = start + int.from_bytes(data[start - _LENGTH_BYTES : start], "big")
            if start > len(data) or at > len(data):
                raise MalformedError("file", "it ends within a part")
            yield data[start:at]

    return parse_parts(parts())


def _blob(blob: SignedBlob) -> bytes:
    part = pb.RoundPart()
    tables.BLOB.put(part, "blob", blob)
    return part.SerializeToString(deterministic=True)


def _hashes(org: OrgId, hashes: tuple[bytes, ...]) -> pb.LeafHashes:
    return pb.LeafHashes(org_id=org, hashes=list(hashes))


def _add_hashes(found: dict[OrgId, tuple[bytes, ...]], part: pb.LeafHashes, most: int, path: str) -> None:
    org, hashes = _name(part.org_id, path), tuple(part.hashes)
    sound = 1 <= len(hashes) <= limits.MAX_LEAVES and all(len(one) == 32 for one in hashes)
    if org in found or len(found) >= most or not sound:
        raise MalformedError(path, "not the leaf hashes of another vector")
    found[org] = hashes


def _decode(data: bytes, path: str) -> Any:
    try:
        part = pb.RoundPart.FromString(data)
    except DecodeError:
        raise MalformedError(path, "does not parse as protocol buffers") from None
    if part.SerializeToString(deterministic=True) != data:
        raise MalformedError(path, "not the canonical encoding, or unknown fields")
    return part


def _once(found: dict[str, Any], name: str, value: object, path: str) -> None:
    if name in found:
        raise MalformedError(path, f"a second {name}")
    found[name] = value


def _name(value: str, path: str) -> OrgId:
    if not is_name(value):
        raise MalformedError(path, "an id is not one")
    return OrgId(value)
