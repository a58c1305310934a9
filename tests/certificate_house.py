"""A coordinator's certificates on real TLS: gRPC and enrolment on 127.0.0.1, with a clock that the test moves.

TLS itself looks at the machine's clock, so the house's clock starts there; a member that joined days ago is made by
moving the clock back for its join.
"""

import asyncio
import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator

import grpc
import grpc.aio
import uvicorn
from berths import free_port
from enrolment_office import CA, Clock, Entropy, Office, join
from fedveil_cli import renewing
from fedveil_cli.certificate_desk import open_desk
from fedveil_cli.workers import CoordinatorWorkers
from fedveil_common.errors import FedveilError
from fedveil_common.gate import UNLABELLED, Label
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.leafspool import Announced, LeafSpool
from fedveil_common.messages import RosterNotice
from fedveil_common.pki import certificates, transport
from fedveil_common.ports import Failpoints, NoFailpoints
from fedveil_common.secret import Passphrase
from fedveil_common.succession import roster_of_its_time
from fedveil_coordinator import enrollment_http
from fedveil_coordinator.driver import Driver
from fedveil_coordinator.issuing import Issuing
from fedveil_coordinator.run import Office as RunOffice
from fedveil_coordinator.server import RoundsEdge
from fedveil_participant import membership, renewal
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.membership import Membership
from fedveil_participant.renewal_client import RemoteOffice
from fedveil_participant.store import ParticipantStore, journal_key, open_store
from fedveil_simulation.key_book import NO_KEYS
from patience import LIMIT_S

DAY = 86_400.0


class House(Office):
    """An office whose gRPC listener is up too, with everything that `fedveil serve` does about certificates."""

    def __init__(self, home: pathlib.Path, clock: Clock, port: int) -> None:
        super().__init__(home, clock, port)
        self.issuing = Issuing(self.federation, CA)
        self.desk = open_desk(self.federation, self.store, self.issuing, self.in_force, self.world)
        self.allowed = self.desk.allowed
        self.application = enrollment_http.application(
            self.in_force,
            self.store.members,
            self.allowed,
            self.issuing.current,
            clock,
            self.entropy,
            self.store.records,
            self.desk.routes,
        )
        self.port = port - 1
        signed = self.store.records.rosters()
        rosters = {version: roster_of_its_time(data, self.in_force.trust) for version, data in signed.items()}
        self.driver = Driver(
            RunOffice(self.federation.protocol_key()),
            rosters,
            RosterNotice(signed[max(signed)], self.federation.trust_chain),
            "test",
            self.store.journal,
            CoordinatorWorkers(),
            clock,
            self.entropy,
            NoFailpoints(),
            NO_KEYS,
        )
        self.allowed.listen(lambda org, code: self.driver.call(lambda: self.driver.end_session(org, code)))

    def member(self, folder: pathlib.Path, name: str, days_ago: float, *, listed: bool = False) -> "Member":
        """A member that joined `days_ago`. `listed`: the roster has it."""
        token, now = self.invite(name), self.clock.now
        self.clock.now = now - days_ago * DAY
        try:
            join(self, folder / name, token, seed=seed_of(name))
        finally:
            self.clock.now = now
        if listed:
            self.next_roster()
        return Member(self, folder / name)


