"""The terms of a key as a document that all holders read before there is any secret.

Promise: `KeyTerms` that were read hold a modulus whose record passed every check, and holders with whom a root can be
made. A key's record says only which n; this document embeds the record of the modulus, so that every holder and every
participant checks for itself where n comes from. Nobody signs it: who reads it compares the root with the others, and
the fingerprint of the modulus, which the root does not cover. Public throughout.

Format: canonical JSON {columns, federation, format, holders, id, modulus, randomness, threshold}; `holders` is a list
of {key, org} sorted by org, keys in hex of 32 bytes; `modulus` is the record of `modulus_record` as it is.
Source: docs/paillier-keys.md, "The key in pieces"; docs/keys.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId, check_name
from fedveil_common.paillier.modulus_record import MAX_RECORD, ModulusRecord
from fedveil_common.paillier.public_key import Terms
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.shares import EXPONENT_BITS, MAX_HOLDERS
from fedveil_common.pki import documents

FORMAT = "fedveil/paillier-terms/v1"
MAX_TERMS = MAX_RECORD + 16 * 1024
RANDOMNESS = EXPONENT_BITS
"""l: bits of the randomness of a ciphertext, where nobody chose another length."""

_WHAT = "document of terms"
_NAMES = {"columns", "federation", "format", "holders", "id", "modulus", "randomness", "threshold"}


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """`modulus`: the record whose n and s stand in the terms. ValueError if they do not."""

    modulus: ModulusRecord
    holders: Holders

    def __post_init__(self) -> None:
        terms = self.holders.terms
        if (terms.n, terms.s) != (self.modulus.modulus.n, self.modulus.s):
            raise ValueError("the terms are of another modulus")

    @property
    def terms(self) -> Terms:
        """What the root is made of, protocol keys apart."""
        return self.holders.terms

    def encode(self) -> bytes:
        """The document."""
        terms = self.terms
        pairs = zip(terms.holders, self.holders.keys, strict=True)
        return jcs.dumps(
            {
                "columns": terms.width,
                "federation": terms.federation,
                "format": FORMAT,
                "holders": [{"key": key.hex(), "org": str(org)} for org, key in pairs],
                "id": terms.key_id,
                "modulus": jcs.loads(self.modulus.encode()),
                "randomness": terms.bits,
                "threshold": terms.threshold,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The terms in a document. PeerError `bad_document`; everything that a modulus or its record can lack."""
        fields = documents.Fields(documents.canonical(data.strip(), _WHAT, MAX_TERMS), _WHAT, _NAMES)
        if fields.value("format") != FORMAT:
            raise documents.bad(_WHAT, "its format is not ours")
        rows = [documents.Fields(row, _WHAT, {"key", "org"}) for row in fields.rows("holders", MAX_HOLDERS)]
        keys = {OrgId(row.name("org")): row.hex("key", signing.PUBLIC_KEY_BYTES) for row in rows}
        if list(keys) != sorted(keys) or len(keys) != len(rows):
            raise documents.bad(_WHAT, "its holders are not sorted and distinct")
        record = ModulusRecord.decode(jcs.dumps(fields.value("modulus")))
        try:
            terms = Terms(
                fields.name("federation"),
                fields.name("id"),
                record.modulus.n,
                record.s,
                fields.integer("columns"),
                fields.integer("randomness"),
                tuple(keys),
                fields.integer("threshold"),
            )
            return cls(record, Holders(terms, tuple(keys.values())))
        except ValueError as error:
            raise documents.bad(_WHAT, str(error)) from error


def usual_threshold(holders: int, max_corrupt: int) -> int:
    """floor((N + c) / 2) + 1: any two quorums have an honest holder in common, so one epoch has one key."""
    return (holders + max_corrupt) // 2 + 1


def agree(
    modulus: ModulusRecord, federation: str, key_id: str, keys: Mapping[OrgId, bytes], threshold: int, columns: int
) -> KeyTerms:
    """The terms of a new key. `keys`: the holders' protocol keys, raw Ed25519.

    ConfigError `bad_key_terms`, `bad_name`.
    """
    check_name(federation, "the federation")
    check_name(key_id, "the key id")
    ordered = tuple(sorted(keys))
    try:
        terms = Terms(federation, key_id, modulus.modulus.n, modulus.s, columns, RANDOMNESS, ordered, threshold)
        return KeyTerms(modulus, Holders(terms, tuple(keys[org] for org in ordered)))
    except ValueError as error:
        raise ConfigError(
            "bad_key_terms",
            f"no key has these terms: {error}",
            next_step="2 to 12 holders with keys of their own, a threshold from 2 to their number, 1 to 255 columns",
        ) from error
