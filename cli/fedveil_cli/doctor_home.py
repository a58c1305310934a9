"""What `doctor` can tell from the files of a home alone: keys, certificates, authorities, journal, governance."""

import pathlib
import stat
from collections.abc import Callable
from functools import partial
from typing import assert_never

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, StorageError
from fedveil_common.ids import COORDINATOR
from fedveil_common.pki import bundle, certificates, governance, sealed_keys
from fedveil_common.pki.invites import OPERATOR, Role, split_address
from fedveil_common.pki.key_files import KeyFiles
from fedveil_common.pki.names import Subject
from fedveil_common.secret import Passphrase
from fedveil_coordinator import rotation
from fedveil_coordinator.founding import Federation
from fedveil_coordinator.store import FILE as DATABASE
from fedveil_coordinator.store import storage_key, storage_state
from fedveil_coordinator.store.storage_state import State
from fedveil_participant import membership
from fedveil_participant.membership import Membership
from fedveil_participant.store import FILE as JOURNAL
from fedveil_participant.store import Books, journal_key, open_holdings

from fedveil_cli.doctor_findings import Report
from fedveil_cli.world import World

OVERDUE = 5 / 6
"""The part of a certificate's life after which it should have been renewed long ago."""


def check_folder(home: pathlib.Path, report: Report) -> None:
    """Nobody else may write into the home, and it has one role."""
    with report.check("folder", str(home)):
        if stat.S_IMODE(home.stat().st_mode) & 0o022:
            report.add("home_exposed", f"others may write into {home}", str(home))
        if (home / "federation.json").exists() and membership.has_membership(home):
            report.add("two_roles_in_one_home", "an operator's and an organisation's files lie in one home", str(home))


def check_participant(
    member: Membership, passphrase: Passphrase | None, world: World, report: Report
) -> tuple[ec.EllipticCurvePrivateKey | None, Books | None]:
    """Everything in an organisation's home; its TLS key, if that can be opened and fits, and its journal, if it opens.
    Secret.
    """
    home = member.home
    trusted = _check_trust(home / "trust.json", member.trust_chain, member.fingerprint, report)
    authorities = _check_bundle(home / "ca.pem", trusted, report)
    key = _check_pair(
        membership.tls_files(home), lambda: member.key_pem(passphrase), authorities, member.subject, world, report
    )
    books = _check_journal(home, passphrase, world, report)
    loose = home / "governance.key"  # a holder's own lies in governance/, as `fedveil governance key` puts it
    if loose.exists():
        report.add("governance_key_in_a_participants_home", f"{loose} lies beside a participant", str(loose))
    return key, books


def _check_journal(home: pathlib.Path, passphrase: Passphrase | None, world: World, report: Report) -> Books | None:
    if not (home / JOURNAL).exists():
        report.checked.append("journal")
        report.add("journal_missing", f"{home / JOURNAL} is not there: this home was copied in part", str(home))
        return None
    with report.check("journal", str(home / "journal.key")):
        try:
            key = journal_key(home, passphrase)
        except ConfigError as error:
            if error.code != "key_file_exposed":
                raise
            report.add("key_exposed", error.what, str(home / "journal.key"))
            return None
        return open_holdings(home, key, world.clock, world.entropy)
    return None


def check_operator(federation: Federation, world: World, report: Report) -> ec.EllipticCurvePrivateKey | None:
    """Everything in an operator's home; the operator's TLS key, if it fits. Secret."""
    home, name = federation.home, federation.federation_id
    trusted = _check_trust(home / "trust.json", federation.trust_chain, federation.fingerprint, report)
    authorities = _check_bundle(home / "authority" / "ca.pem", trusted, report)
    sealed = home / "authority" / "ca.key" if authorities is None else federation.key_file_of(authorities[0])
    own = (home / storage_key.FILE,) if storage_key.exists(home) else ()
    for path in (sealed, home / "coordinator" / "protocol.key", *own):
        report.passes("key file", partial(sealed_keys.read_private, path), path)
    if trusted is not None:
        _check_own_key(federation, report)
    server, operator = rotation.server_files(home), rotation.operator_files(home)
    head = Subject(name, Role.COORDINATOR, COORDINATOR)
    if _check_pair(server, server.key, authorities, head, world, report) is not None:
        _check_hosts(server, federation, report)
    key = _check_pair(operator, operator.key, authorities, Subject(name, Role.OPERATOR, OPERATOR), world, report)
    if not (home / DATABASE).exists():
        report.add("database_missing", f"{home / DATABASE} is not there", str(home))
    else:
        check_storage(home, report)
    beside = federation.governance_folder / "governance.key"
    if beside.exists():
        report.passes("key file", lambda: sealed_keys.read_private(beside), beside)
        if beside.resolve().is_relative_to(home.resolve()):
            what = "the governance key lies in the home of the service, under its passphrase alone"
            report.add("governance_key_beside_service", what, str(beside), advice=True)
    return key


