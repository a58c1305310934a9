"""What it costs a coordinator that thousands of participants are connected and nothing happens.

    python benchmarks/idle.py [--participants 5000] [--drivers 4] [--seconds 60] [--json]

One real coordinator process (`fedveil serve`). The participants are what it sees of real ones: each has a certificate
that the federation's authority issued into the coordinator's store, a mutual-TLS connection of its own with the
product's channel options, and a session on which hello and roster were exchanged; then the session is parked. A few
driver processes hold them all, so their own memory says nothing about a participant's. What is left out of enrolment is
the HTTP exchange and the invite: keys, certificates and store are the product's. No roster lists these members, because
a signed roster of thousands exceeds the size of a document; whoever has joined and is not listed yet connects all the
same.

Printed: memory for each participant (VmRSS of the coordinator, all connected, less none connected), the CPU that the
coordinator takes while nothing happens (over --seconds), and how fast they connected, drivers and coordinator on the
same cores. Goals: 5,000 within 700 MB, idle CPU under 1 %.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

SESSION = "/fedveil.v1.RoundsService/Session"
SPARE_FILES = 256
CONNECTING = 8
"""Handshakes that one driver has under way."""

CONNECT_ATTEMPTS, RECONNECT_FIRST_S = 8, 0.5
"""A coordinator ends a handshake that takes 5 s; participants come back after a pause that doubles."""

SETTLE_S = 5.0
GOALS = {"memory_mb": 700, "idle_cpu_percent": 1.0}


class NotEnoughFilesError(Exception):
    """The limit of open files does not let so many connect."""


def raise_file_limit(needed: int) -> None:
    """The soft limit of open files of this process and its children becomes the hard one. NotEnoughFilesError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise NotEnoughFilesError(
            f"one process needs {needed} open files and may have {hard}: raise the hard limit (`ulimit -Hn`, or "
            f"LimitNOFILE of systemd), or take --participants {max(hard - SPARE_FILES, 0)}"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- enrolment --------------------------------------------------------------------------------------------------------


def issue(home: Path, passphrase: bytes, count: int) -> list[dict[str, str]]:
    """Certificates for `count` organisations, in the store of a coordinator that does not run; with their keys."""
    from fedveil_cli.world import real_world
    from fedveil_common.ids import OrgId
    from fedveil_common.pki import certificates
    from fedveil_common.pki.invites import Role
    from fedveil_common.pki.names import Subject
    from fedveil_common.secret import Passphrase
    from fedveil_coordinator import founding
    from fedveil_coordinator.enrollment import stored_certificate
    from fedveil_coordinator.store import open_store

    world, federation = real_world(), founding.load_federation(home)
    authority = federation.authority(Passphrase(passphrase))
    store, made = open_store(home, world.clock), []
    try:
        for number in range(count):
            subject = Subject(federation.federation_id, Role.PARTICIPANT, OrgId(f"org-{number:05}"))
            key = certificates.new_key(world.entropy)
            leaf = certificates.issue(authority, key.public_key(), subject, world.clock.wall_s(), world.entropy)
            store.members.add_certificate(stored_certificate(leaf, subject))
            pems = certificates.certificate_pem(leaf).decode(), certificates.key_pem(key).decode()
            made.append({"certificate": pems[0], "key": pems[1]})
    finally:
        store.close()
    return made


# --- a driver: many participants in one process -----------------------------------------------------------------------


async def drive(identities: list[dict[str, str]], address: str, authority: bytes) -> None:
    """Connects all, says so on stdout, holds them until stdin ends, says how many were lost."""
    import grpc.aio
    from fedveil_common import wire
    from fedveil_common.messages import CoordinatorHello, ParticipantHello, RosterNotice
    from fedveil_common.pki import transport

    turns, lost, again, kept = asyncio.Semaphore(CONNECTING), 0, 0, []
    hello = wire.encode_participant(ParticipantHello("benchmark", (1,)))
    options = [*transport.CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]

    async def hold(call: Any) -> None:
        nonlocal lost
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.RpcError:
            pass
        lost += 1

    async def greet(channel: Any) -> Any:
        """A session on which hello and roster were exchanged."""
        call = channel.stream_stream(SESSION)()
        await call.write(hello)
        wanted = {CoordinatorHello, RosterNotice}
        while wanted:
            data = await call.read()
            if data is grpc.aio.EOF:
                raise RuntimeError(f"a session ended: {await call.code()} {await call.details()}")
            wanted.discard(type(wire.parse_coordinator(data)))
        return call

    async def join(one: dict[str, str]) -> None:
        nonlocal again
        async with turns:
            credentials = transport.channel_credentials(one["certificate"].encode(), one["key"].encode(), authority)
            for attempt in range(CONNECT_ATTEMPTS):
                channel = grpc.aio.secure_channel(address, credentials, options=options)
                try:
                    call = await greet(channel)
                except grpc.aio.AioRpcError as error:  # as a participant does: again, a little later
                    await channel.close()
                    if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt + 1 == CONNECT_ATTEMPTS:
                        raise
                    again += 1
                    await asyncio.sleep(RECONNECT_FIRST_S * 2**attempt)
                else:
                    kept.append((channel, call, asyncio.ensure_future(hold(call))))
                    return

    async with asyncio.TaskGroup() as group:
        for one in identities:
            group.create_task(join(one))
    print(json.dumps({"connected": len(kept), "again": again}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"lost": lost}), flush=True)
    os._exit(0)  # the sessions end with the process


