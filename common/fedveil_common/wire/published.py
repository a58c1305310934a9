"""A published round as a sequence of parts: how it travels, and how `fedveil verify` writes it into a file.

Promise: parsing yields a value whose every part has its size and form, or raises MalformedError; whether it proves
anything is for `published.verify`. Parts, in this order: manifest, result, signed roster, dealers, adverts, headers,
votes, reveals, leaf hashes. In a file each part is preceded by its length, u32 big-endian.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from fedveil.v1 import rounds_pb2 as pb
from google.protobuf.message import DecodeError

from fedveil_common import limits
from fedveil_common.ids import OrgId, is_name
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.published import PublishedRound
from fedveil_common.wire import tables
from fedveil_common.wire.fields import MalformedError

_KINDS = (BlobType.ADVERT, BlobType.HEADER, BlobType.VOTE, BlobType.REVEAL)
_LENGTH_BYTES = 4


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
        hashes = pb.LeafHashes(org_id=org, hashes=list(published.leaf_hashes[org]))
        yield pb.RoundPart(leaf_hashes=hashes).SerializeToString(deterministic=True)


def parse_parts(parts: Iterable[bytes]) -> PublishedRound:
    """The round behind its parts. MalformedError with the path of what is wrong; memory is bounded by the limits."""
    single: dict[str, Any] = {}
    blobs: dict[BlobType, list[SignedBlob]] = {kind: [] for kind in _KINDS}
    hashes: dict[OrgId, tuple[bytes, ...]] = {}
    for number, data in enumerate(parts):
        path = f"part {number}"
        if number > 5 * limits.MAX_MEMBERS + 4 or len(data) > limits.MAX_MESSAGE:
            raise MalformedError(path, "more than a round can have")
        part = _decode(data, path)
        match part.WhichOneof("part"):
            case "blob":
                blob: SignedBlob = tables.BLOB.get(part, "blob", path)
                if blob.type in blobs:
                    if len(blobs[blob.type]) >= limits.MAX_MEMBERS:
                        raise MalformedError(path, f"more {blob.type} blobs than a cohort has members")
                    blobs[blob.type].append(blob)
                elif blob.type in (BlobType.MANIFEST, BlobType.RESULT):
                    _once(single, blob.type.value, blob, path)
                else:
                    raise MalformedError(path, f"a blob of type {blob.type} is not published")
            case "signed_roster":
                if len(part.signed_roster) > limits.MAX_DOCUMENT:
                    raise MalformedError(path, "the roster is too large")
                _once(single, "roster", part.signed_roster, path)
            case "dealers":
                _once(single, "dealers", tuple(_name(one, path) for one in part.dealers.org_ids), path)
            case "leaf_hashes":
                org, found = _name(part.leaf_hashes.org_id, path), tuple(part.leaf_hashes.hashes)
                if org in hashes or not 1 <= len(found) <= limits.MAX_LEAVES or any(len(one) != 32 for one in found):
                    raise MalformedError(path, "not the leaf hashes of another input")
                hashes[org] = found
            case _:
                raise MalformedError(path, "no known part")
    missing = {"manifest", "result", "roster", "dealers"} - single.keys()
    if missing or len(single["dealers"]) > limits.MAX_MEMBERS:
        raise MalformedError("parts", f"missing: {', '.join(sorted(missing))}" if missing else "too many dealers")
    return PublishedRound(
        single["manifest"],
        single["result"],
        single["roster"],
        tuple(blobs[BlobType.ADVERT]),
        single["dealers"],
        tuple(blobs[BlobType.HEADER]),
        tuple(blobs[BlobType.VOTE]),
        tuple(blobs[BlobType.REVEAL]),
        hashes,
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
