"""Changing the certificate authority: a new one beside the old one, and later the old one's end.

    authority/HEX.key HEX.pem   a later authority: its key, sealed, and its certificate; HEX: 16 digits of its digest
    authority/ca.pem            the bundle in force, the authority that issues first

Promise: an authority comes into this folder's bundle only if the trust chain names it, and leaves it only when no
certificate that it signed is still in use. Writing the bundle is one step: a crash leaves the old one or the new one.
"""

from collections.abc import Mapping, Sequence

from cryptography import x509
from fedveil_common import durable
from fedveil_common.errors import ConfigError
from fedveil_common.pki import bundle, certificates, sealed_keys
from fedveil_common.pki.governance import authority_digest
from fedveil_common.ports import Clock, Entropy
from fedveil_common.secret import Passphrase

from fedveil_coordinator.founding import AUTHORITY_PURPOSE, Federation
from fedveil_coordinator.store.members import Certificate
from fedveil_coordinator.succession import Place


def digest_of(certificate: x509.Certificate) -> bytes:
    """How trust documents name it."""
    return authority_digest(certificates.certificate_der(certificate))


def make_authority(federation: Federation, passphrase: Passphrase, clock: Clock, entropy: Entropy) -> x509.Certificate:
    """A new authority's certificate; its key is sealed in this home. It issues nothing before it is published.

    ConfigError `weak_passphrase`, `too_many_authorities`.
    """
    if len(federation.trust.authorities) >= bundle.MAX_AUTHORITIES:
        raise ConfigError(
            "too_many_authorities",
            f"{bundle.MAX_AUTHORITIES} certificate authorities are in force already",
            next_step="`fedveil ca retire OLD` first",
        )
    made = certificates.make_authority(federation.federation_id, clock.wall_s(), entropy)
    path = federation.authority_key_file(digest_of(made.certificate))
    sealed = sealed_keys.seal_key(certificates.key_pem(made.key), passphrase, AUTHORITY_PURPOSE, entropy)
    durable.write_file(path, sealed)
    durable.write_file(path.with_suffix(".pem"), made.pem)
    return made.certificate


def install_bundle(federation: Federation, digests: Sequence[bytes], shown: bytes) -> None:
    """The bundle holds exactly the authorities of these digests, in this order. `shown`: PEM from the proposal.

    ConfigError `authority_missing` if a certificate is nowhere, or the key of the first one is not in this home.
    """
    known = {digest_of(one): one for one in bundle.load_bundle(federation.authority_pem)}
    known |= {digest_of(one): one for one in (bundle.load_bundle(shown) if shown else ())}
    lacking = [digest for digest in digests if digest not in known]
    first = federation.authority_key_file(digests[0])
    issuing = digest_of(federation.authorities[0])
    if lacking or (digests[0] != issuing and not first.exists()):
        raise ConfigError(
            "authority_missing",
            f"this home lacks the certificate or the key of authority {(lacking or list(digests))[0].hex()[:16]}",
            not_done="nothing was published",
            next_step="publish from the home in which `fedveil ca rotate` made it",
        )
    pem = bundle.bundle_pem([known[digest] for digest in digests])
    durable.write_file(federation.home / "authority" / "ca.pem", pem)


def live_under(
    authority: x509.Certificate, stored: Sequence[Certificate], places: Mapping[str, Place], now: float
) -> tuple[Certificate, ...]:
    """The certificates of `authority` that may still call at `now` (seconds since 1970). `places`: where each stands in
    its succession; one that is superseded calls no more, however long it is valid.
    """
    ended = {serial for serial, place in places.items() if place.ended_s is not None}
    live = [one for one in stored if one.revoked_s is None and one.not_after_s > now and one.serial not in ended]
    return tuple(one for one in live if bundle.issued_by(certificates.load_certificate(one.pem), authority))


def forget_keys(federation: Federation, digests: Sequence[bytes]) -> None:
    """The keys of retired authorities are gone from this home, durably; copies elsewhere are not."""
    first = federation.trust.documents[0].authorities
    for digest in digests:
        path = federation.authority_key_file(digest)
        for old in (path, path.with_suffix(".pem"), *((federation.home / "authority" / "ca.key",) * (digest in first))):
            durable.remove(old)