def answer(stream: IO[bytes] | None) -> dict[str, int]:
    """The next line of a driver."""
    assert stream is not None
    line = stream.readline()
    if not line:
        raise SystemExit("a driver ended before all of its participants were connected; its reason stands above")
    found: dict[str, int] = json.loads(line)
    return found


# --- the measurement --------------------------------------------------------------------------------------------------


def measure(participants: int, drivers: int, seconds: float) -> dict[str, object]:
    """Connect all, wait, look. NotEnoughFilesError before anything is made."""
    raise_file_limit(participants + SPARE_FILES)
    import logging

    from fedveil_cli.local_federation import LocalFederation
    from fedveil_cli.service_commands import configure_logging
    from fedveil_cli.world import SystemClock
    from fedveil_coordinator import founding
    from masked_round import memory_kb

    configure_logging(logging.ERROR)
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="fedveil-bench-", dir=os.environ.get("FEDVEIL_BENCH_DIR")) as name:
        folder = Path(name)
        federation = LocalFederation(folder, "none", SystemClock(), lambda kind, facts: None)
        try:
            federation.found()
            federation.processes.stop()
            began = time.perf_counter()
            identities = issue(federation.home, (folder / "authority.txt").read_bytes(), participants)
            issued = time.perf_counter() - began
            admin = federation.serve()
            pid = federation.processes.running["coordinator"].pid
            known = founding.load_federation(federation.home)
            empty, cpu_empty = memory_kb(pid, "VmRSS"), cpu_seconds(pid)
            began = time.perf_counter()
            for number in range(drivers):
                mine = folder / f"driver-{number}.json"
                mine.touch(mode=0o600)
                task = {"identities": identities[number::drivers], "address": known.admin_address}
                mine.write_text(json.dumps(task | {"authority": known.authority_pem.decode()}))
                command = [sys.executable, str(Path(__file__).resolve()), "--drive", str(mine)]
                running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            answers = [answer(driver.stdout) for driver in running]
            connected, again = (sum(one[key] for one in answers) for key in ("connected", "again"))
            took, cpu_connected = time.perf_counter() - began, cpu_seconds(pid)
            time.sleep(SETTLE_S)
            full, cpu_before, began = memory_kb(pid, "VmRSS"), cpu_seconds(pid), time.perf_counter()
            time.sleep(seconds)
            window = time.perf_counter() - began
            idle_cpu = (cpu_seconds(pid) - cpu_before) / window
            after = memory_kb(pid, "VmRSS")
            assert admin.status()["run"] is None  # it still answers
            for driver in running:
                assert driver.stdin is not None
                driver.stdin.close()
            lost = sum(answer(driver.stdout)["lost"] for driver in running)
        finally:
            for driver in running:
                driver.kill()
                with driver:  # waits, and closes its pipes
                    pass
            federation.processes.stop()
    if lost or connected != participants:
        raise SystemExit(f"{connected} of {participants} connected and {lost} of them were lost: no measurement")
    return {
        "participants": participants,
        "drivers": drivers,
        "memory_empty_mb": empty * 1024 / 1e6,
        "memory_mb": max(full, after) * 1024 / 1e6,
        "memory_per_participant_kb": (max(full, after) - empty) * 1024 / participants / 1e3,
        "idle_cpu_percent": 100 * idle_cpu,
        "idle_window_s": window,
        "connect_s": took,
        "connects_per_s": participants / took,
        "connected_again": again,
        "connect_cpu_ms_each": 1000 * (cpu_connected - cpu_empty) / participants,
        "issued_per_s": participants / issued,
        "goals": GOALS,
    }


def main() -> int:
    """Choose the role, run, print."""
    if "--drive" in sys.argv:
        task = json.loads(Path(sys.argv[sys.argv.index("--drive") + 1]).read_text())
        asyncio.run(drive(task["identities"], task["address"], task["authority"].encode()))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=5000)
    parser.add_argument("--drivers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not 1 <= arguments.drivers <= arguments.participants or arguments.seconds <= 0:
        parser.error("at least 1 driver and as many participants as drivers; --seconds is positive")
    try:
        result = measure(arguments.participants, arguments.drivers, arguments.seconds)
    except NotEnoughFilesError as error:
        print(f"idle.py: error: [not_enough_files] {error}; nothing was measured", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:<28} {value:.3f}" if isinstance(value, float) else f"{key:<28} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
