"""What a running coordinator does about certificates, put together for `serving`: who may call, renewals, rotation."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from fedveil_common.roster import Roster
from fedveil_common.succession import roster_of_its_time
from fedveil_coordinator import founding, renewal_http
from fedveil_coordinator.allowlist import AllowList, Identity
from fedveil_coordinator.identity_edge import IdentityEdge
from fedveil_coordinator.issuing import Issuing
from fedveil_coordinator.live_calls import LiveCalls
from fedveil_coordinator.renewal import RenewalOffice
from fedveil_coordinator.rotation import WATCH_S, Rotation
from fedveil_coordinator.store import CoordinatorStore
from fedveil_coordinator.trust import TrustInForce
from starlette.routing import Route

from fedveil_cli.world import World

log = structlog.get_logger("fedveil.certificates")


@dataclass(frozen=True, slots=True)
class CertificateDesk:
    """The parts, over one allow-list."""

    allowed: AllowList
    live: LiveCalls
    office: RenewalOffice
    rotation: Rotation
    routes: list[Route]
    world: World

    def identify(self, pem: bytes) -> Identity:
        """Who begins a call."""
        return self.allowed.identify(pem, self.world.clock.wall_s())

    def recheck(self, pem: bytes) -> Identity:
        """Whether a call may go on."""
        return self.allowed.recheck(pem, self.world.clock.wall_s())

    def edge(self) -> IdentityEdge:
        """The gRPC edge of IdentityService."""
        return IdentityEdge(self.office, self.identify, self.live)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Inside, the files of the home are looked at every few seconds."""

        async def watch() -> None:
            while True:
                await asyncio.to_thread(self.rotation.look, self.office, self.allowed)
                await asyncio.sleep(WATCH_S)

        task = asyncio.ensure_future(watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def open_desk(
    federation: founding.Federation, store: CoordinatorStore, issuing: Issuing, trust: TrustInForce, world: World
) -> CertificateDesk:
    """The desk of a coordinator that is about to serve. Renews its own certificate if that is due."""
    clock, entropy, federation_id = world.clock, world.entropy, federation.federation_id
    rotation = Rotation(federation.home, trust, issuing, clock, entropy, world.failpoints)
    renewals = store.renewals
    allowed = AllowList(federation_id, store.members.certificates(), renewals.renewals(), renewals.freezes(), renewals)
    live = LiveCalls(lambda identity: allowed.still(identity, clock.wall_s()), clock.wall_s)
    allowed.listen(live.look)
    allowed.listen(lambda org_id, code: log.warning("identity.ended", org=org_id, code=code))

    verified: dict[bytes, Roster] = {}

    def roster() -> Roster:
        """The newest, verified once: anybody may ask for a renewal."""
        newest = store.records.latest_roster()
        assert newest is not None, "init stores the first roster"
        if newest[1] not in verified:
            made = roster_of_its_time(newest[1], trust.trust)
            verified.clear()
            verified[newest[1]] = made
        return verified[newest[1]]

    office = RenewalOffice(
        federation_id, issuing.current, renewals, allowed, trust, roster, store.members.members, clock, entropy
    )
    routes = renewal_http.routes(office, federation_id, allowed, clock)
    return CertificateDesk(allowed, live, office, rotation, routes, world)
