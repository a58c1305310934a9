"""What a person reads about the record of a key that holders made: verified under its own root, which is shown."""

from fedveil_common.paillier import key_record
from fedveil_common.paillier.ceremony_messages import MAX_MESSAGE_BYTES
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.pki.governance import fingerprint_text

from fedveil_cli.output import Output

MAX_KEY_RECORD = MAX_MESSAGE_BYTES
"""Bytes: a record has about as many as the longest message."""


def is_key_record(data: bytes) -> bool:
    """Whether these bytes can be no other file of a key: all others are text."""
    return data[:1] == b"\x01"


def report(record: KeyRecord, output: Output) -> None:
    """`key show` of a record. PeerError as `key_record.verify`: what does not verify is not shown."""
    key = key_record.verify(record, record.root)
    terms = record.holders.terms
    signers = [str(record.holders.name(one)) for one in sorted(record.signatures)]
    value: dict[str, object] = {
        "kind": "key record",
        "id": terms.key_id,
        "federation": terms.federation,
        "epoch": record.epoch,
        "bits": int(terms.n).bit_length(),
        "s": terms.s,
        "columns": terms.width,
        "holders": [str(org) for org in terms.holders],
        "threshold": terms.threshold,
        "signers": signers,
        "root": record.root.hex(),
        "fingerprint": key.fingerprint.hex(),
    }
    lines = [
        f"key {terms.key_id} of federation {terms.federation}, epoch {record.epoch}, {terms.width} columns",
        f"any {terms.threshold} of {', '.join(terms.holders)} open a sum together",
        f"signed by {', '.join(signers)}",
        f"modulus of {int(terms.n).bit_length()} bits, s = {terms.s}; only the terms say where it comes from",
        f"root {fingerprint_text(record.root)}",
    ]
    output.result(value, [*lines, f"fingerprint {fingerprint_text(key.fingerprint)}"])