def check_storage(home: pathlib.Path, report: Report) -> None:
    """An operator's files at rest are as `serve` must find them, as far as it shows without the passphrase."""
    where = str(home / storage_key.FILE)
    with report.check("storage", where):
        seen = storage_state.look(home)
        match seen.state:
            case State.UNFINISHED:
                report.add("storage_unfinished", "an order about files at rest was interrupted, or is at work", where)
            case State.MISSING:
                report.add("storage_key_replaced", f"files are sealed under {seen.key}, whose file is gone", where)
            case State.EXCHANGED:
                report.add("storage_key_replaced", "storage.key is not the one on record", where)
            case State.CLEAR | State.SEALED:
                pass
            case never:
                assert_never(never)


def _check_own_key(federation: Federation, report: Report) -> None:
    """The chain names the coordinator whose key lies here."""
    where = str(federation.home / "coordinator" / "protocol.key")
    with report.check("coordinator's key", where):
        named = federation.trust.coordinator
        if signing.public_key(federation.protocol_key()) != named:
            what = f"the trust chain names the coordinator's key {named.hex()[:16]}, and this home holds another"
            report.add("coordinator_replaced", what, where)


def _check_trust(path: pathlib.Path, chain: bytes, fingerprint: bytes, report: Report) -> tuple[bytes, ...] | None:
    """The authorities that the chain names, if it follows from the fingerprint."""
    with report.check("trust chain", str(path)):
        return governance.verify_chain(chain, fingerprint).authorities
    return None


def _check_bundle(
    path: pathlib.Path, trusted: tuple[bytes, ...] | None, report: Report
) -> tuple[x509.Certificate, ...] | None:
    with report.check("authorities", str(path)):
        try:
            pem = path.read_bytes()
        except OSError as error:
            raise StorageError("file_missing", f"{path} cannot be read: {error.strerror}") from error
        return bundle.load_bundle(pem) if trusted is None else bundle.named_in(pem, trusted)
    return None


def _check_pair(
    files: KeyFiles,
    read_key: Callable[[], bytes],
    authorities: tuple[x509.Certificate, ...] | None,
    subject: Subject,
    world: World,
    report: Report,
) -> ec.EllipticCurvePrivateKey | None:
    """Dates, chain, usage and name of a certificate, and its key; the key, if it fits."""
    now = world.clock.wall_s()
    certificate: x509.Certificate | None = None
    with report.check("certificate", str(files.certificate_path)):
        certificate = certificates.load_certificate(files.certificate())
        if authorities is not None:
            certificates.check_leaf(certificate, bundle.issuer_in(certificate, authorities), subject, now)
        begins, ends = certificates.validity(certificate)
        if now > begins + (ends - begins) * OVERDUE:
            what = f"the certificate ends in {(ends - now) / 3600:.0f} h and should have been renewed by itself"
            report.add("renewal_overdue", what, str(files.certificate_path))
    with report.check("key", str(files.key_path)):
        key = read_key()
        if certificate is not None:
            return certificates.check_pair(certificate, key)
    return None


def _check_hosts(files: KeyFiles, federation: Federation, report: Report) -> None:
    report.checked.append("host name")
    hosts = rotation.hosts_of(certificates.load_certificate(files.certificate()))
    host, _ = split_address(federation.address)
    if host not in hosts:
        what = f"the server's certificate names {', '.join(hosts)}, and the federation's address is {host}"
        report.add("host_not_in_certificate", what, str(files.certificate_path))