class Member:
    """A joined organisation's home."""

    def __init__(self, house: House, home: pathlib.Path) -> None:
        self.house, self.home = house, home
        self.entropy = Entropy(seed_of(home.name) + 1)

    @property
    def membership(self) -> Membership:
        return membership.load_membership(self.home)

    @property
    def serial(self) -> str:
        return certificates.serial_text(certificates.load_certificate(self.membership.certificate_pem))

    @contextlib.contextmanager
    def store(self, passphrase: Passphrase | None = None) -> Iterator[ParticipantStore]:
        with contextlib.closing(
            open_store(self.home, journal_key(self.home, passphrase), self.house.clock, self.entropy)
        ) as store:
            yield store

    @contextlib.contextmanager
    def link(self, passphrase: Passphrase | None = None, member: Membership | None = None) -> Iterator[CoordinatorLink]:
        """A connection with the pair that lies in the home now (or that of `member`)."""
        channel = renewing.channel(member or self.membership, passphrase)
        with contextlib.closing(CoordinatorLink(channel, Outbox())) as link:
            yield link

    def who(self) -> str:
        """The code with which the shortest call ends; empty if it is answered."""
        with self.link() as link:
            return code_of_call(link)

    def renew(
        self,
        *,
        failpoints: Failpoints | None = None,
        passphrase: Passphrase | None = None,
        offline: bool = False,
        office: renewal.Office | None = None,
    ) -> Membership:
        """One renewal, as `participate` makes it."""
        with self.store(passphrase) as store, contextlib.ExitStack() as stack:
            membership.tls_files(self.home).settle()
            if office is None and not offline and not self.why():
                office = RemoteOffice(stack.enter_context(self.link(passphrase)), self.membership, store)
            hands = renewal.Hands(
                office or RemoteOffice(renewing._NoLink(), self.membership, store),
                renewing.pinned_trust(self.membership, store),
                store.protocol_key(),
                passphrase,
                self.house.clock,
                self.entropy,
                failpoints or NoFailpoints(),
            )
            return renewal.renew(self.home, hands, offline=offline)

    def why(self) -> str:
        try:
            self.membership.check_certificate(self.house.clock.now)
        except FedveilError as error:
            return error.code
        return ""


def seed_of(name: str) -> int:
    """Another one for each name."""
    return 2 * int.from_bytes(name.encode())


class Outbox:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
        self.kinds.append(kind)
        return len(self.kinds)

    def amend(self, number: int, size_bytes: int) -> None:
        assert 0 < number <= len(self.kinds)


def code_of_call(link: CoordinatorLink) -> str:
    try:
        link.who_am_i()
    except FedveilError as error:
        return error.code
    return ""


@contextlib.contextmanager
def open_house(folder: pathlib.Path) -> Iterator[House]:
    """A house that answers on both ports."""
    house = House(folder / "operator", Clock(time.time()), free_port() + 1)
    federation, desk = house.federation, house.desk
    ready, loops, stops = threading.Event(), list[asyncio.AbstractEventLoop](), list[asyncio.Event]()

    async def main() -> None:
        server = grpc.aio.server(options=transport.SERVER_OPTIONS)
        store = house.store

        def spool(key: AttemptKey, org: OrgId, quorum: tuple[int, ...], announced: Announced) -> LeafSpool:
            return store.journal.spool(key, org, announced)

        edge = RoundsEdge(house.driver, desk.identify, spool, lambda run, number: None, desk.recheck, desk.live)
        server.add_generic_rpc_handlers((edge.handlers(), desk.edge().handlers()))
        assert server.add_secure_port(f"127.0.0.1:{house.port}", desk.rotation.server_credentials()) == house.port
        config = uvicorn.Config(
            house.application,
            host="127.0.0.1",
            port=house.port + 1,
            log_config=None,
            access_log=False,
            ssl_keyfile=str(federation.server_key_file),
            ssl_certfile=str(federation.server_certificate_file),
        )
        config.load()
        assert config.ssl is not None
        desk.rotation.follow(config.ssl)
        web = _Web(config)
        await server.start()
        serving = asyncio.ensure_future(web.serve())
        while not web.started:
            await asyncio.sleep(0.005)
        loops.append(asyncio.get_running_loop())
        stops.append(asyncio.Event())
        ready.set()
        await stops[0].wait()
        web.should_exit = True
        await server.stop(0.2)
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    driving = threading.Thread(target=house.driver.serve, daemon=True)
    thread.start()
    driving.start()
    try:
        assert ready.wait(LIMIT_S)
        yield house
        loops[0].call_soon_threadsafe(stops[0].set)
        thread.join(LIMIT_S)
    finally:
        house.driver.stop()
        driving.join(LIMIT_S)
        house.store.close()


class _Web(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
