"""What a joiner says over HTTPS, in two steps: look at a stranger, then speak to a coordinator that proved itself.

Promise: until the trust chain matches the token's fingerprint nothing but two GET requests leaves; the join request
travels only over TLS that ends at a coordinator's certificate of the authority which that chain names.
"""

import http.client
import ssl
from collections.abc import Mapping, Sequence
from typing import Protocol

from cryptography import x509
from fedveil_common import gate
from fedveil_common.errors import PeerError, Unreachable
from fedveil_common.gate import Outbox
from fedveil_common.ids import COORDINATOR
from fedveil_common.limits import MAX_DOCUMENT
from fedveil_common.pki import bundle, documents, governance
from fedveil_common.pki.governance import Trust
from fedveil_common.pki.invites import Role, split_address
from fedveil_common.pki.joining import MAX_ANSWER, MAX_REQUEST, JoinAnswer, JoinRequest, decode_refusal
from fedveil_common.pki.names import Subject, subject_of

TIMEOUT_S = 15.0


class Contact(Protocol):
    """Where a coordinator is reached and what its federation is known by; a token and a membership are both one."""

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC; enrolment listens on the port after it."""
        ...

    @property
    def fingerprint(self) -> bytes:
        """What the trust chain must begin with."""
        ...


def fetch_trust(contact: Contact, outbox: Outbox) -> tuple[bytes, Trust, tuple[x509.Certificate, ...]]:
    """(trust chain as served, what it establishes, the authorities' certificates), over TLS that proves nothing.

    Raises PeerError `fingerprint_mismatch`, `authority_mismatch` and those of `verify_chain`; Unreachable.
    """
    chain, trust = fetch_chain(contact, outbox)
    return chain, trust, fetch_authorities(contact, trust, outbox)


def fetch_chain(contact: Contact, outbox: Outbox) -> tuple[bytes, Trust]:
    """The trust chain that is served, and what it establishes. Errors as `fetch_trust`."""
    chain = _answer(_connect(contact, unproven()), outbox, "Trust", b"", MAX_DOCUMENT)
    return chain, governance.verify_chain(chain, contact.fingerprint)


def fetch_authorities(contact: Contact, trust: Trust, outbox: Outbox) -> tuple[x509.Certificate, ...]:
    """The authorities that are served, each of which `trust` names. PeerError `authority_mismatch`, `bad_bundle`."""
    data = _answer(_connect(contact, unproven()), outbox, "Authorities", b"", bundle.MAX_BUNDLE)
    return bundle.check_bundle(data, trust.authorities)


def dial(contact: Contact, trust: Trust, authorities: Sequence[x509.Certificate]) -> http.client.HTTPSConnection:
    """A connection, over TLS pinned to `authorities`, to a server that proved to be the coordinator. Nothing is sent.

    Raises PeerError `server_not_trusted`; Unreachable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks chain, dates, server usage and host name
    context.load_verify_locations(cadata=bundle.bundle_pem(authorities).decode("ascii"))
    connection = _connect(contact, context)
    peer = connection.sock.getpeercert(binary_form=True) if isinstance(connection.sock, ssl.SSLSocket) else None
    expected = Subject(trust.federation_id, Role.COORDINATOR, COORDINATOR)
    if peer is None or subject_of(x509.load_der_x509_certificate(peer)) != expected:
        connection.close()
        raise PeerError(
            "server_not_trusted",
            "the server's certificate is not that of the coordinator",
            not_done="nothing was sent and nothing was stored",
        )
    return connection


def post_join(connection: http.client.HTTPSConnection, request: JoinRequest, outbox: Outbox) -> JoinAnswer:
    """The coordinator's answer to `request`, on what `dial` returned.

    Raises whatever the coordinator refuses with, PeerError `bad_document`; Unreachable.
    """
    return JoinAnswer.decode(_answer(connection, outbox, "Join", request.encode(), MAX_ANSWER))


def post(contact: Contact, outbox: Outbox, kind: str, body: bytes, most: int) -> bytes:
    """What a coordinator that proved itself anew from the fingerprint answers (at most `most` bytes) to a request of
    that kind: whoever was away for long knows neither the chain nor the authorities of today. Raises as `fetch_trust`,
    `dial` and the refusal.
    """
    _, trust, authorities = fetch_trust(contact, outbox)
    return _answer(dial(contact, trust, authorities), outbox, kind, body, most)


def fetch_time(contact: Contact, outbox: Outbox) -> float:
    """The coordinator's clock, in seconds since 1970, from whoever answers there: a diagnosis, nothing rests on it.
    PeerError `bad_document`; Unreachable.
    """
    data = _answer(_connect(contact, unproven()), outbox, "Time", b"", MAX_REQUEST)
    found = documents.canonical(data, "time")
    value = found.get("seconds") if isinstance(found, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise documents.bad("time", "no seconds in it")
    return float(value)


def unproven() -> ssl.SSLContext:
    """TLS that proves nothing: what comes over it is checked otherwise, by the fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connect(contact: Contact, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    host, port = split_address(contact.address)
    connection = http.client.HTTPSConnection(host, port + 1, timeout=TIMEOUT_S, context=context)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise PeerError(
            "server_not_trusted",
            f"the server at {host}:{port + 1} is not the federation's coordinator: {error.verify_message}",
            not_done="nothing was sent and nothing was stored",
            next_step="telephone the operator",
        ) from error
    except OSError as error:
        raise _unreachable(contact, str(error)) from error
    return connection


def _answer(connection: http.client.HTTPSConnection, outbox: Outbox, kind: str, body: bytes, most: int) -> bytes:
    """Every request of this module goes through here, and so through the gate."""
    method, path = gate.https(outbox, kind, body)
    try:
        connection.request(method, path, body or None)
        response = connection.getresponse()
        data = response.read(most + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(
            "coordinator_unreachable",
            f"the coordinator did not answer {path}: {type(error).__name__}",
            next_step="try again; the same token and keys are used",
        ) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise decode_refusal(data[: MAX_REQUEST + 1], COORDINATOR)
    if len(data) > most:
        raise PeerError("too_large", f"the coordinator's answer to {path} has more than {most} bytes")
    return data


def _unreachable(contact: Contact, why: str) -> Unreachable:
    host, port = split_address(contact.address)
    return Unreachable(
        "coordinator_unreachable",
        f"{host}:{port + 1} cannot be reached: {why}",
        not_done="nothing was sent and nothing was stored",
        next_step="is the coordinator running, and is the enrolment port (gRPC port + 1) open?",
    )
