"""The operator's folder: made once by `init`, read by `serve` and by the operator's commands.

    federation.json          what the federation is called and where it is reached; written last: an init is whole
    trust.json               the trust chain: governance set, authority
    authority/ca.pem ca.key  the certificate authorities in force, the one that issues first, and the key of that one,
                             sealed under the first passphrase, opened by `serve`
    governance/              the operator's `GovernanceFolder`: keys under the second passphrase, on another medium if
                             asked; never opened by `serve`
    governance/roster.json   the roster signed last, and void-tokens.json: the operator's memory of its own decisions
    coordinator/             protocol.key, server.key (0600), server.pem
    operator/                client.key (0600), client.pem: the operator's own certificate
    coordinator.db           the store, holding roster version 1 and the operator's certificate

Promise: every private key is made here from injected entropy and leaves this folder only to sign.
"""

import ipaddress
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common import durable, jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError, StorageError
from fedveil_common.ids import COORDINATOR, FederationId, check_name
from fedveil_common.pki import bundle, certificates, governance, invites, sealed_keys, transport
from fedveil_common.pki.documents import Fields, canonical
from fedveil_common.pki.governance import GovernanceSet, Trust, TrustDocument
from fedveil_common.pki.governance_folder import KEY_FILE, PURPOSE, GovernanceFolder
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_common.ports import Clock, Entropy
from fedveil_common.roster import Member, Roster, sign_roster
from fedveil_common.secret import Passphrase, PrivateKey

from fedveil_coordinator.enrollment import stored_certificate
from fedveil_coordinator.store import FILE as DATABASE
from fedveil_coordinator.store import open_store
from fedveil_coordinator.store.members import Certificate as StoredCertificate

DEFAULT_PORT = 7443
MAX_NAME = 40
"""Characters of a federation's name: id and the 17 characters after it stay below 64."""

AUTHORITY_PURPOSE = "authority"
_MARK = "federation.json"
_VOID = "void-tokens.json"
_LAST_ROSTER = "roster.json"


