"""What sealing a file costs beside copying it: throughput of both on one disk, in turn, and the limit of AES-GCM.

    python benchmarks/sealing.py [--megabytes 1024] [--repeats 5] [--folder DIR] [--json]

Each repetition copies the same file to the same folder (read and write in 1 MiB pieces, then fsync), seals it and opens
it again, each in turn, so that ratios are of neighbours in time; files are removed in between. What is printed are
medians over the repetitions and the memory that the process took at most. Goal: sealing at 0.8 of a copy or more.
The limit is AES-256-GCM over 1 MiB that stays in the cache, encrypted in place of the same buffer: no disk, no file.
"""

import argparse
import io
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fedveil_common.sealing import files, recipients
from fedveil_common.sealing.header import CHUNK, Subject

GOALS = {"seal_of_copy": 0.8}
SUBJECT = Subject("model", "benchmark", "weights")


class SystemEntropy:
    """The operating system's generator."""

    def take(self, size: int) -> bytes:
        """Random bytes."""
        return os.urandom(size)


def seconds(work: Callable[[], object]) -> float:
    """What one call takes, on the wall."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def copy(source: Path, out: Path) -> None:
    """A plain copy that is durable."""
    with source.open("rb", buffering=0) as reading, out.open("wb", buffering=0) as writing:
        room = memoryview(bytearray(CHUNK))
        while size := reading.readinto(room):
            writing.write(room[:size])
        os.fsync(writing.fileno())


def limit(megabytes: int) -> float:
    """Bytes a second of AES-256-GCM alone."""
    cipher, room, out = AESGCM(os.urandom(32)), bytes(CHUNK), bytearray(CHUNK + 16)

    def work() -> None:
        for index in range(megabytes):
            cipher.encrypt_into(index.to_bytes(12, "big"), room, b"", out)

    return megabytes * CHUNK / seconds(work)


def measure(megabytes: int, repeats: int, folder: Path) -> dict[str, object]:
    """Medians; throughput in MB/s."""
    key = X25519PrivateKey.generate()
    source, copied, sealed, opened = (folder / name for name in ("plain", "copied", "sealed", "opened"))
    with source.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(os.urandom(CHUNK))
        os.fsync(stream.fileno())
    length, times = megabytes * CHUNK, {"copy": [], "seal": [], "open": []}  # type: dict[str, list[float]]

    def seal() -> None:
        with source.open("rb", buffering=0) as reading:
            wrap = lambda data_key: recipients.wrap_for([key.public_key()], data_key, SUBJECT)  # noqa: E731
            files.seal(io.BufferedReader(reading, CHUNK), length, sealed, SUBJECT, wrap, SystemEntropy())

    def unseal() -> None:
        with sealed.open("rb") as reading:
            files.unseal(reading, opened, lambda found: recipients.unwrap(found, key), lambda subject: None)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(repeats):
        times["copy"].append(seconds(lambda: copy(source, copied)))
        times["seal"].append(seconds(seal))
        times["open"].append(seconds(unseal))
        for path in (copied, sealed, opened):
            path.unlink()
    ratios = [one / other for one, other in zip(times["copy"], times["seal"], strict=True)]
    return {
        "megabytes": megabytes,
        **{f"{name}_mb_s": round(length / statistics.median(found) / 1e6) for name, found in times.items()},
        "aes_gcm_mb_s": round(limit(512) / 1e6),
        "seal_of_copy": round(statistics.median(ratios), 3),
        "seal_of_copy_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "memory_grew_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "goals": GOALS,
    }


def main(arguments: list[str]) -> int:
    """Prints what was measured; 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measure(given.megabytes, given.repeats, Path(folder))
    if given.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        print(f"{name:<20} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
