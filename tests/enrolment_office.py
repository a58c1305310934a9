"""A founded federation with its enrolment listener on real HTTPS, for the tests of identity."""

import asyncio
import base64
import contextlib
import json
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest
import structlog
import uvicorn
from berths import free_port
from fedveil_cli import identity_commands
from fedveil_cli.world import World
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId
from fedveil_common.pki import certificates
from fedveil_common.ports import NoFailpoints
from fedveil_common.secret import Passphrase, Seed
from fedveil_common.succession import roster_in_force
from fedveil_coordinator import enrollment, enrollment_http, founding
from fedveil_coordinator.allowlist import AllowList
from fedveil_coordinator.store import CoordinatorStore, open_store
from fedveil_coordinator.trust import TrustInForce
from patience import LIMIT_S

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

CA, GOV = Passphrase(b"authority passphrase"), Passphrase(b"governance passphrase")
NOW = 1_800_000_000.0


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def monotonic_s(self) -> float:
        return self.now

    def wall_s(self) -> float:
        return self.now


class Entropy:
    """Seeded; remembers what it gave out, so that a test can look for it where it must not be."""

    def __init__(self, seed: int) -> None:
        self._draws = Draws(Seed(seed.to_bytes(32, "big")))
        self.given: list[bytes] = []

    def take(self, size: int) -> bytes:
        value = self._draws.bytes("test", size, len(self.given).to_bytes(4, "big"))
        self.given.append(value)
        return value


class Office:
    """A founded federation with its enrolment listener, and an admin client that calls its functions directly."""

    def __init__(self, home: pathlib.Path, clock: Clock, port: int) -> None:
        self.home, self.clock, self.entropy = home, clock, Entropy(1)
        self.world = World(clock, self.entropy, NoFailpoints())
        identity_commands.run_init(home, "hospitals", f"127.0.0.1:{port - 1}", CA, GOV, None, self.world)
        self.federation = founding.load_federation(home)
        self.store: CoordinatorStore = open_store(home, clock)
        self.allowed = AllowList(self.federation.federation_id, self.store.members.certificates())
        self.ended: list[OrgId] = []
        self.allowed.listen(lambda org, code: self.ended.append(org))
        self.in_force = TrustInForce(
            self.federation.trust_chain, self.federation.fingerprint, lambda: self.federation.authority_pem
        )
        self.application = enrollment_http.application(
            self.in_force,
            self.store.members,
            self.allowed,
            self.authority,
            clock,
            self.entropy,
            self.store.records,
        )

    def authority(self) -> certificates.Authority:
        """The one that issues now."""
        return founding.load_federation(self.home).authority(CA)

    # --- the admin client ---

    def register_invite(self, invite: bytes) -> int:
        return enrollment.register_invite(self.store.members, self.in_force.trust, invite, self.clock.now)

    def revoke(self, org: str, reason: str) -> tuple[int, int]:
        self.store.members.revoke(OrgId(org), reason, self.clock.now)
        return self.allowed.revoke(OrgId(org), self.clock.now), 0

    def roster_draft(self) -> tuple[bytes, bytes, str, list[str]]:
        newest = self.store.records.latest_roster()
        assert newest is not None
        rows = [row for row in self.store.members.members() if row.role == "participant"]
        joined = []
        for row in rows:
            invite = self.store.members.invite(row.token_id)
            assert invite is not None
            if row.revoked_s is None:
                joined.append(
                    {
                        "org": row.org_id,
                        "role": row.role,
                        "protocol_key": row.protocol_key.hex(),
                        "invite": base64.b64encode(invite.signed).decode(),
                        "proof": base64.b64encode(row.proof).decode(),
                    }
                )
        revoked = [str(row.org_id) for row in rows if row.revoked_s is not None]
        return newest[1], self.in_force.trust_chain, json.dumps(joined), revoked

    def publish_trust(self, chain: bytes) -> int:
        newest = self.store.records.latest_roster()
        assert newest is not None
        self.in_force.advance(chain, newest[1])
        return self.in_force.trust.sequence

    def publish_roster(self, signed: bytes) -> int:
        version = roster_in_force(signed, self.in_force.trust).version
        self.store.records.save_roster(version, signed)
        return version

    # --- shorthand ---

    def invite(self, org: str, rekey: bool = False) -> str:
        return str(identity_commands.run_invite(self.home, org, rekey, GOV, self, self.world)["token"])

    def next_roster(self) -> identity_commands.Report:
        return identity_commands.publish_next_roster(self.home, GOV, self)


@contextlib.contextmanager
def served(application: object, certificate: pathlib.Path, key: pathlib.Path, port: int) -> Iterator[None]:
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
    )
    ready = threading.Event()

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: object = None) -> None:
            await super().startup()
            ready.set()

    server = Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    assert ready.wait(LIMIT_S)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(LIMIT_S)


@contextlib.contextmanager
def open_office(folder: pathlib.Path) -> Iterator[Office]:
    """An office whose listener is up. TLS checks certificates against the machine's clock, so ours starts there."""
    port = free_port() + 1
    office = Office(folder / "operator", Clock(time.time()), port)
    federation = office.federation
    try:
        with served(office.application, federation.server_certificate_file, federation.server_key_file, port):
            yield office
    finally:
        office.store.close()


def join(
    office: Office, home: pathlib.Path, token: str, seed: int = 2, passphrase: Passphrase | None = None
) -> identity_commands.Report:
    """`fedveil join` with the office's clock and entropy of its own."""
    return identity_commands.run_join(home, token, passphrase, World(office.clock, Entropy(seed), NoFailpoints()))


def code_of(error: pytest.ExceptionInfo[FedveilError]) -> tuple[str, int]:
    """(code, exit code) of a refusal."""
    return error.value.code, error.value.exit_code
