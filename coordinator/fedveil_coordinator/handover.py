"""A new operator: the coordinator's keys are made anew in the new home, and governance names them.

    handover/protocol.key server.key server.pem client.key client.pem address   until the proposal is published

Promise: no private key travels between operators; what the old one keeps opens nothing after the handover: its protocol
key stands in no roster in force, its operator's certificate is revoked. Each step of `install` may be repeated after a
crash. Source: FLSA/1 2.1 (docs/protocol.md).
"""

import pathlib
from dataclasses import replace

from fedveil_common import durable
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError
from fedveil_common.pki import certificates, invites, sealed_keys
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_common.ports import Clock, Entropy
from fedveil_common.roster import Roster
from fedveil_common.secret import Passphrase, PrivateKey

from fedveil_coordinator import rotation
from fedveil_coordinator.enrollment import stored_certificate
from fedveil_coordinator.founding import Federation, full_address, own_certificates, save_federation
from fedveil_coordinator.store import CoordinatorStore

FOLDER = "handover"
_PROTOCOL, _ADDRESS = "protocol.key", "address"


def settle(federation: Federation, store: CoordinatorStore) -> Federation:
    """The federation with a governance folder that is here: a home that was copied names one of another machine.

    The roster in it is the newest of the store. Hold the `FolderLock` of the home.
    """
    if (federation.governance_folder / "roster.json").exists():
        return federation
    newest = store.records.latest_roster()
    if newest is None:
        raise ConfigError("no_roster", "the store of this home holds no roster", next_step="restore a whole backup")
    here = replace(federation, governance_folder=federation.home / "governance")
    durable.make_folder(here.governance_folder)
    here.save_last_roster(newest[1])
    save_federation(here)
    return here


def prepare(
    federation: Federation, passphrase: Passphrase | None, address: str | None, clock: Clock, entropy: Entropy
) -> bytes:
    """New keys for the coordinator and its operator, durable in handover/; the public protocol key (32 bytes).

    `passphrase`: of the certificate authority. `address`: HOST[:PORT] if it changes. Keys of a preparation that is not
    published yet are replaced: a proposal made with them is void. SealedError; ConfigError `bad_address`.
    """
    full = federation.address if address is None else full_address(address)
    authority = federation.authority(passphrase)
    own = own_certificates(authority, federation.federation_id, full, clock.wall_s(), entropy)
    protocol = PrivateKey(entropy.take(32))
    folder = federation.home / FOLDER
    durable.make_folder(folder)
    for name, data in own.files().items():
        durable.write_file(folder / pathlib.PurePath(name).name, data)
    durable.write_file(folder / _ADDRESS, full.encode("ascii"))
    durable.write_file(folder / _PROTOCOL, protocol.expose().hex().encode("ascii"))
    return signing.public_key(protocol)


def install(
    federation: Federation, store: CoordinatorStore, following: Roster, signed: bytes, now: float
) -> Federation:
    """This home becomes the coordinator that `following` lists; runs that had not ended are ended, and a freeze of the
    operator before is lifted with its certificates: they are revoked.

    Hold the `FolderLock` of the home and of `operator`. ConfigError `handover_missing` if this home lacks the keys.
    """
    folder = federation.home / FOLDER
    if signing.public_key(federation.protocol_key()) == following.coordinator_key and not folder.exists():
        return federation  # done before
    source = folder / _PROTOCOL
    if not source.exists() or signing.public_key(_key(source)) != following.coordinator_key:
        raise ConfigError(
            "handover_missing",
            f"this home does not hold the coordinator key that roster version {following.version} lists",
            not_done="nothing was published",
            next_step="publish in the home in which `fedveil governance propose coordinator` was run",
        )
    for run_id, _ in store.journal.unfinished():
        store.journal.set_status(run_id, "ended", "aborted_by_operator", who=invites.OPERATOR)
    operator = (folder / "client.pem").read_bytes()
    subject = Subject(federation.federation_id, Role.OPERATOR, invites.OPERATOR)
    stored = stored_certificate(certificates.load_certificate(operator), subject)
    store.renewals.replace_identity(stored, now, invites.OPERATOR)  # in the store before the files are there
    newest = store.records.latest_roster()
    if newest is None or newest[0] < following.version:
        store.records.save_roster(following.version, signed, who=invites.OPERATOR)
    server = (folder / "server.pem").read_bytes()
    rotation.server_files(federation.home).replace(sealed_keys.read_private(folder / "server.key"), server)
    rotation.operator_files(federation.home).replace(sealed_keys.read_private(folder / "client.key"), operator)
    durable.write_file(federation.home / "coordinator" / _PROTOCOL, sealed_keys.read_private(source))  # last: the mark
    moved = replace(federation, address=(folder / _ADDRESS).read_text("ascii"))
    save_federation(moved)
    return moved


def clear(federation: Federation) -> None:
    """The preparation is forgotten; after `install` and once the chain is saved."""
    folder = federation.home / FOLDER
    if folder.exists():
        for path in sorted(folder.iterdir()):
            durable.remove(path)
        folder.rmdir()


def _key(path: pathlib.Path) -> PrivateKey:
    return PrivateKey(bytes.fromhex(sealed_keys.read_private(path).decode("ascii")))
