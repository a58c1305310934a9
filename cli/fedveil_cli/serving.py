"""`fedveil serve`: the composition of a running coordinator. One process, one event loop, one driver thread.

It opens the key of the certificate authority (to sign joins) and the coordinator's protocol and server keys, and never
the governance key or an invite key: those are used in the operator's own commands.
"""

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc.aio
import structlog
import uvicorn
from fedveil_common import durable
from fedveil_common.crypto import signing
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError, Unreachable
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.leafspool import Announced
from fedveil_common.messages import RosterNotice
from fedveil_common.pki import transport
from fedveil_common.ports import LeafSpool
from fedveil_common.registry import status
from fedveil_common.roster import Roster
from fedveil_common.secret import Passphrase
from fedveil_common.succession import roster_in_force, roster_of_its_time
from fedveil_coordinator import enrollment_http, enrollment_listener, founding, status_http
from fedveil_coordinator.admin import AdminEdge
from fedveil_coordinator.archive import Archive
from fedveil_coordinator.archive_edge import ArchiveEdge
from fedveil_coordinator.driver import Driver
from fedveil_coordinator.issuing import Issuing
from fedveil_coordinator.key_shelf import KeyShelf
from fedveil_coordinator.operations import Operations
from fedveil_coordinator.registry import Registry
from fedveil_coordinator.run import Office
from fedveil_coordinator.server import RoundsEdge
from fedveil_coordinator.store import CoordinatorStore, Storage, open_store, storage_key
from fedveil_coordinator.store.journal import KEEP_BYTES
from fedveil_coordinator.trust import TrustInForce
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedveil_cli import core_dumps, heap
from fedveil_cli.certificate_desk import open_desk
from fedveil_cli.workers import CoordinatorWorkers, stop_process
from fedveil_cli.world import World

log = structlog.get_logger("fedveil.serve")

GRACE_S = 5.0
"""How long calls under way may go on when the coordinator is told to stop."""

BACKLOG = 128
"""Connections that wait at the enrolment listener."""

WrapSpool = Callable[[AttemptKey, OrgId, tuple[int, ...], LeafSpool], LeafSpool]
"""The demo watches what the coordinator receives; production hands spools on as they are."""


def serve(
    home: Path,
    passphrase: Passphrase,
    world: World,
    software: str,
    ready: Callable[[dict[str, str | int]], None],
    wrap_spool: WrapSpool = lambda key, org_id, quorum, spool: spool,
    keep_bytes: int | None = None,
) -> None:
    """Run the coordinator of `home` until SIGTERM or SIGINT; `ready` is called once it listens. `keep_bytes`: of masked
    inputs of opened rounds, for audits; None: KEEP_BYTES.
    """
    heap.share_one()
    core_dumps.refuse()
    federation = founding.load_federation(home)
    with FolderLock(home):
        key = storage_key.key_in_force(home, passphrase)
        storage = None if key is None else Storage(key, world.entropy)
        kept = KEEP_BYTES if keep_bytes is None else keep_bytes
        store = open_store(home, world.clock, keep_bytes=kept, storage=storage)
        try:
            storage_key.check_recorded(key, store.records.storage_on_record())
            asyncio.run(_serve(federation, store, passphrase, world, software, ready, wrap_spool))
        finally:
            store.close()


