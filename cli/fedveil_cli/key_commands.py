"""The work of `fedveil key`: moduli and key pairs as files, and what a person reads about them.

Promise: a mistake in what was asked is refused before the first prime is drawn; a private file is made for its owner
alone and never replaces another; of primes nothing is written but what a private file holds.
"""

import contextlib
import datetime
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fedveil_common import durable, jcs
from fedveil_common.errors import ConfigError, FedveilError, PeerError, SealedError
from fedveil_common.ids import check_name
from fedveil_common.paillier import dealing, key_terms, modulus_record, phe_format, single_holder_files
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.modulus import Origin, check_length
from fedveil_common.paillier.modulus_record import ModulusRecord
from fedveil_common.paillier.single_holder import SingleHolderKey, SingleHolderPrivateKey
from fedveil_common.pki import sealed_keys
from fedveil_common.pki.governance import fingerprint_text
from fedveil_common.secret import Passphrase, PrivateKey

from fedveil_cli import key_record_report, key_terms_commands, safe_primes
from fedveil_cli.files import check_size, read_file, write_file
from fedveil_cli.output import Output
from fedveil_cli.passphrases import passphrase
from fedveil_cli.world import World

_ORIGINS = {
    Origin.RSA_2048: "RSA-2048, the challenge number of RSA Laboratories (2001): no dealer",
    Origin.DEALT: "dealt: the dealer knew the factors and says that he erased them",
}


def deal(
    out: pathlib.Path,
    bits: int,
    s: int | None,
    dealer: str,
    signing_key: pathlib.Path | None,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key deal`."""
    exponent = _exponent(bits, s)
    check_name(dealer, "the dealer")
    private = PrivateKey(world.entropy.take(32))
    if signing_key is not None:
        private = _signing_key(signing_key, passphrase_file, output)
    _tell_drawing(bits, output)
    modulus = dealing.deal(*safe_primes.safe_primes(bits // 2), bits)
    record = modulus_record.sign_record(modulus, exponent, dealer, int(world.clock.wall_s()), private)
    write_file(out, "the record", record.encode())
    output.note("the factors were dropped, not wiped: power this machine off before anybody else uses it")
    _report_record(record, {"file": str(out)}, output)


def adopt(out: pathlib.Path, s: int | None, output: Output) -> None:
    """`key adopt rsa-2048`."""
    record = modulus_record.adopt_rsa_2048(_exponent(2048, s))
    write_file(out, "the record", record.encode())
    _report_record(record, {"file": str(out)}, output)


def show(file: pathlib.Path, output: Output) -> None:
    """`key show`: of what was checked while it was read."""
    data = read_file(file, "the key file", key_record_report.MAX_KEY_RECORD)
    if key_record_report.is_key_record(data):
        with _reading(file, "no record of a key"):
            found = KeyRecord.from_bytes(data)
        key_record_report.report(found, output)
        return
    check_size(file, "the key file", data, key_terms.MAX_TERMS)
    if _format_of(data) == key_terms.FORMAT:
        key_terms_commands.report_terms(key_terms_commands.read_terms(file), {}, output)
        return
    check_size(file, "the key file", data, modulus_record.MAX_RECORD)
    with _reading(file, "no record of a modulus or key, no terms and no public key"):
        if _format_of(data) == single_holder_files.PUBLIC_FORMAT:
            key, record = single_holder_files.decode_public(data), None
        else:
            key, record = None, ModulusRecord.decode(data)
    if key is not None:
        _report_key(key, {}, output)
    if record is not None:
        _report_record(record, {}, output)


def pair(
    out_private: pathlib.Path,
    out_public: pathlib.Path,
    bits: int,
    s: int | None,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key pair`."""
    exponent = _exponent(bits, s)
    _check_two(out_private, out_public)
    given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output, confirm=True)
    sealed_keys.check_passphrase(given, single_holder_files.PURPOSE)
    _tell_drawing(bits, output)
    factors = dealing.safe_pair(*safe_primes.safe_primes(bits // 2), bits)
    _write_pair(SingleHolderPrivateKey(factors, exponent), out_private, out_public, given, world, output)


def import_phe(
    file: pathlib.Path,
    out_private: pathlib.Path | None,
    out_public: pathlib.Path,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key import-phe`."""
    key = phe_format.decode_key(read_file(file, "the key of pheutil", phe_format.MAX_KEY))
    if isinstance(key, SingleHolderKey):
        if out_private is not None:
            raise ConfigError(
                "not_a_private_key",
                f"{str(file)!r} holds a public key only",
                not_done="nothing was written",
                next_step="leave --out-private out, or name the file that `pheutil genpkey` wrote",
            )
        write_file(out_public, "the public key", single_holder_files.encode_public(key))
        _report_key(key, {"public": str(out_public)}, output)
        return
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        output.warn(f"others on this machine may have read the private key in {str(file)!r}")
    if out_private is None:
        write_file(out_public, "the public key", single_holder_files.encode_public(key.public))
        _report_key(key.public, {"public": str(out_public)}, output)
        return
    _check_two(out_private, out_public)
    given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output, confirm=True)
    _write_pair(key, out_private, out_public, given, world, output)
    output.note(f"{str(file)!r} still holds the private key in clear: remove it when nobody needs it")


