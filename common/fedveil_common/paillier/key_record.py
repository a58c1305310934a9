"""The public record of a key in one epoch: everything from which anybody can check it, and nothing that is computed.

Promise: `verify` returns a key only if every list has a proof, no list occurs twice, and enough of the holders under
the expected root signed its fingerprint: all of them in epoch 0, as many as the threshold later. Among a threshold of
signers somebody knows each seed, and at least one is honest while fewer than the threshold are not.
Source: docs/paillier-keys.md, "Record" (G1, G6).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import lp, u16, u32
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.paillier.ceremony_messages import Approval, encode_list, parse_list
from fedveil_common.paillier.encoding import integer
from fedveil_common.paillier.holder_lists import ProvenList, check_proofs, values_of
from fedveil_common.paillier.modulus import MAX_BITS, MIN_BITS, check_shape
from fedveil_common.paillier.octets import Octets
from fedveil_common.paillier.public_key import PublicKey, Terms
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.shares import SeedSet
from fedveil_common.secret import PrivateKey

_NAME_BYTES = 64
_LABEL = "paillier/key"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """`lists`: by seed set, with one proof each. `signatures`: on the fingerprint, by holder index."""

    holders: Holders
    epoch: int
    lists: Mapping[SeedSet, ProvenList]
    signatures: Mapping[int, bytes]

    @property
    def root(self) -> bytes:
        """Computed from terms and protocol keys; it is not in the encoding."""
        return self.holders.root

    def to_bytes(self) -> bytes:
        """The one encoding: terms, protocol keys, epoch, lists, signatures."""
        terms = self.holders.terms
        parts = [bytes([_VERSION]), encode_terms(terms), *self.holders.keys, u32(self.epoch)]
        parts += [encode_list(self.lists[absent], terms) for absent in terms.sets]
        parts.append(bytes([len(self.signatures)]))
        parts += [bytes([signer]) + self.signatures[signer] for signer in sorted(self.signatures)]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """A record that has the form of one; `verify` says whether it is true. PeerError `bad_key_message`."""
        octets = Octets(data, "key record")
        if octets.take(1)[0] != _VERSION:
            raise octets.refused("its version is unknown")
        terms = parse_terms(octets)
        keys = tuple(octets.take(signing.PUBLIC_KEY_BYTES) for _ in terms.holders)
        try:
            holders = Holders(terms, keys)
        except ValueError as error:
            raise octets.refused(str(error)) from error
        epoch = octets.unsigned(4)
        lists = {absent: parse_list(octets, terms) for absent in terms.sets}
        signatures: dict[int, bytes] = {}
        last = -1
        for _ in range(octets.unsigned(1)):
            signer = octets.unsigned(1)
            if not last < signer < len(keys):
                raise octets.refused("its signers are not ascending holders")
            signatures[signer], last = octets.take(signing.SIGNATURE_BYTES), signer
        octets.end()
        return cls(holders, epoch, lists, signatures)


def encode_terms(terms: Terms) -> bytes:
    """LP(federation) || LP(key id) || LP(I(n)) || u8 s || u16 K || u16 l || u8 N || u8 t || LP(holder) ..."""
    number = integer(terms.n, (int(terms.n).bit_length() + 7) // 8)
    head = lp(terms.federation.encode()) + lp(terms.key_id.encode()) + lp(number)
    head += bytes([terms.s]) + u16(terms.width) + u16(terms.bits) + bytes([len(terms.holders), terms.threshold])
    return head + b"".join(lp(holder.encode()) for holder in terms.holders)


def parse_terms(octets: Octets) -> Terms:
    """Terms in their one encoding, with an odd modulus of 2048 to 8192 bits. PeerError `bad_key_message`."""
    federation, key_id = _name(octets), _name(octets)
    number = octets.prefixed(MAX_BITS // 8)
    n = int.from_bytes(number, "big")
    if not number[:1].strip(b"\0") or n % 2 == 0 or n.bit_length() < MIN_BITS:
        raise octets.refused("its modulus is even, short or padded")
    s, width, bits = octets.unsigned(1), octets.unsigned(2), octets.unsigned(2)
    count, threshold = octets.take(2)
    holders = tuple(OrgId(_name(octets)) for _ in range(count))
    if not 1 <= s <= 3:
        raise octets.refused("s is not 1 to 3")
    try:
        return Terms(federation, key_id, n, s, width, bits, holders, threshold)
    except ValueError as error:
        raise octets.refused(str(error)) from error


def sign_key(private: PrivateKey, holders: Holders, signer: int, key: PublicKey) -> bytes:
    """A holder's signature on the fingerprint of a key that it checked."""
    return signing.sign_bytes(private, _LABEL, *_signed(holders, signer, key))


