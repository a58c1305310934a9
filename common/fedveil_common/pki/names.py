"""Who a certificate speaks for: the SAN URI spiffe://FEDERATION/ROLE/NAME, and nothing else in it.

Invariant: the URI is read as a URI from the parsed certificate, never from a flat list of alternative names, so that a
DNS name of the same text is no identity. Source: SPIFFE ID specification section 2; RFC 5280 section 4.2.1.6.
"""

from dataclasses import dataclass

from cryptography import x509

from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, OrgId, is_name
from fedveil_common.pki.invites import Role

_SCHEME = "spiffe://"


@dataclass(frozen=True, slots=True)
class Subject:
    """A federation, a role in it, and who has it."""

    federation_id: FederationId
    role: Role
    org_id: OrgId

    @property
    def uri(self) -> str:
        """As it stands in a certificate."""
        return f"{_SCHEME}{self.federation_id}/{self.role.value}/{self.org_id}"


def read_uri(uri: str) -> Subject:
    """The subject that `uri` names; PeerError `bad_certificate_name`."""
    parts = uri.removeprefix(_SCHEME).split("/")
    if uri.startswith(_SCHEME) and len(parts) == 3 and is_name(parts[0]) and is_name(parts[2]):
        for role in Role:
            if parts[1] == role.value:
                return Subject(FederationId(parts[0]), role, OrgId(parts[2]))
    raise PeerError("bad_certificate_name", f"the certificate's URI {uri[:200]!r} names nobody in a federation")


def subject_of(certificate: x509.Certificate) -> Subject:
    """The subject of a certificate: its one SAN URI. PeerError `bad_certificate_name` for none, several, or another."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = found.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        uris = []
    if len(uris) != 1:
        raise PeerError("bad_certificate_name", f"the certificate carries {len(uris)} URI names, one is needed")
    return read_uri(uris[0])
