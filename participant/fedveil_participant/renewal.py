"""The participant's certificate is renewed: a new key made here, certified, taken into use, whatever happens meanwhile.

Promise: the new key is on the disk, sealed like the old one, before anybody hears of it; the certificate is on the disk
before it is used; a crash at any point leaves a pair that belongs together, and the next attempt asks for the same key
again, which gets the same certificate. So a lost answer locks nobody out. What comes back is believed only as far as
the fingerprint reaches: chain, authorities, then the certificate for this name and this key.
Source: docs/protocol.md 2.11.
"""

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common import durable
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal, Unreachable
from fedveil_common.pki import bundle, certificates, governance, sealed_keys
from fedveil_common.pki.governance import Trust
from fedveil_common.pki.renewing import NONCE_BYTES, OfflineRenewal, RenewalAnswer, sign_renewal
from fedveil_common.ports import Clock, Entropy, Failpoints
from fedveil_common.secret import Passphrase, PrivateKey

from fedveil_participant.membership import (
    PURPOSE,
    Membership,
    is_clear,
    load_membership,
    open_tls_key,
    save_authorities,
    tls_files,
)
from fedveil_participant.pinned_trust import PinnedTrust

RETRY_FIRST_S, RETRY_LAST_S = 60.0, 3600.0
"""How long after a failure it is tried again: doubled each time."""

LOOK_S = 5.0
"""How often it is looked whether the authorities that the pinned chain names are there."""

ASK_S = 60.0
"""How often the enrolment port is asked for authorities that are missing, or for the chain where no session stands."""

REQUEST = "renew.now"
"""A file in the home with which `fedveil renew` asks the participant that runs there."""

OFFLINE_REASONS = frozenset(
    {
        "authority_mismatch",
        "bad_bundle",
        "bad_certificate",
        "bad_certificate_name",
        "bad_key_file",
        "certificate_expired",
        "key_mismatch",
        "key_missing",
        "wrong_authority",
        "wrong_name",
        "wrong_role",
    }
)
"""What is wrong with a pair that opens no connection any more: then the protocol key signs the request."""


class Office(Protocol):
    """Whom a certificate is asked of."""

    def renew(self, csr: bytes) -> RenewalAnswer:
        """With the certificate in force, over mutual TLS. FedveilError."""
        ...

    def renew_offline(self, request: OfflineRenewal) -> RenewalAnswer:
        """On the enrolment port. FedveilError."""
        ...

    def trust_chain(self) -> bytes:
        """The chain that is served; nothing of it is believed yet. FedveilError."""
        ...

    def authorities(self, trust: Trust) -> bytes:
        """The authorities that are served (PEM), each of which `trust` names. FedveilError."""
        ...


@dataclass(frozen=True, slots=True)
class Hands:
    """What a renewal works with. `protocol_key` and `passphrase` are secret."""

    office: Office
    pin: PinnedTrust
    protocol_key: PrivateKey
    passphrase: Passphrase | None
    clock: Clock
    entropy: Entropy
    failpoints: Failpoints

    def __repr__(self) -> str:
        return "Hands(<redacted>)"


def why_offline(member: Membership, passphrase: Passphrase | None, now: float) -> str:
    """The code of what keeps this pair from opening a connection; empty if nothing does.

    SealedError for a passphrase that is missing or wrong: no renewal mends that.
    """
    try:
        member.check_certificate(now)
        certificates.check_pair(certificates.load_certificate(member.certificate_pem), member.key_pem(passphrase))
    except FedveilError as error:
        if error.code in OFFLINE_REASONS:
            return error.code
        raise
    return ""


