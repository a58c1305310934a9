"""The coordinator's own certificates while it runs: its server certificate, the operator's, the authorities it goes by.

Promise: what new connections are offered, on the gRPC port and on the enrolment port, follows the files in the home
without a restart, and only after the whole was checked: key and certificate belong together, an authority that the
trust chain names issued it, for this coordinator, and it is valid now. A reload that fails keeps the previous one and
counts. gRPC swallows what its fetcher raises, and offers junk if it is given junk, so nothing unchecked reaches it.

    coordinator/server.key server.pem   renewed here at two thirds of their life
    operator/client.key client.pem      renewed here too: nobody may give a command for a week
    authority/ca.pem                    authorities: those count that the trust chain in force names, the first issues
"""

import contextlib
import os
import pathlib
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import grpc
import structlog
from cryptography import x509
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError, FedveilError
from fedveil_common.ids import COORDINATOR
from fedveil_common.pki import bundle, certificates, transport
from fedveil_common.pki.certificates import Authority
from fedveil_common.pki.invites import OPERATOR, Role
from fedveil_common.pki.key_files import KeyFiles
from fedveil_common.pki.names import Subject
from fedveil_common.ports import Clock, Entropy, Failpoints, NoFailpoints

from fedveil_coordinator.allowlist import AllowList, Identity
from fedveil_coordinator.founding import Federation, own_certificates
from fedveil_coordinator.issuing import Issuing
from fedveil_coordinator.renewal import RenewalOffice
from fedveil_coordinator.store.members import Certificate
from fedveil_coordinator.trust import TrustInForce

log = structlog.get_logger("fedveil.rotation")

WATCH_S = 5.0
"""How often a running coordinator looks."""


def server_files(home: pathlib.Path) -> KeyFiles:
    """The coordinator's TLS key and certificate."""
    return KeyFiles(home / "coordinator", "server.key", "server.pem")


def operator_files(home: pathlib.Path) -> KeyFiles:
    """The operator's TLS key and certificate."""
    return KeyFiles(home / "operator", "client.key", "client.pem")


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names and addresses in a server certificate: its successor gets the same."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
    return (*found.get_values_for_type(x509.DNSName), *addresses)


@dataclass(frozen=True, slots=True)
class Offer:
    """What was read, checked, and is offered to new connections."""

    certificate: bytes
    key: bytes
    authorities: bytes
    configuration: grpc.ServerCertificateConfiguration

    def __repr__(self) -> str:
        return "Offer(<redacted>)"