@dataclass(frozen=True, slots=True)
class InitResult:
    """What `init` prints."""

    federation_id: FederationId
    fingerprint: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Federation:
    """A founded folder. Holds no secret: keys are read when they are used."""

    home: pathlib.Path
    federation_id: FederationId
    address: str
    governance_folder: pathlib.Path
    trust_chain: bytes
    fingerprint: bytes

    @property
    def trust(self) -> Trust:
        """The verified chain."""
        return governance.verify_chain(self.trust_chain, self.fingerprint)

    @property
    def listen(self) -> tuple[str, int]:
        """(address, port) to bind: loopback if the federation's address is, else every interface.

        IPv6 if the address is an IPv6 address (every interface then takes IPv4 too), else IPv4.
        """
        host, port = invites.split_address(self.address)
        if _is_v6(host):
            return ("::1" if _is_loopback(host) else "::"), port
        return ("127.0.0.1" if _is_loopback(host) else "0.0.0.0"), port  # noqa: S104 - a server for other machines

    @property
    def admin_address(self) -> str:
        """Where the operator's commands on this machine reach the coordinator."""
        host, port = self.listen
        return dial_address("::1" if _is_v6(host) else "127.0.0.1", port)

    @property
    def authority_pem(self) -> bytes:
        """The home's bundle of certificate authorities, the one that issues first."""
        return _read(self.home / "authority" / "ca.pem")

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """Those of the bundle that the chain names. PeerError `bad_bundle`, `authority_mismatch`; StorageError."""
        return bundle.named_in(self.authority_pem, self.trust.authorities)

    @property
    def server_key_file(self) -> pathlib.Path:
        """The coordinator's TLS key, 0600."""
        return self.home / "coordinator" / "server.key"

    @property
    def server_certificate_file(self) -> pathlib.Path:
        """The coordinator's certificate."""
        return self.home / "coordinator" / "server.pem"

    def authority(self, passphrase: Passphrase | None) -> certificates.Authority:
        """The authority that issues, with its key. SealedError `passphrase_missing`, `passphrase_wrong`."""
        return self.authority_of(self.authorities[0], passphrase)

    def authority_of(self, certificate: x509.Certificate, passphrase: Passphrase | None) -> certificates.Authority:
        """The authority with this certificate, its key opened. Errors as `authority`; ConfigError `bad_key_file`."""
        sealed = sealed_keys.read_private(self.key_file_of(certificate))
        key = certificates.load_key(sealed_keys.open_key(sealed, passphrase, AUTHORITY_PURPOSE))
        if certificates.key_hash(key.public_key()) != certificates.spki_hash(certificate):
            raise ConfigError("bad_key_file", "the key in this home is not that of the authority which issues")
        return certificates.Authority(certificate, key)

    def key_file_of(self, certificate: x509.Certificate) -> pathlib.Path:
        """Where the key of the authority with this certificate lies."""
        own = self.authority_key_file(governance.authority_digest(certificates.certificate_der(certificate)))
        return own if own.exists() else self.home / "authority" / "ca.key"

    def authority_key_file(self, digest: bytes) -> pathlib.Path:
        """Where the key of a later authority lies, sealed; that of the first is authority/ca.key."""
        return self.home / "authority" / f"{digest.hex()[:16]}.key"

    def governance_key(self, passphrase: Passphrase | None) -> PrivateKey:
        """The key of this home in the governance set in force: for `invite`, `revoke`, `run start`; never for `serve`.

        SealedError as `authority`; ConfigError `not_a_governance_key`.
        """
        return self.governing.open_key(self.trust.governance, passphrase)

    @property
    def governing(self) -> GovernanceFolder:
        """The folder of the operator's governance keys."""
        return GovernanceFolder(self.governance_folder)

    @property
    def governs_alone(self) -> bool:
        """Whether one key of this home is enough to sign: k = 1, and it holds one."""
        chosen = self.trust.governance
        return chosen.threshold == 1 and not self.governing.public_keys().keys().isdisjoint(chosen.keys)

    def save_trust(self, chain: bytes) -> None:
        """A longer chain takes the place of this one, durably; `trust_chain` of this object stays what it was."""
        durable.write_file(self.home / "trust.json", chain)

    def protocol_key(self) -> PrivateKey:
        """The coordinator's Ed25519 protocol key."""
        data = sealed_keys.read_private(self.home / "coordinator" / "protocol.key")
        try:
            return PrivateKey(bytes.fromhex(data.decode("ascii").strip()))
        except ValueError:
            raise ConfigError("bad_key_file", "coordinator/protocol.key does not hold a protocol key") from None

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials for gRPC of the coordinator, client certificates required."""
        key = sealed_keys.read_private(self.server_key_file)
        return transport.server_credentials(_read(self.server_certificate_file), key, self.authority_pem)

    def void_tokens(self) -> tuple[bytes, ...]:
        """Token ids whose members were removed: the operator's own memory, which the coordinator cannot edit."""
        path = self.governance_folder / _VOID
        if not path.exists():
            return ()
        fields = Fields(
            canonical(sealed_keys.read_private(path), "list of void tokens"), "list of void tokens", {"void"}
        )
        return tuple(fields.hexes("void", invites.TOKEN_ID_BYTES, 100_000))

    def add_void_tokens(self, tokens: tuple[bytes, ...]) -> None:
        """Remember more of them, durably."""
        if tokens:
            everything = sorted({*self.void_tokens(), *tokens})
            data = jcs.dumps({"void": [token.hex() for token in everything]})
            durable.write_file(self.governance_folder / _VOID, data)

    def last_roster(self) -> bytes:
        """The roster that governance signed last, as the operator remembers it, whatever the coordinator shows."""
        return _read(self.governance_folder / _LAST_ROSTER)

    def save_last_roster(self, signed: bytes) -> None:
        """Remember it, durably, before it is handed to the coordinator."""
        durable.write_file(self.governance_folder / _LAST_ROSTER, signed)