def verify_signature(holders: Holders, signer: int, key: PublicKey, signature: bytes) -> None:
    """Returns if holder `signer` signed the fingerprint of `key`. PeerError `bad_signature`, naming it."""
    fields = _signed(holders, signer, key)
    signing.verify_bytes(holders.keys[signer], signature, _LABEL, *fields, peer=holders.name(signer))


def check_approval(holders: Holders, signer: int, key: PublicKey, approval: Approval) -> None:
    """Returns if `signer` approves exactly `key`.

    PeerError `key_list_differs` for an approval of another key, `bad_signature`; peer = the signer.
    """
    if approval.fingerprint != key.fingerprint:
        raise PeerError(
            "key_list_differs",
            f"{holders.name(signer)} approves another key than the lists that arrived here make",
            peer=holders.name(signer),
            not_done="its signature was not counted",
            next_step="compare the signed lists of both holders: who signed two of one set is at fault",
        )
    verify_signature(holders, signer, key, approval.signature)


def verify(record: KeyRecord, root: bytes) -> PublicKey:
    """The key of a record, if it is one under `root`.

    PeerError `other_key_root`, `too_few_key_signatures`, `bad_signature`, `bad_list_proof`, `bad_group_element`,
    `bad_key_list`, `bad_key_modulus`. Signatures that are there must all be good. A modulus can lack more than is seen
    here: that it is the one of a checked record (`modulus_record`) is for the caller to see.
    """
    holders = record.holders
    if holders.root != root:
        raise PeerError(
            "other_key_root",
            "the key was made by other holders or under other terms than those pinned",
            not_done="the key was not accepted",
            next_step="compare the root with the holders by telephone before pinning another",
        )
    needed = len(holders.keys) if record.epoch == 0 else holders.terms.threshold
    if len(record.signatures) < needed:
        raise PeerError(
            "too_few_key_signatures",
            f"{len(record.signatures)} holders signed the key of epoch {record.epoch}, which needs {needed}",
            not_done="the key was not accepted",
        )
    if any(not 0 <= signer < len(holders.keys) for signer in record.signatures):
        raise PeerError("bad_key_message", "a signer of the key is none of its holders")
    _check_modulus(holders.terms.n)
    check_proofs(holders, record.epoch, record.lists)
    key = PublicKey(holders.terms, record.epoch, values_of(record.lists))
    for signer, signature in record.signatures.items():
        verify_signature(holders, signer, key, signature)
    return key


def _check_modulus(n: int) -> None:
    try:
        check_shape(n, int(n).bit_length())
    except ConfigError as error:
        raise PeerError(
            "bad_key_modulus",
            f"the modulus of a key is unfit: {error.what}",
            not_done="the key was not accepted",
            next_step="ask the holders which modulus they took, and take no key of theirs until it is another one",
        ) from error


def _signed(holders: Holders, signer: int, key: PublicKey) -> tuple[bytes, ...]:
    return holders.root, u32(key.epoch), key.fingerprint, holders.name(signer).encode()


def _name(octets: Octets) -> str:
    try:
        return octets.prefixed(_NAME_BYTES).decode("ascii")
    except UnicodeDecodeError as error:
        raise octets.refused("a name is not ASCII") from error
