"""What a published trust document changes in the operator's home besides the chain: authorities, and the coordinator.

Promise: what needs the coordinator to stand still (its own keys and certificates change) holds the folder's lock, so a
running `serve` is named and nothing is done; every step may be repeated by publishing again.
"""

from collections.abc import Sequence

from cryptography import x509
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError
from fedveil_common.pki import bundle, certificates, proposals
from fedveil_common.pki.governance import Trust
from fedveil_common.pki.invites import Role
from fedveil_common.pki.proposals import Examined
from fedveil_common.secret import Passphrase
from fedveil_coordinator import authorities, founding, handover, rotation, succession
from fedveil_coordinator.store import CoordinatorStore, open_store

from fedveil_cli import publishing
from fedveil_cli.identity_commands import AdminClient, Report
from fedveil_cli.world import World


def needs_authority(federation: founding.Federation, examined: Examined) -> bool:
    """Whether publishing signs certificates, so that the authority's passphrase is needed."""
    gone = _retired(federation, examined)
    own = (rotation.server_files(federation.home), rotation.operator_files(federation.home))
    return any(
        bundle.issued_by(certificates.load_certificate(files.certificate()), one) for files in own for one in gone
    )


def publish(
    federation: founding.Federation, examined: Examined, passphrase: Passphrase | None, admin: AdminClient, world: World
) -> Report:
    """Put a complete proposal into force, with all that it changes in this home. `passphrase`: the authority's.

    Raises what `publishing.publish` raises; ConfigError `data_folder_in_use` if `serve` runs and must not,
    `authority_in_use`, `authority_missing`, `handover_missing`.
    """
    link = examined.link
    if link is None or _keeps_home(examined):
        return publishing.publish(federation, examined, admin, lambda one: ())
    if link.coordinator != examined.before.coordinator:
        return _hand_over(federation, examined, admin, world)
    if set(examined.before.authorities) - set(link.authorities):
        return _retire(federation, examined, passphrase, admin, world)

    def add(one: Examined) -> Sequence[str]:
        authorities.install_bundle(federation, link.authorities, one.proposal.authorities)
        return (
            "a running `fedveil serve` signs with the new authority from now on, if it was started with the same "
            "passphrase; else start it again with the new one",
        )

    return publishing.publish(federation, examined, admin, add)


def _keeps_home(examined: Examined) -> bool:
    before, after = examined.before, examined.after
    return (before.coordinator, before.authorities) == (after.coordinator, after.authorities)


def _hand_over(federation: founding.Federation, examined: Examined, admin: AdminClient, world: World) -> Report:
    following, signed = examined.following, proposals.next_roster(examined)
    if following is None or signed is None:
        raise TypeError("a proposal that names another coordinator holds a roster: `examine` saw to it")
    if set(examined.before.authorities) != set(examined.after.authorities):
        raise ConfigError(
            "one_change_at_a_time",
            "the proposal replaces the coordinator and its certificate authorities",
            next_step="hand the coordinator over first, then `fedveil ca rotate`",
        )
    with FolderLock(federation.home), FolderLock(federation.home / "operator"):
        store = open_store(federation.home, world.clock)
        try:
            moved = handover.install(federation, store, following, signed, world.clock.wall_s())
        finally:
            store.close()
        report = publishing.publish(moved, examined, admin, lambda one: ())
        handover.clear(moved)
    return report | {"notes": ["`fedveil serve` here is the coordinator now; participants refuse the old one"]}


def _retire(
    federation: founding.Federation, examined: Examined, passphrase: Passphrase | None, admin: AdminClient, world: World
) -> Report:
    gone = _retired(federation, examined)
    with FolderLock(federation.home):
        store = open_store(federation.home, world.clock)
        try:
            check_unused(store, gone, world.clock.wall_s())
            fresh = needs_authority(federation, examined)
            authorities.install_bundle(federation, examined.after.authorities, examined.proposal.authorities)
            if fresh:
                _reissue(federation, examined.after, store, passphrase, world)
        finally:
            store.close()
        report = publishing.publish(federation, examined, admin, lambda one: ())
        authorities.forget_keys(federation, [authorities.digest_of(one) for one in gone])
    return report | {"notes": ["`fedveil serve` goes by the authorities that are left"]}


def check_unused(store: CoordinatorStore, gone: Sequence[x509.Certificate], now: float) -> None:
    """Returns if no organisation calls with a certificate of `gone`. ConfigError `authority_in_use`."""
    stored, places = store.members.certificates(), succession.places(store.renewals.renewals())
    live = [one for authority in gone for one in authorities.live_under(authority, stored, places, now)]
    names = sorted({one.org_id for one in live if one.role != Role.OPERATOR})
    if names:
        raise ConfigError(
            "authority_in_use",
            f"certificates of the authority are in use by {', '.join(names)}",
            not_done="the authority stays in force",
            next_step="wait until they have renewed; `fedveil invite ORG --rekey` for one that does not",
        )


def _reissue(
    federation: founding.Federation, after: Trust, store: CoordinatorStore, passphrase: Passphrase | None, world: World
) -> None:
    """New pairs for server and operator, as `renew --offline` makes them, by the authority that issues from now on."""
    first = bundle.named_in(federation.authority_pem, after.authorities)[0]
    authority = federation.authority_of(first, passphrase)
    with FolderLock(federation.home / "operator"):
        rotation.reissue(federation, store.renewals, authority, world.clock, world.entropy, world.failpoints)


def _retired(federation: founding.Federation, examined: Examined) -> tuple[x509.Certificate, ...]:
    """The certificates of the authorities that the proposal takes out of force."""
    left = set(examined.before.authorities) - set(examined.after.authorities)
    found = bundle.load_bundle(federation.authority_pem)
    return tuple(one for one in found if authorities.digest_of(one) in left)


def prepare_handover(
    federation: founding.Federation, passphrase: Passphrase | None, address: str | None, world: World
) -> tuple[founding.Federation, bytes]:
    """(the federation of this home, settled here; the new coordinator's public key). Errors of `handover.prepare`."""
    with FolderLock(federation.home):
        store = open_store(federation.home, world.clock)
        try:
            settled = handover.settle(federation, store)
        finally:
            store.close()
        return settled, handover.prepare(settled, passphrase, address, world.clock, world.entropy)


def next_authority(
    federation: founding.Federation, passphrase: Passphrase, world: World
) -> tuple[tuple[bytes, ...], bytes]:
    """(digests, the new one first; their certificates in PEM) with a new authority beside those in force."""
    made = authorities.make_authority(federation, passphrase, world.clock, world.entropy)
    all_of = (made, *federation.authorities)
    return tuple(authorities.digest_of(one) for one in all_of), bundle.bundle_pem(all_of)
