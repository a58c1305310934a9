"""Records that leave their database for people who check them: signed heads of append-only tables, and a file of rows.

A head says how many rows each table has and to which chain of digests they come; under the organisation's protocol key
it fixes every row before it. The file is lines of JSON: what it is, the rows, a signed head at its end. Promise:
`read` returns only what every digest, number, chain and signature in the file agrees with. It guards against whoever
changes rows and lacks the key, not against whoever holds it, nor against a file that was cut at an earlier head.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import IntegrityError, PeerError
from fedveil_common.rows import NO_ROWS, Head, Value, row_digest, row_link
from fedveil_common.secret import PrivateKey

FORMAT = "fedveil-records/1"
LABEL = "records/head"
"""The label of the signature over a head."""

MAX_LINE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose records these are. `protocol_key`: the public key that signs heads, 32 bytes."""

    federation_id: str
    org_id: str
    protocol_key: bytes


@dataclass(frozen=True, slots=True)
class SignedHead:
    """Heads of tables as they were signed. `statement`: the canonical JSON that was."""

    statement: bytes
    signature: bytes

    @property
    def heads(self) -> Mapping[str, Head]:
        """Table -> how far it had come. IntegrityError `records_damaged` for a statement that is none."""
        try:
            found = jcs.loads(self.statement)
            assert isinstance(found, dict)
            return {name: Head(int(one["rows"]), bytes.fromhex(one["chain"])) for name, one in found["heads"].items()}
        except (PeerError, AssertionError, KeyError, TypeError, ValueError, AttributeError):
            raise _damaged("a head cannot be read") from None

    @property
    def reason(self) -> str:
        """Why it was signed."""
        return str(_part(self.statement, "reason"))


def sign_head(
    key: PrivateKey, federation_id: str, org_id: str, reason: str, wall_s: float, heads: Mapping[str, Head]
) -> SignedHead:
    """The heads as they stand at `wall_s`, under the protocol key."""
    statement = jcs.dumps(
        {
            "format": FORMAT,
            "federation": federation_id,
            "organisation": org_id,
            "reason": reason,
            "wall_s": float(wall_s),
            "heads": {name: {"rows": head.seq, "chain": head.chain.hex()} for name, head in heads.items()},
        }
    )
    return SignedHead(statement, signing.sign_bytes(key, LABEL, statement))


def check_head(head: SignedHead, owner: Owner) -> None:
    """Returns if `head` is the owner's. IntegrityError `head_not_signed`."""
    try:
        signing.verify_bytes(owner.protocol_key, head.signature, LABEL, head.statement)
    except PeerError:
        raise _not_signed("its signature is not of the organisation's protocol key") from None
    names = tuple(_part(head.statement, name) for name in ("format", "federation", "organisation"))
    if names != (FORMAT, owner.federation_id, owner.org_id):
        raise _not_signed("it is about other records")


# --- the file ---------------------------------------------------------------------------------------------------------


def first_line(owner: Owner, columns: Mapping[str, Sequence[str]]) -> bytes:
    """What the file is, whose, and the columns of each table in the order in which they are hashed."""
    return _line(
        {
            "format": FORMAT,
            "federation": owner.federation_id,
            "organisation": owner.org_id,
            "protocol_key": owner.protocol_key.hex(),
            "tables": {name: list(order) for name, order in columns.items()},
        }
    )


def row_line(table: str, values: Mapping[str, Value]) -> bytes:
    """One row. Bytes stand as {"hex": ...} and reals as {"real": ...}: a digest knows an integer from a real."""
    return _line({"table": table, "row": {name: _to_json(value) for name, value in values.items()}})


