"""One server with our credentials and a crowd that connects to it at the same time; prints how many were answered.

A program of its own (`python -m tests.crowd SIZE`), because what it is for ended the whole process.
"""

import concurrent.futures
import sys
import threading

import grpc
from fedveil_common.pki import transport

from tests.patience import LIMIT_S
from tests.test_tls import ACME, HEAD, leaf, of, serving

THREADS = 64


def main(size: int) -> None:
    credentials, together = of(leaf(ACME)), threading.Barrier(THREADS)
    options = [*transport.CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    with serving(leaf(HEAD)) as port, concurrent.futures.ThreadPoolExecutor(THREADS) as pool:

        def connect(_: int) -> bytes:
            together.wait(timeout=LIMIT_S)
            with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
                stub = channel.unary_unary("/x/y", request_serializer=None, response_deserializer=None)
                answer: bytes = stub(b"", timeout=LIMIT_S)
                return answer

        print(list(pool.map(connect, range(size))).count(b"acme"))


if __name__ == "__main__":
    main(int(sys.argv[1]))
