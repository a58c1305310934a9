"""The work of `fedveil key terms`, and what a person reads about terms of a key."""

import pathlib
import re
from collections.abc import Mapping, Sequence

from fedveil_common import jcs
from fedveil_common.errors import ConfigError, PeerError, PolicyRefusal
from fedveil_common.ids import OrgId, check_name
from fedveil_common.paillier import key_terms, modulus_record, single_holder_files
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.paillier.modulus_record import ModulusRecord
from fedveil_common.pki import sealed_keys
from fedveil_common.pki.governance import fingerprint_text
from fedveil_common.roster import Roster
from fedveil_common.succession import roster_of_its_time
from fedveil_coordinator import founding
from fedveil_participant import membership

from fedveil_cli.files import read_file, write_file
from fedveil_cli.key_home import other_federation, pinned_roster
from fedveil_cli.output import Output
from fedveil_cli.world import World

_KEY = re.compile(r"[0-9a-f]{64}\Z")


def terms(
    modulus: pathlib.Path,
    out: pathlib.Path,
    key_id: str,
    holders: Sequence[str],
    threshold: int | None,
    max_corrupt: int,
    columns: int,
    federation: str | None,
    home: pathlib.Path,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key terms`."""
    data = read_file(modulus, "the record of the modulus", modulus_record.MAX_RECORD)
    named = holder_keys(holders)
    roster = None
    if None in named.values():
        roster = _roster(home, passphrase_file, world, output)
        if federation not in {None, roster.federation_id}:
            raise other_federation(str(federation), roster.federation_id)
    keys = {org: key if key is not None else _listed(org, roster) for org, key in named.items()}
    usual = key_terms.usual_threshold(len(keys), max_corrupt)
    chosen = usual if threshold is None else threshold
    if chosen <= max_corrupt:
        raise ConfigError(
            "bad_key_terms",
            f"{max_corrupt} corrupt holders could open everything under a threshold of {chosen}",
            next_step=f"--threshold {max_corrupt + 1} is the least; {usual} is usual",
        )
    made = key_terms.agree(_record(data, modulus), federation or _federation(home), key_id, keys, chosen, columns)
    if chosen < usual:
        output.warn(
            f"with a threshold of {chosen}, {max_corrupt} corrupt of {len(keys)} holders could give one epoch two "
            f"keys; {usual} prevents it"
        )
    write_file(out, "the terms", made.encode())
    report_terms(made, {"file": str(out)}, output)


def read_terms(path: pathlib.Path) -> KeyTerms:
    """The terms in a file, the modulus checked. ConfigError `file_unreadable`, `bad_terms_file`, and those of a
    modulus; PeerError `bad_signature`; PolicyRefusal `single_holder_key` for a key of `key pair`.
    """
    data = read_file(path, "the terms", key_terms.MAX_TERMS)
    refuse_single_holder(path, data)
    try:
        return KeyTerms.decode(data)
    except PeerError as error:
        if error.code != "bad_document":
            raise
        raise ConfigError(
            "bad_terms_file",
            f"{str(path)!r} holds no terms of a key: {error.what}",
            next_step="name the file that `fedveil key terms` wrote",
        ) from None


def refuse_single_holder(path: pathlib.Path, data: bytes) -> None:
    """Returns unless the file holds half of an ordinary key pair. PolicyRefusal `single_holder_key`."""
    try:
        value = jcs.loads(data[: single_holder_files.MAX_FILE])
    except ValueError:
        return
    if isinstance(value, Mapping) and value.get("format") in {single_holder_files.PUBLIC_FORMAT, sealed_keys.FORMAT}:
        raise PolicyRefusal(
            "single_holder_key",
            f"{str(path)!r} is a key of one holder, who opens every single update with it; it is refused for runs",
            not_done="nothing was pinned, published or begun",
            next_step="make a key that only a threshold of holders opens: `fedveil key terms`, `key holders start`",
        )


def report_terms(made: KeyTerms, more: Mapping[str, object], output: Output) -> None:
    """What every holder compares with the others before it begins."""
    agreed, record = made.terms, made.modulus
    pairs = [(str(org), key.hex()) for org, key in zip(agreed.holders, made.holders.keys, strict=True)]
    value: dict[str, object] = {
        **more,
        "kind": "terms",
        "id": agreed.key_id,
        "federation": agreed.federation,
        "holders": [{"org": org, "key": key} for org, key in pairs],
        "threshold": agreed.threshold,
        "columns": agreed.width,
        "bits": record.modulus.bits,
        "s": agreed.s,
        "origin": record.modulus.origin.value,
        "modulus": record.fingerprint.hex(),
        "root": made.holders.root.hex(),
    }
    lines = [f"{name}: {entry}" for name, entry in more.items()]
    lines.append(f"key {agreed.key_id} of federation {agreed.federation}, {agreed.width} columns")
    lines.append(f"any {agreed.threshold} of {len(pairs)} holders open a sum together:")
    lines += [f"  {org} {key}" for org, key in pairs]
    lines.append(f"modulus of {record.modulus.bits} bits, s = {agreed.s}, origin {record.modulus.origin.value}")
    lines.append(f"modulus {fingerprint_text(record.fingerprint)}")
    output.result(value, [*lines, f"root {fingerprint_text(made.holders.root)}"])


def holder_keys(texts: Sequence[str]) -> dict[OrgId, bytes | None]:
    """Organisation -> protocol key, or None where the roster is to say it, from ORG=HEX or ORG. ConfigError
    `bad_holder_option`, `bad_name`.
    """
    found: dict[OrgId, bytes | None] = {}
    for text in texts:
        name, equals, key = text.partition("=")
        org = OrgId(check_name(name, "the holder"))
        if org in found or (equals and not _KEY.match(key)):
            raise ConfigError(
                "bad_holder_option",
                f"--holder {text!r} is not ORG or ORG=KEY with 64 hex digits, or names a holder twice",
                next_step="--holder acme=1f0c...; the roster's key is taken for --holder acme",
            )
        found[org] = bytes.fromhex(key) if equals else None
    return found


def _record(data: bytes, path: pathlib.Path) -> ModulusRecord:
    try:
        return ModulusRecord.decode(data)
    except PeerError as error:
        if error.code != "bad_document":
            raise
        raise ConfigError(
            "bad_public_key_file",
            f"{str(path)!r} is no record of a modulus: {error.what}",
            next_step="name a file that `fedveil key deal` or `adopt` wrote",
        ) from None


def _federation(home: pathlib.Path) -> str:
    if membership.has_membership(home):
        return membership.load_membership(home).federation_id
    try:
        return founding.load_federation(home).federation_id
    except ConfigError as error:
        raise _no_federation(home) from error


def _roster(home: pathlib.Path, passphrase_file: pathlib.Path | None, world: World, output: Output) -> Roster:
    if membership.has_membership(home):
        found = pinned_roster(home, passphrase_file, world, output)
        if found is None:
            raise _no_federation(home)
        return found
    try:
        federation = founding.load_federation(home)
    except ConfigError as error:
        raise _no_federation(home) from error
    return roster_of_its_time(federation.last_roster(), federation.trust)


def _no_federation(home: pathlib.Path) -> ConfigError:
    return ConfigError(
        "no_federation_here",
        f"{home} is the home of no federation whose id or roster could be taken",
        next_step="give --federation ID, and a key with each --holder; or name the home of an organisation or operator",
    )


def _listed(org: OrgId, roster: Roster | None) -> bytes:
    found = roster.key_of(org) if roster is not None and org in roster.participants else None
    if found is None:
        raise ConfigError(
            "holder_not_listed",
            f"the newest roster of this home lists no participant {org}",
            next_step=f"give its key, --holder {org}=KEY, or wait for the roster that lists it",
        )
    return found