def last_line(head: SignedHead) -> bytes:
    """The signed head over everything before it."""
    return _line({"head": head.statement.decode(), "signature": head.signature.hex()})


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file that verified: whose, its head, and the rows of each table."""

    owner: Owner
    head: SignedHead
    tables: Mapping[str, Sequence[Mapping[str, Value]]] = field(default_factory=dict)


def read(lines: Iterable[bytes]) -> RecordFile:
    """What a file holds, every row of it checked. IntegrityError `records_damaged`, `head_not_signed`."""
    parsed = _parsed(lines)
    owner, columns = _opening(next(parsed, (1, {})))
    heads = dict.fromkeys(columns, NO_ROWS)
    tables: dict[str, list[Mapping[str, Value]]] = {name: [] for name in columns}
    for number, found in parsed:
        if "head" in found:
            head = _closing(found)
            check_head(head, owner)
            if dict(head.heads) != heads:
                raise _damaged("its rows do not come to the head that was signed")
            if next(parsed, None) is not None:
                raise _damaged(f"line {number + 1} stands behind the signed head")
            return RecordFile(owner, head, tables)
        table, values = _row(number, found, columns)
        seq = heads[table].seq + 1
        if values["seq"] != seq:
            raise _damaged(f"line {number}: row {seq} of {table} is missing or out of order")
        try:
            digest = row_digest(table, columns[table], values)
        except ValueError:  # a text with half a character
            raise _damaged(f"line {number} holds a text that is none") from None
        heads[table] = Head(seq, row_link(table, heads[table].chain, seq, digest))
        tables[table].append(values)
    raise _damaged("it ends without a signed head: it was cut")


def _parsed(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line) if len(line) <= MAX_LINE else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _damaged(f"line {number} is not an object of JSON")
        yield number, found


def _opening(line: tuple[int, dict[str, object]]) -> tuple[Owner, dict[str, list[str]]]:
    _, found = line
    tables = found.get("tables")
    if found.get("format") != FORMAT or not isinstance(tables, dict):
        raise _damaged(f"its first line does not say that it is {FORMAT}")
    if any(not isinstance(order, list) or "seq" not in order for order in tables.values()):
        raise _damaged("its first line does not say which columns its tables have")
    try:
        key = bytes.fromhex(str(found.get("protocol_key")))
    except ValueError:
        raise _damaged("its first line holds no key") from None
    columns = {str(name): [str(column) for column in order] for name, order in tables.items()}
    return Owner(str(found.get("federation")), str(found.get("organisation")), key), columns


def _closing(found: dict[str, object]) -> SignedHead:
    try:
        return SignedHead(str(found["head"]).encode(), bytes.fromhex(str(found.get("signature"))))
    except ValueError:
        raise _damaged("the signature at its end cannot be read") from None


def _row(number: int, found: dict[str, object], columns: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, Value]]:
    table, row = found.get("table"), found.get("row")
    if not isinstance(table, str) or table not in columns or not isinstance(row, dict):
        raise _damaged(f"line {number} is no row of one of its tables")
    if set(row) != set(columns[table]):
        raise _damaged(f"line {number} has other columns than its table")
    try:
        return table, {name: _from_json(value) for name, value in row.items()}
    except (TypeError, ValueError, OverflowError):
        raise _damaged(f"line {number} holds a value of no known form") from None


def _to_json(value: Value) -> object:
    match value:
        case bytes():
            return {"hex": value.hex()}
        case float():
            return {"real": value}
        case _:
            return value


def _from_json(value: object) -> Value:
    match value:
        case bool():
            raise TypeError("there are no booleans in a table")
        case None | str() | int():
            return value
        case {"hex": str(text)}:
            return bytes.fromhex(text)
        case {"real": int(number) | float(number)}:
            return float(number)
        case _:
            raise TypeError("no value of a table")


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _part(statement: bytes, name: str) -> object:
    try:
        found = jcs.loads(statement)
    except (PeerError, ValueError):
        raise _damaged("a head cannot be read") from None
    return found.get(name) if isinstance(found, dict) else None


def _damaged(why: str) -> IntegrityError:
    return IntegrityError(
        "records_damaged",
        f"these records do not verify: {why}",
        not_done="nothing of them counts as verified",
        next_step="keep them as they are, and find out who could write them",
    )


def _not_signed(why: str) -> IntegrityError:
    return IntegrityError(
        "head_not_signed",
        f"a signed head of the records does not verify: {why}",
        not_done="the rows before it count as not verified",
        next_step="keep the records as they are, and find out who could write them",
    )
