"""The certificate authorities that a federation goes by at one time: one, or an old and a new one while they change.

Promise: an authority counts only if the trust chain in force names it; whoever writes a file into the folder, and
cannot sign a trust document, adds no authority by it. Source: docs/protocol.md 2.11.
"""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fedveil_common.errors import PeerError
from fedveil_common.pki import certificates, governance

MAX_AUTHORITIES = governance.MAX_AUTHORITIES
MAX_BUNDLE = MAX_AUTHORITIES * certificates.MAX_PEM


def load_bundle(pem: bytes) -> tuple[x509.Certificate, ...]:
    """1 to 8 certificates in PEM, in their order; PeerError `bad_bundle`."""
    if len(pem) <= MAX_BUNDLE:
        try:
            found = tuple(x509.load_pem_x509_certificates(pem))
        except (ValueError, x509.InvalidVersion):
            found = ()
        if 1 <= len(found) <= MAX_AUTHORITIES:
            return found
    raise PeerError("bad_bundle", f"not a bundle of 1 to {MAX_AUTHORITIES} certificate authorities in PEM")


def check_bundle(pem: bytes, trusted: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """The authorities in `pem` if each is in `trusted` (SHA-256 of DER, from the verified trust chain).

    PeerError `bad_bundle`, `authority_mismatch`.
    """
    found = load_bundle(pem)
    for authority in found:
        if governance.authority_digest(certificates.certificate_der(authority)) not in trusted:
            raise PeerError(
                "authority_mismatch",
                f"the authority {authority.subject.rfc4514_string()} is not one that the trust chain names",
                not_done="the authorities are those from before",
                next_step="telephone the operator",
            )
    return found


def named_in(pem: bytes, trusted: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Those in `pem` that are in `trusted`: one that was retired, or is not in force yet, counts for nothing.

    PeerError `authority_mismatch` if none is left, `bad_bundle`.
    """
    found = load_bundle(pem)
    kept = tuple(one for one in found if governance.authority_digest(certificates.certificate_der(one)) in trusted)
    return kept or check_bundle(pem, trusted)


def bundle_pem(authorities: Sequence[x509.Certificate]) -> bytes:
    """The inverse of `load_bundle`."""
    return b"".join(certificates.certificate_pem(authority) for authority in authorities)


def issuer_in(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> x509.Certificate:
    """The authority that issued `certificate`; the first one if none did, for `check_leaf` to refuse by."""
    return next((authority for authority in authorities if issued_by(certificate, authority)), authorities[0])


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` signed `certificate`. Dates and names are `check_leaf`'s."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
