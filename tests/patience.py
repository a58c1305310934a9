"""How long tests wait for what a real process, thread or socket does: far longer than a machine stands still.

A limit here is a guard against a test that hangs; no test measures with it. A rented machine may stop for 20 seconds,
and then the product cuts lines and gives up calls, as it should. So in tests the product's short limits are long; a
test about one of them moves a clock of its own (`hurried_loop`) or puts a limit back.
"""

import threading
import time
from collections.abc import Callable

from fedveil_cli import doctor_network, service_commands
from fedveil_common.pki import transport
from fedveil_coordinator import enrollment_http, enrollment_listener
from fedveil_participant import enrolment_client
from fedveil_participant.approval import service

LIMIT_S = 180.0
SHORT = (
    (doctor_network, "TIMEOUT_S"),
    (enrollment_http, "BODY_TIMEOUT_S"),
    (enrollment_listener, "REQUEST_TIMEOUT_S"),
    (enrolment_client, "TIMEOUT_S"),
    (service, "REQUEST_S"),
    (service_commands, "HEALTH_TIMEOUT_S"),
)
"""Limits of the product under 20 seconds, beside those of the transport."""
OF_TRANSPORT = ("grpc.keepalive_timeout_ms", "grpc.server_handshake_timeout_ms")


def lengthen() -> None:
    """From here on in this process."""
    for module, name in SHORT:
        assert 0 < vars(module)[name] <= LIMIT_S
        setattr(module, name, LIMIT_S)
    for name in ("CHANNEL_OPTIONS", "SERVER_OPTIONS"):
        options: tuple[transport.Option, ...] = vars(transport)[name]
        longer = tuple((key, int(LIMIT_S * 1000) if key in OF_TRANSPORT else value) for key, value in options)
        setattr(transport, name, longer)


def eventually(condition: Callable[[], bool], what: str = "it", pause_s: float = 0.01) -> None:
    """Poll until the condition holds."""
    end, waiting = time.monotonic() + LIMIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        waiting.wait(pause_s)
