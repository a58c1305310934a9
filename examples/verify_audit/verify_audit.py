"""Checks an export of an organisation's records, without Fedveil: python verify_audit.py FILE

FILE: as `fedveil audit export --out FILE` writes it. Needs cryptography. Exit 0: numbers, digests, chains and the
signature at its end agree; 1: they do not. Whose key it is, the roster of the federation says, and not this file."""

import hashlib
import json
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def labelled(label, *fields):
    return b"".join(len(one).to_bytes(4, "big") + one for one in (b"FLSA/1/" + label.encode(), *fields))


def h(label, *fields):
    return hashlib.sha256(labelled(label, *fields)).digest()


def require(condition, what):
    condition or sys.exit(f"NOT VERIFIED: {what}")


def encoded(value):
    """A value as it is hashed: one letter for its type, then the value."""
    if value is None:
        return b"n"
    if isinstance(value, dict):
        ((kind, inner),) = value.items()
        return b"b" + bytes.fromhex(inner) if kind == "hex" else b"r" + struct.pack(">d", inner)
    return b"t" + value.encode() if isinstance(value, str) else b"i" + str(value).encode()


with open(sys.argv[1], "rb") as stream:
    lines = [json.loads(line) for line in stream]
require(len(lines) >= 2 and lines[0].get("format") == "fedveil-records/1", "this is no export of records")
first, *rows, last = lines
require("head" in last, "it ends without a signed head: it was cut")
heads = {table: (0, b"") for table in first["tables"]}
for line in rows:
    require("row" in line, "a line is no row")
    table, row = line["table"], line["row"]
    order, (seq, chain) = first["tables"][table], heads[table]
    require(row["seq"] == seq + 1, f"row {seq + 1} of {table} is missing or out of order")
    digest = h("row", table.encode(), *(encoded(row[name]) for name in order))
    heads[table] = (seq + 1, h("row/chain", table.encode(), chain, (seq + 1).to_bytes(8, "big"), digest))
statement = json.loads(last["head"])
try:
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(first["protocol_key"]))
    key.verify(bytes.fromhex(last["signature"]), labelled("records/head", last["head"].encode()))
except (InvalidSignature, ValueError):
    require(False, "the signature at its end")
for name in ("format", "federation", "organisation"):
    require(statement[name] == first[name], f"the signed head is about another {name}")
signed = {table: (one["rows"], bytes.fromhex(one["chain"])) for table, one in statement["heads"].items()}
require(signed == heads, "its rows do not come to the head that was signed")
print(f"records of {first['organisation']} in {first['federation']}")
for table, (seq, _) in heads.items():
    print(f"{table}: {seq} rows, whole")
print(f"signed under {first['protocol_key']}")