def renew(home: pathlib.Path, hands: Hands, *, offline: bool = False) -> Membership:
    """The membership with a new key and certificate. Hold the `FolderLock` of the home.

    `offline`: on the enrolment port, even though the pair in force would do.

    Raises what the coordinator refuses with, Unreachable (then it is tried again with the same key), PeerError
    `wrong_name` and those of `PinnedTrust.take`, `check_bundle`, `check_leaf`; StorageError.
    """
    files = tls_files(home)
    files.settle(hands.failpoints)
    member = load_membership(home)
    offline = bool(why_offline(member, hands.passphrase, hands.clock.wall_s())) or offline
    try:
        key, answer = _ask(member, hands, offline)
    except PeerError as error:
        if error.code != "key_in_use":
            raise
        files.forget()  # its certificate was withdrawn for another one's
        key, answer = _ask(member, hands, offline)
    certificate = check_answer(answer, member, hands.pin, key, hands.clock.wall_s())
    hands.pin.take(answer.trust_chain)  # first: it must name the others
    if answer.authorities != member.authority_pem:
        save_authorities(home, answer.authorities)
    files.commit(certificate, hands.failpoints)
    return load_membership(home)


def _ask(member: Membership, hands: Hands, offline: bool) -> tuple[ec.EllipticCurvePrivateKey, RenewalAnswer]:
    key = _waiting_key(member, hands)
    csr = certificates.make_request(key)
    hands.failpoints.hit("renewal.before.ask")
    if offline:
        nonce = hands.entropy.take(NONCE_BYTES)
        request = sign_renewal(member.federation_id, member.org_id, csr, nonce, hands.protocol_key)
        answer = hands.office.renew_offline(request)
    else:
        answer = hands.office.renew(csr)
    hands.failpoints.hit("renewal.after.ask")
    return key, answer


def _waiting_key(member: Membership, hands: Hands) -> ec.EllipticCurvePrivateKey:
    """The key of an unfinished renewal, or a new one, on the disk before it is used."""
    files = tls_files(member.home)
    waiting = files.waiting_key()
    if waiting is not None:
        return certificates.load_key(open_tls_key(waiting, hands.passphrase))
    key = certificates.new_key(hands.entropy)
    data = certificates.key_pem(key)
    if hands.passphrase is not None and _is_sealed(member):
        data = sealed_keys.seal_key(data, hands.passphrase, PURPOSE, hands.entropy)
    files.begin(data)
    hands.failpoints.hit("renewal.after.key_made")
    return key


def _is_sealed(member: Membership) -> bool:
    """Whether the TLS key is to be sealed: it is, or it is lost and a passphrase was given."""
    try:
        return not is_clear(tls_files(member.home).key())
    except FedveilError:
        return True


