"""Renewal of certificates as the commands do it: `participate` by itself, `fedveil renew` on order, on either side."""

import contextlib
import pathlib

import grpc
from fedveil_common import durable
from fedveil_common.crypto import signing
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError, FedveilError
from fedveil_common.pki import bundle, certificates, governance, transport
from fedveil_common.pki.invites import OPERATOR, Role
from fedveil_common.pki.names import Subject
from fedveil_common.pki.renewing import RenewalAnswer
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding, rotation
from fedveil_coordinator.store import open_store as open_coordinator_store
from fedveil_participant import membership, renewal
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.membership import Membership
from fedveil_participant.pinned_trust import PinnedTrust
from fedveil_participant.renewal_client import RemoteOffice
from fedveil_participant.store import ParticipantStore, journal_key, open_store

from fedveil_cli.admin_client import AdminClient
from fedveil_cli.run_commands import connect
from fedveil_cli.world import World

Report = dict[str, object]


def channel(member: Membership, passphrase: Passphrase | None) -> grpc.Channel:
    """A channel with the pair in force."""
    credentials = transport.channel_credentials(
        member.certificate_pem, member.key_pem(passphrase), bundle.bundle_pem(member.authorities)
    )
    return grpc.secure_channel(member.address, credentials, options=transport.CHANNEL_OPTIONS)


# --- while a participant runs -----------------------------------------------------------------------------------------


def usable_membership(
    home: pathlib.Path, store: ParticipantStore, passphrase: Passphrase | None, world: World, tell: renewal.Tell
) -> Membership:
    """The membership of `home` with a pair that opens a connection; renewed first if it has expired meanwhile. Raises
    what is wrong with it, and what `renewal.renew` raises. Hold the `FolderLock` of the home.
    """
    membership.tls_files(home).settle(world.failpoints)
    member = membership.load_membership(home)
    code = renewal.why_offline(member, passphrase, world.clock.wall_s())
    if not code:
        return member
    tell("renewing", {"why": code})
    hands = _hands(member, store, pinned_trust(member, store), _NoLink(), passphrase, world)
    return renewal.renew(home, hands)


def pinned_trust(member: Membership, store: ParticipantStore) -> PinnedTrust:
    """What is pinned in this home."""
    own_key = signing.public_key(store.protocol_key())
    return PinnedTrust(member, own_key, signed_roster=store.newer_roster() or store.roster())


def make_renewer(
    member: Membership,
    store: ParticipantStore,
    pin: PinnedTrust,
    link: CoordinatorLink,
    passphrase: Passphrase | None,
    world: World,
    renewed: renewal.Renewed,
    tell: renewal.Tell,
) -> renewal.Renewer:
    """For the loop of a running participant."""
    return renewal.Renewer(member.home, _hands(member, store, pin, link, passphrase, world), renewed, tell)


class _NoLink:
    """Where no connection stands and none can: only the enrolment port is asked."""

    def renew(self, csr: bytes) -> RenewalAnswer:
        """Never called: whoever has no usable pair renews offline."""
        raise AssertionError("no connection without a usable certificate")


def _hands(
    member: Membership,
    store: ParticipantStore,
    pin: PinnedTrust,
    link: "CoordinatorLink | _NoLink",
    passphrase: Passphrase | None,
    world: World,
) -> renewal.Hands:
    office = RemoteOffice(link, member, store)
    return renewal.Hands(office, pin, store.protocol_key(), passphrase, world.clock, world.entropy, world.failpoints)


# --- on order ---------------------------------------------------------------------------------------------------------


def renew_participant(home: pathlib.Path, passphrase: Passphrase | None, offline: bool, world: World) -> Report:
    """`renew` in an organisation's home. A participant that runs there is asked to do it; else it is done here, and the
    new certificate is taken into use at once if the coordinator answers. `offline`: on the enrolment port.
    """
    member = membership.load_membership(home)
    try:
        with FolderLock(home):
            return _renew_here(member, passphrase, offline, world)
    except ConfigError as error:
        if error.code != "data_folder_in_use" or offline:
            raise
    durable.write_file(home / renewal.REQUEST, b"")
    return {"org": member.org_id, "asked": "the participant that runs here renews within seconds"}


def _renew_here(member: Membership, passphrase: Passphrase | None, offline: bool, world: World) -> Report:
    home = member.home
    with contextlib.closing(open_store(home, journal_key(home, passphrase), world.clock, world.entropy)) as store:
        membership.tls_files(home).settle(world.failpoints)
        member = membership.load_membership(home)
        pin = pinned_trust(member, store)
        away = offline or bool(renewal.why_offline(member, passphrase, world.clock.wall_s()))
        if away:
            renewed = renewal.renew(home, _hands(member, store, pin, _NoLink(), passphrase, world), offline=True)
        else:
            with contextlib.closing(CoordinatorLink(channel(member, passphrase), store)) as link:
                renewed = renewal.renew(home, _hands(member, store, pin, link, passphrase, world))
        with contextlib.closing(CoordinatorLink(channel(renewed, passphrase), store)) as link:
            return _report(renewed.org_id, renewed.certificate_pem) | _taken(link)


def renew_operator(home: pathlib.Path, world: World) -> Report:
    """`renew` in the operator's home, with the certificate in force. `serve` does it by itself at two thirds."""
    federation = founding.load_federation(home)
    files = rotation.operator_files(home)
    with FolderLock(home / "operator"), contextlib.closing(connect(home)) as admin:
        files.settle(world.failpoints)
        waiting = files.waiting_key()
        key = certificates.new_key(world.entropy) if waiting is None else certificates.load_key(waiting)
        if waiting is None:
            files.begin(certificates.key_pem(key))
        answer = admin.renew(certificates.make_request(key))
        trust = governance.verify_chain(federation.trust_chain, federation.fingerprint)
        authorities = bundle.check_bundle(answer.authorities, trust.authorities)
        made = certificates.load_certificate(answer.certificate)
        subject = Subject(federation.federation_id, Role.OPERATOR, OPERATOR)
        certificates.check_leaf(made, bundle.issuer_in(made, authorities), subject, world.clock.wall_s())
        certificates.check_pair(made, certificates.key_pem(key))
        files.commit(answer.certificate, world.failpoints)
        return _report(OPERATOR, answer.certificate) | _taken(admin)


def renew_operator_offline(home: pathlib.Path, passphrase: Passphrase, world: World) -> Report:
    """`renew --offline` in the operator's home: the coordinator is stopped, the authority's key is opened here. New
    pairs for the server and for the operator, whatever became of the old ones; the operator's earlier certificates end,
    and so does a freeze of it. Raises ConfigError `data_folder_in_use`; SealedError.
    """
    federation = founding.load_federation(home)
    with FolderLock(home), FolderLock(home / "operator"):
        authority = federation.authority(passphrase)
        with contextlib.closing(open_coordinator_store(home, world.clock)) as store:
            made = rotation.reissue(federation, store.renewals, authority, world.clock, world.entropy, world.failpoints)
    return _report(OPERATOR, made)


def _report(org: str, pem: bytes) -> Report:
    certificate = certificates.load_certificate(pem)
    return {
        "org": org,
        "serial": certificates.serial_text(certificate),
        "expires": int(certificates.validity(certificate)[1]),
    }


def _taken(client: "CoordinatorLink | AdminClient") -> Report:
    """The first call with the new certificate: from then on the old one is refused."""
    try:
        client.who_am_i()
    except FedveilError as error:
        return {"in_use": False, "why": error.code}
    return {"in_use": True}
