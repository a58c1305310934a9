"""The header of a sealed file: what is in it, for whom, and which one data key opens it.

Promise: the header that `parse` returns is byte for byte the one that `to_bytes` writes; it is believed only once
`Header.check` has found the commitment and the MAC right under the data key, and no chunk is opened before. A file has
one data key: without the commitment, two keys could open one AES-GCM ciphertext to two plaintexts (Len, Grubbs,
Ristenpart 2021). Everything but the recipients enters the associated data of every chunk, so that recipients can be
exchanged and nothing else can. The header is public. Source: docs/sealing.md.

    magic (8) || u32be length of the header || header, RFC 8785 || MAC (32) || chunks
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from fedveil_common import jcs
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import h
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import is_name
from fedveil_common.secret import Seed

MAGIC = b"FVSEAL\x01\n"
SUITE = "aes-256-gcm/hkdf-sha256"
CHUNK = 1024 * 1024
SALT_BYTES = 16
MAC_BYTES = 32
MOST_HEADER = 256 * 1024
MOST_RECIPIENTS = 256
MOST_LENGTH = 2**48


@dataclass(frozen=True, slots=True)
class Subject:
    """What a sealed file holds and where it belongs: it opens as nothing else. All three are ids of [a-z0-9_-]."""

    kind: str
    federation_id: str
    object_id: str

    def __post_init__(self) -> None:
        if not all(map(is_name, (self.kind, self.federation_id, self.object_id))):
            raise ValueError("kind, federation and object are 1 to 64 characters of a-z, 0-9, - and _")

    @property
    def fields(self) -> tuple[bytes, ...]:
        """As they enter hashes and wrapped keys."""
        return self.kind.encode(), self.federation_id.encode(), self.object_id.encode()


@dataclass(frozen=True, slots=True)
class Slot:
    """The data key, wrapped for one recipient. `recipient`: who can open it (a key's fingerprint in hex; the parameters
    of a passphrase); `wrapped`: the wrapped key.
    """

    way: str
    recipient: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A header as it stands in a file. `length`: of the plaintext, bytes; `mac`: over the rest of it."""

    subject: Subject
    salt: bytes
    length: int
    commitment: bytes
    slots: tuple[Slot, ...]
    mac: bytes

    @property
    def fixed(self) -> bytes:
        """Digest of all that re-wrapping leaves as it is: the associated data of every chunk."""
        return h("sealing/fixed", jcs.dumps(_fixed(self.subject, self.salt, self.length, self.commitment)))

    def check(self, key: Seed) -> None:
        """This is the header that was written under this data key. PeerError `sealed_header_damaged`."""
        committed = hmac.compare_digest(self.commitment, commitment(key, self.salt))
        if not committed or not hmac.compare_digest(self.mac, _mac(key, self.salt, _body(self))):
            raise damaged("it was changed, or the data key is another file's")

    def chunk_key(self, key: Seed) -> bytes:
        """Under which the chunks are encrypted. Secret."""
        return derive(self.salt, key.expose(), "sealing/chunks")

    @property
    def chunks(self) -> int:
        """How many there are: one for an empty plaintext."""
        return max(1, -(-self.length // CHUNK))


def make(key: Seed, subject: Subject, salt: bytes, length: int, slots: tuple[Slot, ...]) -> Header:
    """The header of a new file, or of one for other recipients. ValueError for sizes that no reader takes."""
    if len(salt) != SALT_BYTES or not 0 <= length <= MOST_LENGTH or not 1 <= len(slots) <= MOST_RECIPIENTS:
        raise ValueError("no reader would take such a header")
    bare = Header(subject, salt, length, commitment(key, salt), slots, b"")
    return Header(subject, salt, length, bare.commitment, slots, _mac(key, salt, _body(bare)))


def commitment(key: Seed, salt: bytes) -> bytes:
    """What binds a file to its one data key: 32 public bytes."""
    return derive(salt, key.expose(), "sealing/commit")


def to_bytes(header: Header) -> bytes:
    """All of the file before its chunks."""
    body = _body(header)
    return MAGIC + len(body).to_bytes(4, "big") + body + header.mac


def parse(stream: BinaryIO) -> tuple[Header, int]:
    """(header, where the chunks begin). ConfigError `not_sealed`, `sealed_version_unknown`; PeerError."""
    start = stream.read(len(MAGIC) + 4)
    if start[:6] != MAGIC[:6]:
        raise ConfigError("not_sealed", "this is no sealed file", not_done="nothing was opened")
    if start[: len(MAGIC)] != MAGIC:
        raise ConfigError(
            "sealed_version_unknown",
            "this file was sealed by another version of the format",
            not_done="nothing was opened",
            next_step="open it with the Fedveil that sealed it, or a newer one",
        )
    size = int.from_bytes(start[len(MAGIC) :], "big")
    if len(start) < len(MAGIC) + 4 or not 0 < size <= MOST_HEADER:
        raise damaged("its header has no length that can be")
    body, mac = stream.read(size), stream.read(MAC_BYTES)
    if len(body) != size or len(mac) != MAC_BYTES:
        raise damaged("the file ends within its header")
    try:
        header = _read(jcs.loads(body), mac)
        same = _body(header) == body
    except (KeyError, TypeError, ValueError) as error:
        raise damaged("its header cannot be read") from error
    if not same:
        raise damaged("its header is not written as Fedveil writes it")
    return header, len(start) + size + MAC_BYTES


def damaged(why: str) -> PeerError:
    """`sealed_header_damaged`."""
    return PeerError(
        "sealed_header_damaged",
        f"the header of the sealed file is damaged: {why}",
        not_done="nothing was opened",
        next_step="take another copy of the file",
    )


def _mac(key: Seed, salt: bytes, body: bytes) -> bytes:
    return hmac.digest(derive(salt, key.expose(), "sealing/header"), body, "sha256")


def _fixed(subject: Subject, salt: bytes, length: int, committed: bytes) -> dict[str, jcs.Json]:
    return {
        "suite": SUITE,
        "kind": subject.kind,
        "federation": subject.federation_id,
        "object": subject.object_id,
        "salt": salt.hex(),
        "chunk": CHUNK,
        "length": str(length),
        "commitment": committed.hex(),
    }


def _body(header: Header) -> bytes:
    slots: list[jcs.Json] = [
        {"way": one.way, "recipient": one.recipient, "wrapped": one.wrapped.hex()} for one in header.slots
    ]
    return jcs.dumps({**_fixed(header.subject, header.salt, header.length, header.commitment), "recipients": slots})


_FIELDS = frozenset({"suite", "kind", "federation", "object", "salt", "chunk", "length", "commitment", "recipients"})


def _read(value: jcs.Json, mac: bytes) -> Header:
    members = _object(value)
    if members.keys() != _FIELDS or members["suite"] != SUITE or members["chunk"] != CHUNK:
        raise ValueError("other fields, or a suite that is not known")
    listed = members["recipients"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_RECIPIENTS:
        raise ValueError("no recipients, or too many")
    slots = tuple(
        Slot(_text(one["way"]), _text(one["recipient"]), bytes.fromhex(_text(one["wrapped"])))
        for one in map(_object, listed)
    )
    subject = Subject(_text(members["kind"]), _text(members["federation"]), _text(members["object"]))
    salt, length = bytes.fromhex(_text(members["salt"])), int(_text(members["length"]))
    if len(salt) != SALT_BYTES or not 0 <= length <= MOST_LENGTH:
        raise ValueError("sizes that are not written")
    return Header(subject, salt, length, bytes.fromhex(_text(members["commitment"])), slots, mac)


def _object(value: jcs.Json) -> Mapping[str, jcs.Json]:
    if not isinstance(value, dict):
        raise TypeError("an object was expected")
    return value


def _text(value: jcs.Json) -> str:
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value
