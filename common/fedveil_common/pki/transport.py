"""gRPC over mutual TLS: credentials from PEM, and the options without which gRPC's defaults would let us down.

Promise: a server made from here demands a client certificate of the federation's authority; binding a port that another
process holds fails (gRPC's default would share it in silence); dead connections are noticed within seconds.
"""

import threading
from collections.abc import Callable

import grpc

from fedveil_common.limits import MAX_MESSAGE

HANDSHAKE_TIMEOUT_MS = 5_000
KEEPALIVE_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
LOOKAHEAD = 256 * 1024
"""Bytes of a call that the transport takes in before the server asks for them."""

MAX_STREAMS = 16
"""Concurrent calls of one connection."""

Option = tuple[str, int]

_COMMON: tuple[Option, ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

SERVER_OPTIONS: tuple[Option, ...] = (
    *_COMMON,
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),  # below the client's, or its pings are abuse
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.http2.bdp_probe", 0),  # else an upload that waits its turn is buffered whole: memory by the cohort
    ("grpc.http2.lookahead_bytes", LOOKAHEAD),
)

CHANNEL_OPTIONS: tuple[Option, ...] = (*_COMMON, ("grpc.enable_retries", 0))


def server_credentials(certificate_pem: bytes, key_pem: bytes, authority_pem: bytes) -> grpc.ServerCredentials:
    """Credentials of a coordinator that demands client certificates of `authority_pem`. `key_pem` is secret."""
    configuration = server_configuration(certificate_pem, key_pem, authority_pem)
    return reloading_server_credentials(configuration, lambda: configuration)


def server_configuration(
    certificate_pem: bytes, key_pem: bytes, authority_pem: bytes
) -> grpc.ServerCertificateConfiguration:
    """What new connections are offered. Built ahead: gRPC's fetcher runs on a thread of its own and must not fail."""
    return grpc.ssl_server_certificate_configuration([(key_pem, certificate_pem)], authority_pem)


def reloading_server_credentials(
    first: grpc.ServerCertificateConfiguration,
    current: Callable[[], grpc.ServerCertificateConfiguration],
) -> grpc.ServerCredentials:
    """As `server_credentials`; `current` is asked at each connection, and is the same object while nothing changes.

    Only a change is handed to gRPC: it then replaces what handshakes are made with, while other threads may be using it
    without a lock, and many connections at one time would end the process (`Check failed: prior > 0`).
    """
    lock, offered = threading.Lock(), first

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal offered
        with lock:
            found = current()
            if found is offered:
                return None
            offered = found
            return found

    # None is "no change" (gRPC's own documentation); the stubs do not know it
    return grpc.dynamic_ssl_server_credentials(first, changed, require_client_authentication=True)  # type: ignore[arg-type]


def channel_credentials(certificate_pem: bytes, key_pem: bytes, authority_pem: bytes) -> grpc.ChannelCredentials:
    """Credentials of a participant or an operator. `key_pem` is secret."""
    return grpc.ssl_channel_credentials(authority_pem, key_pem, certificate_pem)
