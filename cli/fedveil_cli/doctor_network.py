"""What `doctor` asks the coordinator: is it there, is it the right one, what time is it, what does it think of me.

A failed handshake tells the other side nothing (gRPC: "Socket closed"), so each layer is tried by itself, in order:
name, port, which protocol, whose certificate, clock, the standing of the own certificate, and last a real call. The
standing is asked first with a signed question, because a call with a superseded certificate would freeze the identity.
"""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common.errors import PeerError
from fedveil_common.gate import Outbox
from fedveil_common.ids import FederationId
from fedveil_common.pki.governance import Trust, verify_chain
from fedveil_common.pki.invites import split_address
from fedveil_common.pki.renewing import Standing
from fedveil_common.ports import Clock
from fedveil_common.succession import follow
from fedveil_participant.enrolment_client import dial, fetch_time, fetch_trust, unproven
from fedveil_participant.renewal_client import standing_of

from fedveil_cli.doctor_findings import Report

TIMEOUT_S = 5.0
CLOCK_S = 60.0
"""How far a clock may be from the coordinator's: certificates are backdated ten minutes."""

_STRANGE = frozenset({"bad_certificate", "bad_document", "too_large"})
"""How an answer ends that is not in the form of ours."""

_STANDINGS = {
    Standing.UNKNOWN: ("serial_unknown", "the coordinator never signed this certificate"),
    Standing.SUPERSEDED: ("certificate_superseded", "a newer certificate of this identity is in use"),
    Standing.WITHDRAWN: ("certificate_withdrawn", "another key was certified in place of this one"),
    Standing.REVOKED: ("certificate_revoked", "the coordinator revoked or replaced this certificate"),
    Standing.FROZEN: ("identity_frozen", "the identity is frozen: a certificate was used after its successor"),
    Standing.EXPIRED: ("certificate_expired", "the coordinator takes this certificate for expired"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom to ask, and with what. `chain`: the trust chain of this home. `call`: a real call over mutual TLS; (name,
    role, serial) as the coordinator sees it. `outbox`: where what is asked is written down.
    """

    address: str
    fingerprint: bytes
    chain: bytes
    federation_id: FederationId
    certificate: bytes
    key: ec.EllipticCurvePrivateKey | None
    call: Callable[[], tuple[str, str, str]]
    outbox: Outbox


def check_coordinator(asked: Asked, clock: Clock, report: Report) -> None:
    """Every layer, as far as the one below it holds."""
    host, port = split_address(asked.address)
    if not _check_name(host, port, report):
        return
    rounds, enrolment = (_protocol(host, number) for number in (port, port + 1))
    report.checked.append("ports")
    tried = ((port, rounds, "port_unreachable"), (port + 1, enrolment, "enrolment_port_unreachable"))
    for number, found, code in tried:
        if found is None:
            report.add(code, f"nobody answers at {host} port {number}", f"{host}:{number}")
    if rounds == "other" or enrolment == "h2":
        what = f"port {port} answers as {_NAMES[rounds]}, port {port + 1} as {_NAMES[enrolment]}"
        report.add("port_mixed_up", what, asked.address)
        return
    if enrolment is None:
        return
    if not _check_identity(asked, report):
        return
    _check_clock(asked, clock, report)
    may_call = asked.key is not None and _check_standing(asked, asked.key, report)
    if may_call and rounds == "h2" and report.sound:  # of a home that is not, the call would only say less
        report.passes("call", asked.call, asked.address)


_NAMES = {None: "nothing", "h2": "gRPC", "other": "enrolment"}


def _check_name(host: str, port: int, report: Report) -> bool:
    report.checked.append("name")
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        report.add("dns_failed", f"{host} has no address: {getattr(error, 'strerror', '') or error}", host)
        return False
    return True


def _protocol(host: str, port: int) -> str | None:
    """`h2` if a gRPC server answers there, `other` if something else does, over TLS or not; None if nobody does."""
    context = unproven()
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as stream:
            with contextlib.suppress(OSError), context.wrap_socket(stream, server_hostname=host) as secured:
                return "h2" if secured.selected_alpn_protocol() == "h2" else "other"
            return "other"
    except OSError:
        return None


def _check_identity(asked: Asked, report: Report) -> bool:
    """The coordinator is the one that the fingerprint names, and its certificate is for this host."""

    def prove() -> None:
        try:
            _, trust, authorities = fetch_trust(asked, asked.outbox)
        except PeerError as error:
            if error.code not in _STRANGE:
                raise
            what = f"what answers at the enrolment port is no coordinator: {error.what}"
            raise PeerError("not_the_coordinator", what) from error
        _check_chain(asked, trust, report)
        dial(asked, trust, authorities).close()

    return report.passes("coordinator", prove, asked.address)


def _check_chain(asked: Asked, served: Trust, report: Report) -> None:
    """What is served is the chain of this home; a longer one of the same branch is an advice."""
    try:
        pinned = verify_chain(asked.chain, asked.fingerprint)
    except PeerError:
        return  # found in the home already
    follow(pinned, served)
    if served.coordinator != pinned.coordinator:
        what = f"trust document {served.sequence}, which is served, names another coordinator than this home knows"
        report.add("coordinator_replaced", what, asked.address)
    elif served.sequence > pinned.sequence:
        what = f"{served.sequence} trust documents are served, this home knows {pinned.sequence}"
        report.add("trust_chain_behind", what, asked.address, advice=True)


def _check_clock(asked: Asked, clock: Clock, report: Report) -> None:
    with report.check("clock", asked.address):
        before = clock.wall_s()
        theirs = fetch_time(asked, asked.outbox)
        off = theirs - (before + clock.wall_s()) / 2
        if abs(off) > CLOCK_S:
            hours, seconds = divmod(abs(off), 3600)
            way = "behind" if off > 0 else "ahead of"
            what = f"this machine's clock is {hours:.0f} h {seconds / 60:.0f} min {way} the coordinator's"
            report.add("clock_differs", what, asked.address)


def _check_standing(asked: Asked, key: ec.EllipticCurvePrivateKey, report: Report) -> bool:
    """Whether a call may be made with this certificate."""
    with report.check("standing", asked.address):
        standing = standing_of(asked, asked.federation_id, asked.certificate, key, asked.outbox)
        if standing in _STANDINGS:
            report.add(*_STANDINGS[standing], asked.address)
        return standing in {Standing.CURRENT, Standing.OFFERED}
    return False