def init(
    home: pathlib.Path,
    name: str,
    address: str,
    ca_passphrase: Passphrase,
    governance_passphrase: Passphrase,
    governance_dir: pathlib.Path | None,
    entropy: Entropy,
    clock: Clock,
) -> InitResult:
    """Found a federation in `home`. `address`: HOST or HOST:PORT (7443).

    Raises ConfigError `bad_name`, `bad_address`, `equal_passphrases`, `weak_passphrase`, `already_initialised`,
    `init_incomplete`; StorageError.
    """
    if len(check_name(name, "the federation's name")) > MAX_NAME:
        raise ConfigError("bad_name", f"the federation's name has more than {MAX_NAME} characters")
    address = full_address(address)
    if ca_passphrase == governance_passphrase:
        raise ConfigError(
            "equal_passphrases",
            "the passphrases of the certificate authority and of governance are equal",
            next_step="choose two: who serves must not be able to govern",
        )
    governance_folder = home / "governance" if governance_dir is None else governance_dir
    _check_unused(home, governance_folder)
    federation_id = FederationId(f"{name}-{entropy.take(8).hex()}")
    now = clock.wall_s()
    authority = certificates.make_authority(federation_id, now, entropy)
    governance_key, protocol_key = PrivateKey(entropy.take(32)), PrivateKey(entropy.take(32))
    chosen = GovernanceSet(1, (signing.public_key(governance_key),))
    digest = governance.authority_digest(certificates.certificate_der(authority.certificate))
    document = TrustDocument(federation_id, 1, chosen, (digest,), signing.public_key(protocol_key))
    chain = governance.encode_chain([governance.sign_trust(document, [governance_key])])
    head = Member(COORDINATOR, Role.COORDINATOR, signing.public_key(protocol_key))
    signed = sign_roster(Roster(federation_id, 1, (head,)), [governance_key]).encode()
    sealed = {
        home / "authority" / "ca.key": sealed_keys.seal_key(
            certificates.key_pem(authority.key), ca_passphrase, AUTHORITY_PURPOSE, entropy
        ),
        governance_folder / KEY_FILE: sealed_keys.seal_key(
            governance_key.expose(), governance_passphrase, PURPOSE, entropy
        ),
    }
    own = own_certificates(authority, federation_id, address, now, entropy)
    files: Mapping[pathlib.Path, bytes] = {
        **sealed,
        home / "authority" / "ca.pem": authority.pem,
        home / "coordinator" / "protocol.key": protocol_key.expose().hex().encode("ascii"),
        **{home / name: data for name, data in own.files().items()},
        home / "trust.json": chain,
        (governance_folder / KEY_FILE).with_suffix(".pub"): chosen.keys[0].hex().encode("ascii"),
        governance_folder / _LAST_ROSTER: signed,
    }
    for path, data in files.items():
        durable.make_folder(path.parent)
        durable.write_file(path, data)
    store = open_store(home, clock, create=True)
    try:
        store.records.save_trust(chain, who=invites.OPERATOR)
        store.records.save_roster(1, signed, who=invites.OPERATOR)
        store.members.add_certificate(own.stored(federation_id), who=invites.OPERATOR)
    finally:
        store.close()
    fingerprint = governance.fingerprint(federation_id, chosen)
    durable.write_file(home / _MARK, _describe(federation_id, address, governance_folder.absolute(), fingerprint))
    return InitResult(federation_id, fingerprint, address)


@dataclass(frozen=True, slots=True)
class OwnCertificates:
    """The coordinator's and the operator's TLS keys and certificates. Secret: the keys."""

    server_key: ec.EllipticCurvePrivateKey = field(repr=False)
    server: x509.Certificate
    operator_key: ec.EllipticCurvePrivateKey = field(repr=False)
    operator: x509.Certificate

    def files(self) -> Mapping[str, bytes]:
        """Name in a home -> content."""
        return {
            "coordinator/server.key": certificates.key_pem(self.server_key),
            "coordinator/server.pem": certificates.certificate_pem(self.server),
            "operator/client.key": certificates.key_pem(self.operator_key),
            "operator/client.pem": certificates.certificate_pem(self.operator),
        }

    def stored(self, federation_id: FederationId) -> StoredCertificate:
        """The operator's, as the store keeps it."""
        return stored_certificate(self.operator, Subject(federation_id, Role.OPERATOR, invites.OPERATOR))