def check_answer(
    answer: RenewalAnswer, member: Membership, pin: PinnedTrust, key: ec.EllipticCurvePrivateKey, now: float
) -> bytes:
    """The certificate (PEM), if all of the answer is what it must be. Nothing is pinned yet."""
    trust = pin.check(answer.trust_chain)
    authorities = bundle.check_bundle(answer.authorities, trust.authorities)
    certificate = certificates.load_certificate(answer.certificate)
    certificates.check_leaf(certificate, bundle.issuer_in(certificate, authorities), member.subject, now)
    if certificates.spki_hash(certificate) != certificates.key_hash(key.public_key()):
        raise PeerError("wrong_name", "the certificate that came back is not for the key that was made here")
    return answer.certificate


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the next renewal is tried: `due_s` on the wall clock; after failures not before `not_before_s` on the
    monotonic one. Pure.
    """

    due_s: float
    failures: int = 0
    not_before_s: float = float("-inf")

    def is_due(self, wall_s: float, monotonic_s: float) -> bool:
        """Whether it is tried now."""
        return wall_s >= self.due_s and monotonic_s >= self.not_before_s

    def failed(self, monotonic_s: float) -> "Schedule":
        """After a failure."""
        delay = min(RETRY_LAST_S, RETRY_FIRST_S * 2 ** min(self.failures, 16))
        return Schedule(self.due_s, self.failures + 1, monotonic_s + delay)


def schedule(certificate_pem: bytes) -> Schedule:
    """For this certificate: at two thirds of its life."""
    return Schedule(certificates.renewal_due_s(certificates.load_certificate(certificate_pem)))


Tell = Callable[[str, Mapping[str, str]], None]
Renewed = Callable[[Membership], None]
"""Takes the new pair, or new authorities, into use: a new channel, the old one drained, the session opened again."""


class Renewer:
    """Renews by itself while the participant runs, and keeps its authorities those that the pinned chain names. `tick`
    belongs to one thread, and the home's `FolderLock` is held; `lost` to any.
    """

    def __init__(self, home: pathlib.Path, hands: Hands, renewed: Renewed, tell: Tell) -> None:
        self._home = home
        self._hands = hands
        self._renewed = renewed
        self._tell = tell
        member = load_membership(home)
        self._schedule = schedule(member.certificate_pem)
        self._authorities = bundle.bundle_pem(member.authorities)
        self._lost = False
        self._look_at_s = self._ask_at_s = self._fetch_at_s = float("-inf")
        self._said = ""
        self.failures = 0

    def tick(self) -> None:
        """Whatever is due now. Failures are told, and tried again later."""
        self._look()
        clock = self._hands.clock
        if not self._schedule.is_due(clock.wall_s(), clock.monotonic_s()):
            return
        try:
            member = renew(self._home, self._hands)
        except FedveilError as error:
            self._failed(error)
            return
        self._schedule = schedule(member.certificate_pem)
        self._authorities = bundle.bundle_pem(member.authorities)
        certificate = certificates.load_certificate(member.certificate_pem)
        self._tell("certificate_renewed", {"serial": certificates.serial_text(certificate)})
        self._renewed(member)

    def _failed(self, error: FedveilError) -> None:
        self.failures += 1
        self._schedule = self._schedule.failed(self._hands.clock.monotonic_s())
        kind = "alarm" if isinstance(error, PolicyRefusal | PeerError) else "renewal_failed"
        self._tell(kind, {"code": error.code, "what": error.what, "next": error.next_step})

    def lost(self) -> None:
        """No session could be opened: perhaps the authorities changed while this participant was away."""
        self._lost = True

    def _look(self) -> None:
        """Authorities that the pinned chain names are fetched, and taken into use."""
        now = self._hands.clock.monotonic_s()
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_S
        try:
            if (self._home / REQUEST).exists():
                durable.remove(self._home / REQUEST)
                self._schedule = Schedule(float("-inf"))
            self._ask(now)
            self._fetch(now)
            member = load_membership(self._home)
            found = bundle.bundle_pem(member.authorities)
        except FedveilError as error:
            if error.code != self._said:
                self._said = error.code
                self.failures += 1
                kind = "authorities_missing" if isinstance(error, Unreachable) else "alarm"
                self._tell(kind, {"code": error.code, "what": error.what, "next": error.next_step})
            return
        self._said = ""
        if found == self._authorities:
            return
        self._authorities = found
        self._tell("authorities_changed", {"authorities": str(len(bundle.load_bundle(found)))})
        self._renewed(member)

    def _ask(self, now: float) -> None:
        """Where no session stands: which chain is served? A longer one of the same branch is pinned."""
        if not self._lost or now < self._ask_at_s:
            return
        self._lost, self._ask_at_s = False, now + ASK_S
        with contextlib.suppress(Unreachable):  # the session has said it already
            self._hands.pin.take(self._hands.office.trust_chain())

    def _fetch(self, now: float) -> None:
        """ca.pem holds the authorities that the pinned chain names, no fewer and no more."""
        trust = self._hands.pin.trust
        held, named = self._held(), set(trust.authorities)
        if held > named:  # one was retired
            kept = bundle.named_in(load_membership(self._home).authority_pem, trust.authorities)
            save_authorities(self._home, bundle.bundle_pem(kept))
        elif held != named and now >= self._fetch_at_s:
            self._fetch_at_s = now + ASK_S
            save_authorities(self._home, self._hands.office.authorities(trust))

    def _held(self) -> set[bytes]:
        try:
            found = bundle.load_bundle(load_membership(self._home).authority_pem)
        except PeerError:
            return set()
        return {governance.authority_digest(certificates.certificate_der(one)) for one in found}
