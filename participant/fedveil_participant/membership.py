"""A participant's folder, as far as identity goes: what `join` wrote and every later start reads.

participant.json   federation, name, address, fingerprint; written last, so it marks a whole join
tls.key            0600; the key of certificate.pem; made here, never sent; sealed if the journal key has a passphrase
tls.key.next certificate.pem.next   a renewal under way (see `fedveil_common.pki.key_files`)
certificate.pem ca.pem trust.json roster.json
roster.json.next   came with a chain that is being pinned: it counts once trust.json is that chain
journal.key journal.db   the store; the protocol key lives sealed in it: no journal, no key (FLSA/1 A3)
"""

import pathlib
from dataclasses import dataclass, replace

from cryptography import x509
from fedveil_common import durable, jcs
from fedveil_common.errors import ConfigError, PeerError, StorageError
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.pki import bundle, certificates, sealed_keys
from fedveil_common.pki.documents import Fields, canonical
from fedveil_common.pki.governance import Trust, verify_chain
from fedveil_common.pki.invites import Role
from fedveil_common.pki.joining import read_role
from fedveil_common.pki.key_files import KeyFiles
from fedveil_common.pki.names import Subject
from fedveil_common.ports import Entropy
from fedveil_common.secret import Passphrase
from fedveil_common.succession import roster_of_its_time

_MARK = "participant.json"
_NEXT_ROSTER = "roster.json.next"
PURPOSE = "tls"
"""What the TLS key is sealed for."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Who I am in which federation, and what I pinned. Holds no secret: the TLS key is read when it is used."""

    home: pathlib.Path
    federation_id: FederationId
    org_id: OrgId
    role: Role
    address: str
    fingerprint: bytes
    certificate_pem: bytes
    authority_pem: bytes
    trust_chain: bytes
    signed_roster: bytes

    @property
    def trust(self) -> Trust:
        """The verified chain that is pinned."""
        return verify_chain(self.trust_chain, self.fingerprint)

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """The authorities in ca.pem that the pinned chain names: one that was retired counts no longer.

        PeerError `authority_mismatch` if none is left, `bad_bundle`.
        """
        return bundle.named_in(self.authority_pem, self.trust.authorities)

    def key_pem(self, passphrase: Passphrase | None = None) -> bytes:
        """The TLS private key. Secret. ConfigError `key_missing`, `key_exposed`, `bad_key_file`; SealedError
        `passphrase_missing`, `passphrase_wrong` if it is sealed. A key in clear needs no passphrase.
        """
        return open_tls_key(tls_files(self.home).key(), passphrase)

    def seal_key(self, passphrase: Passphrase, entropy: Entropy) -> bool:
        """Puts the TLS key under `passphrase` if it is in clear; whether it was. Hold the `FolderLock` of the home."""
        files = tls_files(self.home)
        waiting = files.waiting_key()
        if waiting is not None and is_clear(waiting):
            files.reseal_waiting(sealed_keys.seal_key(waiting, passphrase, PURPOSE, entropy))
        data = files.key()
        if not is_clear(data):
            return False
        files.reseal(sealed_keys.seal_key(data, passphrase, PURPOSE, entropy))
        return True

    def check_certificate(self, now: float) -> None:
        """Returns if my certificate is of this federation's authority, for my name and role, and valid at `now`.

        Called before dialling, because a failed handshake says nothing. PolicyRefusal `certificate_expired`,
        `certificate_not_yet_valid`, `wrong_authority`, `wrong_role`; PeerError `wrong_name`.
        """
        certificate = certificates.load_certificate(self.certificate_pem)
        issuer = bundle.issuer_in(certificate, self.authorities)
        certificates.check_leaf(certificate, issuer, self.subject, now)

    @property
    def subject(self) -> Subject:
        """Whom my certificate must name."""
        return Subject(self.federation_id, self.role, self.org_id)


def tls_files(home: pathlib.Path) -> KeyFiles:
    """The TLS key and certificate of the home."""
    return KeyFiles(home, "tls.key", "certificate.pem")


def open_tls_key(data: bytes, passphrase: Passphrase | None) -> bytes:
    """The key (PEM) in a file that is sealed or in clear. Secret. SealedError `passphrase_missing`,
    `passphrase_wrong`; ConfigError `bad_key_file`.
    """
    return data if is_clear(data) else sealed_keys.open_key(data, passphrase, PURPOSE)