def own_certificates(
    authority: certificates.Authority, federation_id: FederationId, address: str, now: float, entropy: Entropy
) -> OwnCertificates:
    """New keys and certificates for the coordinator at `address` (HOST:PORT) and for its operator."""
    server = Subject(federation_id, Role.COORDINATOR, COORDINATOR)
    operator = Subject(federation_id, Role.OPERATOR, invites.OPERATOR)
    server_key, operator_key = certificates.new_key(entropy), certificates.new_key(entropy)
    hosts = server_hosts(address)
    return OwnCertificates(
        server_key,
        certificates.issue(authority, server_key.public_key(), server, now, entropy, hosts=hosts),
        operator_key,
        certificates.issue(authority, operator_key.public_key(), operator, now, entropy),
    )


def save_federation(federation: Federation) -> None:
    """Its address and the place of its governance folder, durably."""
    described = _describe(
        federation.federation_id, federation.address, federation.governance_folder.absolute(), federation.fingerprint
    )
    durable.write_file(federation.home / _MARK, described)


def load_federation(home: pathlib.Path) -> Federation:
    """The federation of an initialised folder; ConfigError `not_initialised`, StorageError `own_file_damaged`."""
    path = home / _MARK
    if not path.exists():
        raise ConfigError(
            "not_initialised", f"{home} holds no federation", next_step="run `fedveil init NAME --address HOST` first"
        )
    names = {"address", "federation_id", "fingerprint", "governance_folder", "version"}
    try:
        fields = Fields(canonical(_read(path), _MARK), _MARK, names)
        address = fields.text("address", 512)
        invites.split_address(address)
        return Federation(
            home,
            FederationId(fields.name("federation_id")),
            address,
            pathlib.Path(fields.text("governance_folder", 4096)),
            _read(home / "trust.json"),
            fields.hex("fingerprint", 32),
        )
    except (PeerError, ConfigError) as error:  # nobody else wrote it
        raise StorageError(
            "own_file_damaged",
            f"{path} is damaged: {error.what}",
            next_step="restore this file from a backup; the rest of the folder stays as it is",
        ) from error


def full_address(address: str) -> str:
    """HOST:PORT of HOST or HOST:PORT; ConfigError `bad_address`."""
    bare_v6 = address.startswith("[") and address.endswith("]")
    full = f"{address}:{DEFAULT_PORT}" if ":" not in address or bare_v6 else address
    invites.split_address(full)
    return full


def server_hosts(address: str) -> tuple[str, ...]:
    """The names and addresses in the certificate of the coordinator at HOST:PORT."""
    host, _ = invites.split_address(address)
    return tuple(dict.fromkeys((host, "localhost", "127.0.0.1", *(("::1",) if _is_v6(host) else ()))))


def dial_address(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if _is_v6(host) else f"{host}:{port}"


def _describe(federation_id: FederationId, address: str, governance_folder: pathlib.Path, fingerprint: bytes) -> bytes:
    return jcs.dumps(
        {
            "address": address,
            "federation_id": federation_id,
            "fingerprint": fingerprint.hex(),
            "governance_folder": str(governance_folder),
            "version": 1,
        }
    )


def _check_unused(home: pathlib.Path, governance_folder: pathlib.Path) -> None:
    if (home / _MARK).exists():
        raise ConfigError(
            "already_initialised",
            f"{home} already holds a federation",
            not_done="its keys and members are as they were",
            next_step="choose another --home; a federation is founded once",
        )
    names = ("authority", "coordinator", "operator", DATABASE, "trust.json")
    left = [path for path in (*(home / name for name in names), governance_folder / KEY_FILE) if path.exists()]
    if left:
        raise ConfigError(
            "init_incomplete",
            f"{left[0]} exists: an earlier init did not finish, or the folder belongs to something else",
            next_step="remove what it left, or choose another folder",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_v6(host: str) -> bool:
    return ":" in host  # `split_address` lets a colon pass in an IPv6 address only


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError("file_missing", f"{path} cannot be read: {error.strerror}") from error