async def _serve(
    federation: founding.Federation,
    store: CoordinatorStore,
    passphrase: Passphrase,
    world: World,
    software: str,
    ready: Callable[[dict[str, str | int]], None],
    wrap_spool: WrapSpool,
) -> None:
    issuing = Issuing(federation, passphrase)  # first: a wrong passphrase is said before anything listens
    in_force = TrustInForce(federation.trust_chain, federation.fingerprint, lambda: federation.authority_pem)
    signed = store.records.rosters()
    rosters = {version: roster_of_its_time(data, in_force.trust) for version, data in signed.items()}
    check_own_key(federation, roster_in_force(signed[max(signed)], in_force.trust))
    notice = RosterNotice(signed[max(signed)], federation.trust_chain)
    shelf = KeyShelf(store.keys)
    driver = Driver(
        Office(federation.protocol_key()),
        rosters,
        notice,
        software,
        store.journal,
        CoordinatorWorkers(),
        world.clock,
        world.entropy,
        world.failpoints,
        shelf,
    )
    desk = open_desk(federation, store, issuing, in_force, world)
    allowed = desk.allowed
    allowed.listen(lambda org_id, code: driver.call(lambda: driver.end_session(org_id, code)))
    registry = Registry(
        driver.state_of,
        driver.sums,
        store.stages,
        in_force,
        lambda version: roster_of_its_time(store.records.rosters()[version], in_force.trust),
        driver.office.signing_key,
        world.clock,
        world.failpoints,
        lambda document: durable.write_file(federation.home / status.FILE, document),
    )
    driver.registry = registry
    operations = Operations(driver, store, in_force, allowed, world.clock, world.entropy, software, shelf, registry)

    def open_spool(key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...], announced: Announced) -> LeafSpool:
        if quorum:
            return wrap_spool(key, org_id, quorum, store.journal.spool_answer(key, org_id, quorum, announced))
        return wrap_spool(key, org_id, quorum, store.journal.spool(key, org_id, announced))

    archive = Archive(store.journal, lambda version: store.records.rosters()[version], shelf.documents)
    host, port = federation.listen
    listening = listen(host, port + 1)
    server = grpc.aio.server(options=transport.SERVER_OPTIONS)
    server.add_generic_rpc_handlers(
        (
            RoundsEdge(driver, desk.identify, open_spool, store.journal.open_sum, desk.recheck, desk.live).handlers(),
            ArchiveEdge(archive, desk.identify, lambda org_id: org_id in driver.members, desk.live).handlers(),
            AdminEdge(operations, desk.identify, desk.live).handlers(),
            desk.edge().handlers(),
        )
    )
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    bind(server, host, port, desk.rotation.server_credentials())
    routes = [*desk.routes, status_http.route(registry)]
    application = enrollment_http.application(
        in_force, store.members, allowed, issuing.current, world.clock, world.entropy, store.records, routes
    )
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        ssl_keyfile=str(federation.server_key_file),
        ssl_certfile=str(federation.server_certificate_file),
        timeout_keep_alive=5,
        limit_concurrency=64,
        http=enrollment_listener.PromptConnection,
    )
    config.load()
    assert config.ssl is not None, "a key and a certificate were given"
    desk.rotation.follow(config.ssl)
    web = _Web(config)
    driver.resume()
    thread = threading.Thread(target=_drive, args=(driver,), name="fedveil-driver", daemon=True)
    thread.start()
    await server.start()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    enrolment = asyncio.ensure_future(web.serve(sockets=[listening]))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    while not web.started and not enrolment.done():
        await asyncio.sleep(0.01)
    if enrolment.done():
        enrolment.result()
        raise Unreachable("enrolment_stopped", "the enrolment listener ended before it served")
    address = founding.dial_address(host, port)
    ready({"federation_id": federation.federation_id, "address": address, "enrolment": port + 1})
    async with desk.watching():
        await stop.wait()
    log.info("stopping")
    web.should_exit = True
    stopped = asyncio.ensure_future(server.stop(GRACE_S))
    await asyncio.sleep(0)  # it takes no new call from now on
    driver.call(lambda: end_sessions(driver))
    await stopped
    await enrolment
    driver.stop()
    thread.join(GRACE_S)


def check_own_key(federation: founding.Federation, roster: Roster) -> None:
    """Returns if this home's coordinator is the one that the roster lists. ConfigError `coordinator_replaced`."""
    if signing.public_key(federation.protocol_key()) != roster.coordinator_key:
        raise ConfigError(
            "coordinator_replaced",
            f"roster version {roster.version} lists another coordinator's key than this home holds",
            not_done="the coordinator did not start",
            next_step="serve from the home of the new operator; participants refuse this one",
        )


class _Web(uvicorn.Server):
    """uvicorn without its signal handlers: this process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def _drive(driver: Driver) -> None:
    try:
        driver.serve()
    except BaseException as error:  # noqa: BLE001 - the last resort of the driver's thread
        stop_process(error)


def end_sessions(driver: Driver) -> None:
    """Tell every participant that the coordinator stops; on the driver's thread."""
    for org_id in driver.connected_members:
        driver.end_session(org_id, "stopping")


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. ConfigError `port_in_use` if somebody has the port, `port_unavailable`."""
    try:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a restart; never SO_REUSEPORT
            if listening.family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(port) from None
        raise ConfigError(
            "port_unavailable",
            f"{founding.dial_address(host, port)} cannot be opened: {error.strerror or type(error).__name__}",
            not_done="the coordinator did not start",
            next_step="a federation's address is fixed by `fedveil init`; a port below 1024 needs a privilege",
        ) from None
    return listening


def bind(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials) -> None:
    """Take the port. ConfigError `port_in_use` if somebody has it, `port_unavailable`."""
    listen(host, port).close()  # it knows the reason; gRPC only says no
    with contextlib.suppress(RuntimeError):
        if server.add_secure_port(founding.dial_address(host, port), credentials) == port:
            return
    raise port_in_use(port)


def port_in_use(port: int) -> ConfigError:
    """Somebody else listens there."""
    return ConfigError(
        "port_in_use",
        f"port {port} is in use",
        not_done="the coordinator did not start",
        next_step="stop what listens there; a federation's address is fixed by `fedveil init`",
    )
