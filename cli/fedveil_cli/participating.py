"""`fedveil participate`: the composition of a running participant. Outbound connections only."""

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import structlog
from fedveil_common import plan as plans
from fedveil_common.crypto import signing
from fedveil_common.database import FolderLock
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId
from fedveil_common.messages import RosterNotice
from fedveil_common.pki import transport
from fedveil_common.pki.bundle import bundle_pem
from fedveil_common.pki.certificates import certificate_der
from fedveil_common.pki.governance import Trust, authority_digest
from fedveil_common.ports import Entropy
from fedveil_common.roster import Roster
from fedveil_common.secret import Passphrase, Seed
from fedveil_common.succession import roster_of_its_time
from fedveil_participant import membership
from fedveil_participant.bench import CsvBench
from fedveil_participant.checks import AcceptedPlan
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.driver import Consent, Driver
from fedveil_participant.enrolment_client import fetch_authorities
from fedveil_participant.membership import Membership
from fedveil_participant.pinned_trust import PinnedTrust
from fedveil_participant.ports import Bench
from fedveil_participant.round import State
from fedveil_participant.stages import Idle
from fedveil_participant.store import ParticipantStore, journal_key, open_store, seal_journal_key

from fedveil_cli import governing
from fedveil_cli.workers import ParticipantWorkers, stop_process
from fedveil_cli.world import World

log = structlog.get_logger("fedveil.participate")

Tell = Callable[[str, Mapping[str, str]], None]
MakeBench = Callable[[Mapping[str, Path], ParticipantStore], Bench]


def csv_bench(datasets: Mapping[str, Path], store: ParticipantStore) -> Bench:
    """The bench of the product: CSV tables registered by name."""
    return CsvBench(datasets, store.data_version_key(), Path.read_bytes)


def participate(
    home: Path,
    data: Mapping[str, Path],
    accept: frozenset[bytes],
    passphrase: Passphrase | None,
    until_ended: bool,
    world: World,
    software: str,
    tell: Tell,
    make_bench: MakeBench = csv_bench,
) -> dict[str, str]:
    """Take part until SIGTERM, SIGINT or (with `until_ended`) the end of the first accepted run; ends by run id."""
    member = membership.load_membership(home)
    with FolderLock(home):
        key = _journal_key(member, passphrase, world.entropy, tell)
        credentials = transport.channel_credentials(
            member.certificate_pem, member.key_pem(passphrase), bundle_pem(member.authorities)
        )
        store = open_store(home, key, world.clock, world.entropy)
        try:
            return _participate(
                member, credentials, store, data, accept, until_ended, world, software, tell, make_bench
            )
        finally:
            store.close()


def _journal_key(member: Membership, passphrase: Passphrase | None, entropy: Entropy, tell: Tell) -> Seed:
    """The journal key. A passphrase also seals what this home has in clear: it is never given in vain."""
    if passphrase is None:
        return journal_key(member.home, None)
    sealed = ["journal.key"] if seal_journal_key(member.home, passphrase, entropy) else []
    key = journal_key(member.home, passphrase)  # before anything else is put under a passphrase that may be wrong
    if member.seal_key(passphrase, entropy):
        sealed.append("tls.key")
    if sealed:
        tell("sealed", {"files": ",".join(sealed), "note": "copies made of them before are not"})
    return key


def _participate(
    member: Membership,
    credentials: grpc.ChannelCredentials,
    store: ParticipantStore,
    data: Mapping[str, Path],
    accept: frozenset[bytes],
    until_ended: bool,
    world: World,
    software: str,
    tell: Tell,
    make_bench: MakeBench,
) -> dict[str, str]:
    member.check_certificate(world.clock.wall_s())
    for name, path in data.items():
        store.save_dataset(name, path.absolute())
    for digest in accept:
        store.accept_plan(digest)
    signing_key = store.protocol_key()
    own_key = signing.public_key(signing_key)
    pin = PinnedTrust(member, own_key)
    stage, waiting = store.load(), store.newer_roster()
    roster = roster_of_its_time(store.roster() or member.signed_roster, pin.trust)
    beside = roster_of_its_time(member.signed_roster, pin.trust)
    if beside.version > max(roster.version, _version(waiting, pin.trust)):
        waiting = member.signed_roster  # pinned with its chain, by `follow` or before a crash
    newer = roster_of_its_time(waiting, pin.trust) if waiting else None
    if newer is not None and isinstance(stage, Idle):
        roster, newer = newer, None
        store.save_roster(waiting)

    told: set[int] = set()
    held = {authority_digest(certificate_der(one)) for one in member.authorities}

    def take_authorities(trust: Trust) -> None:
        """New authorities are named: fetch them for the connections to come. Not on the driver's thread."""
        try:
            taken = fetch_authorities(member.address, trust)
            membership.save_authorities(member.home, bundle_pem(taken))
        except FedveilError as error:
            tell("authorities_missing", {"code": error.code, "next": "`fedveil governance follow` fetches them"})
            return
        held.clear()
        held.update(authority_digest(certificate_der(one)) for one in taken)
        tell("authorities", {"count": str(len(taken)), "note": "used from the next connection on"})

    def verify(notice: RosterNotice, before: Roster) -> Roster:
        trusted = pin.trust
        found = pin.accept(notice, before)
        if pin.trust.sequence > trusted.sequence:
            tell("trust", governing.trust_facts(trusted, pin.trust))
        if set(pin.trust.authorities) != held:
            threading.Thread(target=take_authorities, args=(pin.trust,), daemon=True).start()
        listed = any(_lists(one, member.org_id, own_key) for one in (before, found))
        if not listed and found.version not in told:
            told.add(found.version)
            tell("not_yet_listed", {"roster": str(found.version), "next": "the operator's next `fedveil run start`"})
        return found

    standing = store.standing()
    accepted = {
        stored.run_id: AcceptedPlan(plans.parse_canonical(stored.canonical), stored.plan_hash, stored.version)
        for stored in store.plans()
    }
    state = State(
        OrgId(member.org_id),
        signing_key,
        roster,
        newer,
        plans=accepted,
        high_water=standing.high_water,
        spent=standing.spent,
        opened=standing.opened,
        stage=stage,
    )
    channel = grpc.secure_channel(member.address, credentials, options=transport.CHANNEL_OPTIONS)
    link = CoordinatorLink(channel, store)
    driver = Driver(
        state,
        Consent(store.accepted()),
        verify,
        member.trust_chain,
        software,
        store,
        make_bench(store.datasets(), store),
        link,
        ParticipantWorkers(),
        world.clock,
        world.entropy,
        world.failpoints,
    )

    def listen(kind: str, facts: Mapping[str, str]) -> None:
        tell(kind, facts)
        if kind == "run_ended" and until_ended:
            driver.stop()

    driver.listeners.append(listen)
    failure: list[BaseException] = []

    def drive() -> None:
        try:
            driver.start()
            driver.serve()
        except BaseException as error:  # noqa: BLE001 - the last resort of the driver's thread
            failure.append(error)

    thread = threading.Thread(target=drive, name="fedveil-driver", daemon=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: driver.stop())
    thread.start()
    while thread.is_alive():
        thread.join(0.5)  # in slices, so that a signal is handled
    link.close()
    if failure:
        stop_process(failure[0])
    return {str(run): code for run, code in driver.ended.items()}


def _version(signed: bytes, trust: Trust) -> int:
    return roster_of_its_time(signed, trust).version if signed else 0


def _lists(roster: Roster, org_id: OrgId, key: bytes) -> bool:
    return org_id in roster.participants and roster.key_of(org_id) == key
