"""What an organisation registered as a data set: where it lies, what opens it, what masks it, which rows are used.

Promise: a registration holds paths, names and digests and never a secret: passwords, keys and passphrases are named by
their files, which are read when the data is. `encode` and `decode` are one form, RFC 8785 JSON, in the journal alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedveil_common import jcs
from fedveil_common.crypto.labels import h
from fedveil_common.errors import StorageError

from fedveil_participant.data.sql_address import POSTGRESQL, SQLITE, SqlAddress
from fedveil_participant.data.sql_records import Selected

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_KEY_ID = re.compile(r"([0-9a-f]{16})?\Z")


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, or a folder of files. `key`: the private key that sealed files are for; `passphrase_file`: of it."""

    path: Path
    key: Path | None = None
    passphrase_file: Path | None = None

    @property
    def shown(self) -> str:
        """For people."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class SqlSource:
    """A table or query of a database. `password_file`: read at every connection."""

    address: SqlAddress
    selected: Selected
    password_file: Path | None = None

    @property
    def shown(self) -> str:
        """For people: without the user and without the query's text."""
        return f"{self.address.shown}, {self.selected.shown}"


Origin = FileSource | SqlSource


@dataclass(frozen=True, slots=True)
class Rules:
    """The masking rules of a data set: the file, and the masking digest of what stood in it when it was registered.
    `key_id`: of the key that they mask under; empty where they need none, or as long as it was not at hand.
    """

    path: Path
    digest: bytes
    key_id: str = ""

    @property
    def bound(self) -> bytes:
        """What an approval of masked data is for, 32 bytes: another key gives other pseudonyms and other noise."""
        return self.digest if not self.key_id else h("approval/masking", self.digest, self.key_id.encode())


@dataclass(frozen=True, slots=True)
class Registration:
    """A data set by its name. `where`: (column, value) pairs; only rows with all of them are used."""

    name: str
    source: Origin
    rules: Rules | None = None
    where: tuple[tuple[str, str], ...] = ()


def encode(registration: Registration) -> bytes:
    """As the journal keeps it; the name is its key there."""
    found: dict[str, jcs.Json] = {"where": [list(pair) for pair in registration.where]}
    match registration.source:
        case FileSource(path=path, key=key, passphrase_file=passphrase_file):
            found |= {"kind": "file", "path": str(path), "key": _path(key), "passphrase_file": _path(passphrase_file)}
        case SqlSource(address=address, selected=selected, password_file=password_file):
            found |= {
                "kind": "sql",
                "dialect": address.dialect,
                "url": address.url,
                "password_file": _path(password_file),
            }
            found |= {"table": selected.table, "query": selected.query}
    if registration.rules is not None:
        rules = registration.rules
        found |= {"rules": str(rules.path), "rules_digest": rules.digest.hex(), "masking_key": rules.key_id}
    return jcs.dumps(found)


def decode(name: str, data: bytes) -> Registration:
    """What `encode` made. StorageError `registration_damaged`."""
    try:
        found = jcs.loads(data)
        if not isinstance(found, dict):
            raise TypeError("an object was expected")
        return Registration(name, _source(found), _rules(found), _where(found["where"]))
    except (KeyError, TypeError, ValueError):
        raise StorageError(
            "registration_damaged",
            f"what is stored of the data set {name} cannot be read",
            not_done="the data set was not used",
            next_step=f"fedveil data add {name} --replace --source ...",
        ) from None


def _source(found: Mapping[str, jcs.Json]) -> Origin:
    match found["kind"]:
        case "file":
            return FileSource(Path(_text(found["path"])), _maybe(found["key"]), _maybe(found["passphrase_file"]))
        case "sql":
            dialect = _text(found["dialect"])
            if dialect not in {SQLITE, POSTGRESQL}:
                raise ValueError("dialect")
            selected = Selected(_text(found["table"]), _text(found["query"]))
            return SqlSource(SqlAddress(dialect, _text(found["url"])), selected, _maybe(found["password_file"]))
        case _:
            raise ValueError("kind")


def _rules(found: Mapping[str, jcs.Json]) -> Rules | None:
    if "rules" not in found:
        return None
    digest, key_id = _text(found["rules_digest"]), _text(found.get("masking_key", ""))
    if not _DIGEST.match(digest) or not _KEY_ID.match(key_id):
        raise ValueError("digest")
    return Rules(Path(_text(found["rules"])), bytes.fromhex(digest), key_id)


def _where(found: jcs.Json) -> tuple[tuple[str, str], ...]:
    if not isinstance(found, list):
        raise TypeError("a list was expected")
    pairs = []
    for pair in found:
        if not isinstance(pair, list) or len(pair) != 2:
            raise TypeError("a pair was expected")
        pairs.append((_text(pair[0]), _text(pair[1])))
    return tuple(pairs)


def _path(path: Path | None) -> str:
    return "" if path is None else str(path)


def _maybe(value: jcs.Json) -> Path | None:
    text = _text(value)
    return Path(text) if text else None


def _text(value: jcs.Json) -> str:
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value