def export_phe(
    file: pathlib.Path, out: pathlib.Path, private: bool, passphrase_file: pathlib.Path | None, output: Output
) -> None:
    """`key export-phe`."""
    if not private:
        data = read_file(file, "the public key", single_holder_files.MAX_FILE)
        with _reading(file, "no public key"):
            key = single_holder_files.decode_public(data)
        write_file(out, "the key for pheutil", phe_format.encode_public(key))
        _report_key(key, {"file": str(out), "private": False}, output)
        return
    _check_new(out)
    sealed = sealed_keys.read_private(file)
    given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output)
    opened = single_holder_files.open_private(sealed, given)
    durable.write_file(out, phe_format.encode_private(opened))
    output.warn(f"{str(out)!r} holds the factors in clear: whoever reads it opens everything under this key")
    _report_key(opened.public, {"file": str(out), "private": True}, output)


def _exponent(bits: int, s: int | None) -> int:
    """The s that was chosen or is usual; refuses lengths and exponents that no key may have."""
    check_length(bits)
    exponent = modulus_record.default_exponent(bits) if s is None else s
    modulus_record.check_exponent(exponent)
    return exponent


def _check_two(private: pathlib.Path, public: pathlib.Path) -> None:
    """The private key's file is new and is not the public key's, which would replace it."""
    _check_new(private)
    if os.path.realpath(private) == os.path.realpath(public):
        raise ConfigError(
            "usage",
            "--out-private and --out-public name one file",
            not_done="nothing was written and no key was made",
            next_step="name two files",
        )


def _check_new(path: pathlib.Path) -> None:
    if os.path.lexists(path):
        raise ConfigError(
            "key_exists",
            f"{str(path)!r} is there already, and a private key replaces nothing",
            not_done="nothing was written and no key was made",
            next_step="choose another name",
        )


def _tell_drawing(bits: int, output: Output) -> None:
    output.note(f"drawing two safe primes of {bits // 2} bits: seconds at 1024, up to minutes at 1536 and beyond")


def _write_pair(
    key: SingleHolderPrivateKey,
    out_private: pathlib.Path,
    out_public: pathlib.Path,
    given: Passphrase,
    world: World,
    output: Output,
) -> None:
    """Both files, or neither: a public key whose private key was lost would take data that nobody can open."""
    _check_new(out_private)  # again: drawing took its time
    durable.write_file(out_private, single_holder_files.seal_private(key, given, world.entropy))
    try:
        write_file(out_public, "the public key", single_holder_files.encode_public(key.public))
    except FedveilError:
        durable.remove(out_private)
        raise
    _report_key(key.public, {"private": str(out_private), "public": str(out_public)}, output)


def _signing_key(path: pathlib.Path, passphrase_file: pathlib.Path | None, output: Output) -> PrivateKey:
    """The dealer's own Ed25519 key from a PEM file, sealed by its maker or not. Secret."""
    pem = sealed_keys.read_private(path)
    sealed = b"ENCRYPTED" in pem
    given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output) if sealed else None
    try:
        key = serialization.load_pem_private_key(pem, None if given is None else given.expose())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if key is None and sealed:
        raise SealedError(
            "passphrase_wrong",
            f"the passphrase does not open the signing key {str(path)!r}, or the file was altered",
            not_done="nothing was dealt",
            next_step="give the passphrase that this key was sealed under",
        )
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            "bad_key_file",
            f"{str(path)!r} holds no Ed25519 key in PEM",
            not_done="nothing was dealt",
            next_step="`openssl genpkey -algorithm ed25519` makes one",
        )
    return PrivateKey(key.private_bytes_raw())


@contextlib.contextmanager
def _reading(file: pathlib.Path, what: str) -> Iterator[None]:
    """What is not well formed is the mistake of whoever named the file; what does not verify is not."""
    try:
        yield
    except PeerError as error:
        if error.code not in {"bad_document", "bad_key_message"}:
            raise
        raise ConfigError(
            "bad_public_key_file",
            f"{str(file)!r} is {what}: {error.what}",
            not_done="nothing was read or written",
            next_step="name a file that `fedveil key deal`, `adopt` or `pair` wrote; a private one needs --private",
        ) from None


def _format_of(data: bytes) -> object:
    try:
        value = jcs.loads(data)
    except ValueError:
        return None
    return value.get("format") if isinstance(value, Mapping) else None


def _report_record(record: ModulusRecord, more: Mapping[str, object], output: Output) -> None:
    modulus, dealer = record.modulus, record.dealer
    value: dict[str, object] = {
        **more,
        "kind": "modulus",
        "bits": modulus.bits,
        "s": record.s,
        "origin": modulus.origin.value,
        "fingerprint": record.fingerprint.hex(),
    }
    lines = [f"{name}: {entry}" for name, entry in more.items()]
    lines += [f"modulus of {modulus.bits} bits, s = {record.s}", _ORIGINS[modulus.origin]]
    if dealer is not None:
        value |= {"dealer": dealer.name, "at": dealer.at_s, "key": dealer.key.hex()}
        when = datetime.datetime.fromtimestamp(dealer.at_s, datetime.UTC).isoformat()
        lines += [f"dealer {dealer.name}, {when}", f"signed by key {dealer.key.hex()}"]
    output.result(value, [*lines, f"fingerprint {fingerprint_text(record.fingerprint)}"])


def _report_key(key: SingleHolderKey, more: Mapping[str, object], output: Output) -> None:
    value: dict[str, object] = {
        **more,
        "kind": "public key",
        "bits": key.bits,
        "s": key.group.s,
        "origin": "single-holder",
        "fingerprint": key.fingerprint.hex(),
    }
    lines = [f"{name}: {entry}" for name, entry in more.items()]
    lines.append(f"public key of {key.bits} bits, s = {key.group.s}")
    lines.append("single holder: whoever holds the private key opens everything alone")
    output.result(value, [*lines, f"fingerprint {fingerprint_text(key.fingerprint)}"])
