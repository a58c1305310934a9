"""`python -m tests.confined_participant PORT SOCKETS COUNTS ARGUMENTS`, in a network namespace of its own.

Two loopback ports of the namespace, PORT and the one after it, lead through Unix sockets in the folder SOCKETS to the
coordinator outside; there is no other way out. `fedveil ARGUMENTS` runs in it. At its end COUNTS holds what the kernel
counted: for each connection the bytes that the participant sent, and of the namespace how many connections were begun
and how many datagrams were sent.
"""

import contextlib
import fcntl
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

BYTES_RECEIVED = 128
"""Where tcpi_bytes_received stands in struct tcp_info (linux/tcp.h)."""

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def loopback_up() -> None:
    with socket.socket() as probe:  # the loopback device of a new namespace is down
        name = b"lo".ljust(16, bytes(1))
        (flags,) = struct.unpack_from("H", fcntl.ioctl(probe, SIOCGIFFLAGS, name + bytes(24)), 16)
        fcntl.ioctl(probe, SIOCSIFFLAGS, name + struct.pack("H", flags | IFF_UP) + bytes(22))
    assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Everything of `source` goes to `sink`, until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Door:
    """One port of the namespace, which leads to a Unix socket."""

    def __init__(self, port: int, to: Path) -> None:
        self.port, self._to = port, to
        self.received: list[int] = []
        self._ends: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._to))
                self._ends.append(threading.Thread(target=self._serve, args=(near, far), daemon=True))
                self._ends[-1].start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=pump, args=(far, near), daemon=True)
        back.start()
        pump(near, far)
        back.join(5)
        info = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        self.received.append(struct.unpack_from("=Q", info, BYTES_RECEIVED)[0])
        near.close()
        far.close()

    def close(self) -> list[int]:
        self._listening.close()
        for end in self._ends:
            end.join(10)
        return self.received


def counted(group: str, name: str) -> int:
    """A counter of the kernel for this namespace."""
    lines = [
        line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines() if line.startswith(group + ":")
    ]
    return int(lines[1][lines[0].index(name)])


class Outside:
    """The other end of the doors: Unix sockets that lead to the coordinator. For the test, outside the namespace."""

    def __init__(self, folder: Path, ports: tuple[int, ...]) -> None:
        self._listening = []
        for port in ports:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(folder / str(port)))
            listening.listen()
            self._listening.append(listening)
            threading.Thread(target=self._accept, args=(listening, port), daemon=True).start()

    def _accept(self, listening: socket.socket, port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listening.accept()[0]
                far = socket.create_connection(("127.0.0.1", port))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        for listening in self._listening:
            listening.close()


def confined(port: int, sockets: Path, counts: Path, arguments: list[str]) -> int:
    loopback_up()
    doors = [Door(number, sockets / str(number)) for number in (port, port + 1)]
    process = subprocess.Popen([sys.executable, "-m", "fedveil_cli", *arguments])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda sent, _: process.send_signal(sent))
    code = process.wait()
    received = {door.port: door.close() for door in doors}
    begun, datagrams = counted("Tcp", "ActiveOpens"), counted("Udp", "OutDatagrams")
    counts.write_text(json.dumps({"received": received, "begun": begun, "datagrams": datagrams}))
    return code


if __name__ == "__main__":
    sys.exit(confined(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