def save_membership(member: Membership, key_pem: bytes, passphrase: Passphrase | None, entropy: Entropy) -> None:
    """Write a whole membership into its folder, the key sealed if there is a passphrase; the mark comes last."""
    durable.make_folder(member.home)
    key = key_pem if passphrase is None else sealed_keys.seal_key(key_pem, passphrase, PURPOSE, entropy)
    tls_files(member.home).replace(key, member.certificate_pem)
    for name, data in {
        "ca.pem": member.authority_pem,
        "trust.json": member.trust_chain,
        "roster.json": member.signed_roster,
        _MARK: _describe(member),
    }.items():
        durable.write_file(member.home / name, data)


def save_trust(home: pathlib.Path, chain: bytes, signed_roster: bytes = b"") -> None:
    """Pin a longer trust chain, durably; before a roster is accepted under it.

    The roster that came with it is written first: after a crash no chain is pinned without a roster in force under it,
    and none takes the place of the one before that the chain before it does not speak for.
    """
    if signed_roster:
        durable.write_file(home / _NEXT_ROSTER, signed_roster)
    durable.write_file(home / "trust.json", chain)
    if signed_roster:
        durable.write_file(home / "roster.json", signed_roster)
        durable.remove(home / _NEXT_ROSTER)


def save_authorities(home: pathlib.Path, pem: bytes) -> None:
    """The certificate authorities that the pinned chain names, for the next connection."""
    durable.write_file(home / "ca.pem", pem)


def save_address(member: Membership, address: str) -> None:
    """Where the coordinator is reached from now on."""
    durable.write_file(member.home / _MARK, _describe(replace(member, address=address)))


def has_membership(home: pathlib.Path) -> bool:
    """Whether a join was completed in this folder."""
    return (home / _MARK).exists()


def load_membership(home: pathlib.Path) -> Membership:
    """The membership in `home`; ConfigError `not_joined`, StorageError, of which `own_file_damaged`."""
    if not has_membership(home):
        raise ConfigError("not_joined", f"{home} belongs to no federation", next_step="run `fedveil join` first")
    names = {"address", "federation_id", "fingerprint", "org_id", "role", "version"}
    try:
        fields = Fields(canonical(_read(home, _MARK), _MARK), _MARK, names)
        member = Membership(
            home,
            FederationId(fields.name("federation_id")),
            OrgId(fields.name("org_id")),
            read_role(fields.text("role", 64), _MARK),
            fields.text("address", 512),
            fields.hex("fingerprint", 32),
            tls_files(home).certificate(),
            _read(home, "ca.pem"),
            _read(home, "trust.json"),
            _read(home, "roster.json"),
        )
    except PeerError as error:  # nobody else wrote it
        raise StorageError(
            "own_file_damaged",
            f"{home / _MARK} is damaged: {error.what}",
            next_step="ask the operator for `fedveil invite ORG --rekey`, then `fedveil join` with another --home",
        ) from error
    return _with_next_roster(member) if (home / _NEXT_ROSTER).exists() else member


def _with_next_roster(member: Membership) -> Membership:
    """The membership after a crash in `save_trust`: with the roster that came with its chain, if that is the chain."""
    waiting = _read(member.home, _NEXT_ROSTER)
    try:
        newest = roster_of_its_time(waiting, member.trust).version
    except PeerError:
        return member  # its chain was not pinned
    before = roster_of_its_time(member.signed_roster, member.trust).version
    return replace(member, signed_roster=waiting) if newest > before else member


def _describe(member: Membership) -> bytes:
    return jcs.dumps(
        {
            "address": member.address,
            "federation_id": member.federation_id,
            "fingerprint": member.fingerprint.hex(),
            "org_id": member.org_id,
            "role": member.role.value,
            "version": 1,
        }
    )


def is_clear(data: bytes) -> bool:
    """Whether a key file's bytes are a key in PEM, not a sealed one."""
    return data.startswith(b"-----BEGIN ")


def _read(home: pathlib.Path, name: str) -> bytes:
    with durable.storing(home / name):
        return (home / name).read_bytes()