class Rotation:
    """Looks at the home and keeps what new connections are offered. `look` belongs to one thread, the rest to any."""

    def __init__(
        self,
        home: pathlib.Path,
        trust: TrustInForce,
        issuing: Issuing,
        clock: Clock,
        entropy: Entropy,
        failpoints: Failpoints | None = None,
    ) -> None:
        """Renews the server certificate if it is due, and reads the first offer. Raises what is wrong with it."""
        self._home = home
        self._trust = trust
        self._issuing = issuing
        self._clock = clock
        self._entropy = entropy
        self._failpoints = failpoints or NoFailpoints()
        self._https: list[ssl.SSLContext] = []
        self._said = ""
        self.failures = 0
        server_files(home).settle()
        self._renew_server()
        self._offer = self._read()

    # --- what is offered ----------------------------------------------------------------------------------------------

    def current(self) -> grpc.ServerCertificateConfiguration:
        """For gRPC, which asks at each connection on a thread of its own: made ahead, cannot fail."""
        return self._offer.configuration

    def server_credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`: follows what is offered."""
        return transport.reloading_server_credentials(self._offer.configuration, self.current)

    def follow(self, context: ssl.SSLContext) -> None:
        """Keep an HTTPS listener's context at what is offered."""
        load_into(context, self._offer.certificate, self._offer.key)
        self._https.append(context)

    # --- looking ------------------------------------------------------------------------------------------------------

    def look(self, office: RenewalOffice | None = None, allowed: AllowList | None = None) -> None:
        """Renew what is due, take up what has changed. What fails is logged once, counted, and changes nothing."""
        self._try(lambda: self._issuing.follow(self._in_force()[0]))
        self._try(self._renew_server)
        if office is not None and allowed is not None:
            self._try(lambda: self.renew_operator(office, allowed))
        self._try(self._reload)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (FedveilError, OSError, ssl.SSLError, ValueError) as error:
            self.failures += 1
            code = error.code if isinstance(error, FedveilError) else type(error).__name__
            if code != self._said:
                self._said = code
                log.error("tls.reload_failed", code=code, what=getattr(error, "what", ""), failures=self.failures)

    def _reload(self) -> None:
        found = self._read()
        before = self._offer
        if replace(found, configuration=before.configuration) == before:
            return
        for context in self._https:
            load_into(context, found.certificate, found.key)
        self._offer = found
        self._said = ""
        log.info("tls.reloaded", serial=certificates.serial_text(certificates.load_certificate(found.certificate)))

    def _read(self) -> Offer:
        """The home's files, checked as a whole."""
        files = server_files(self._home)
        key, pem = files.key(), files.certificate()
        found = self._in_force()
        authorities = bundle.bundle_pem(found)
        certificate = certificates.load_certificate(pem)
        subject = Subject(self._trust.trust.federation_id, Role.COORDINATOR, COORDINATOR)
        issuer = bundle.issuer_in(certificate, found)
        certificates.check_leaf(certificate, issuer, subject, self._clock.wall_s())
        certificates.check_pair(certificate, key)
        return Offer(pem, key, authorities, transport.server_configuration(pem, key, authorities))

    def _in_force(self) -> tuple[x509.Certificate, ...]:
        return bundle.load_bundle(self._trust.authority_pem)

    # --- renewing -----------------------------------------------------------------------------------------------------

    def _renew_server(self) -> None:
        """A new key and certificate for the same hosts, at two thirds of the old one's life, or if no authority in
        force issued it. An older authority's certificate stays until then: who was away does not know the new one yet.
        """
        files = server_files(self._home)
        now = self._clock.wall_s()
        before = certificates.load_certificate(files.certificate())
        if now < certificates.renewal_due_s(before) and any(bundle.issued_by(before, one) for one in self._in_force()):
            return
        key = certificates.new_key(self._entropy)
        subject = Subject(self._trust.trust.federation_id, Role.COORDINATOR, COORDINATOR)
        made = certificates.issue(
            self._issuing.current(), key.public_key(), subject, now, self._entropy, hosts=hosts_of(before)
        )
        files.begin(certificates.key_pem(key))
        files.commit(certificates.certificate_pem(made), self._failpoints)
        log.info("certificate.renewed", org=COORDINATOR, serial=certificates.serial_text(made))

    def renew_operator(self, office: RenewalOffice, allowed: AllowList) -> None:
        """The operator's pair, at two thirds of its life, unless a command renews it just now."""
        files = operator_files(self._home)
        now = self._clock.wall_s()
        if now < certificates.renewal_due_s(certificates.load_certificate(files.certificate())):
            return
        if any(item.role == Role.OPERATOR for item in allowed.frozen()):
            return
        try:
            with FolderLock(self._home / "operator"):
                files.settle()
                before = certificates.load_certificate(files.certificate())
                if now < certificates.renewal_due_s(before):
                    return
                waiting = files.waiting_key()
                key = certificates.new_key(self._entropy) if waiting is None else certificates.load_key(waiting)
                files.begin(certificates.key_pem(key))
                mine = Identity(OPERATOR, Role.OPERATOR, certificates.serial_text(before))
                answer = office.renew(mine, certificates.make_request(key))
                files.commit(answer.certificate, self._failpoints)
        except ConfigError as error:
            if error.code != "data_folder_in_use":
                raise


class IdentityStore(Protocol):
    """Where an identity is made anew; `store.Renewals` is it."""

    def replace_identity(self, certificate: Certificate, at_s: float, who: str) -> None:
        """Its earlier certificates end, and so does a freeze. StorageError."""
        ...


def reissue(
    federation: Federation,
    store: IdentityStore,
    authority: Authority,
    clock: Clock,
    entropy: Entropy,
    failpoints: Failpoints,
) -> bytes:
    """New pairs for the server and the operator, whatever became of the old ones; the operator's certificate (PEM).

    For a coordinator that is stopped: hold the `FolderLock` of the home and of `operator`. The store has the
    operator's certificate before the file is there: a crash between them is mended by doing it again.
    """
    home, now = federation.home, clock.wall_s()
    own = own_certificates(authority, federation.federation_id, federation.address, now, entropy)
    server_files(home).begin(certificates.key_pem(own.server_key))
    server_files(home).commit(certificates.certificate_pem(own.server), failpoints)
    operator_files(home).begin(certificates.key_pem(own.operator_key))
    store.replace_identity(own.stored(federation.federation_id), now, OPERATOR)
    operator_files(home).commit(certificates.certificate_pem(own.operator), failpoints)
    return certificates.certificate_pem(own.operator)


def load_into(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """New connections of `context` are offered this pair. It is tried on a context of its own first: OpenSSL leaves a
    context half changed if the second file does not fit the first. ssl.SSLError, and nothing has changed.
    """
    with _as_file(key + certificate) as path:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
        context.load_cert_chain(path)


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """The bytes under a path, in memory where the system can: OpenSSL reads files only."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("fedveil-tls"), "wb", buffering=0) as memory:
            memory.write(data)
            yield f"/proc/self/fd/{memory.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as file:  # 0600
        file.write(data)
        file.flush()
        yield file.name
