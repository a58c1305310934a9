"""What `fedveil model seal` and `model open` cost beside copying the model file: the commands, each a process.

    python benchmarks/model_sealing.py [--megabytes 1000] [--repeats 5] [--folder DIR] [--json]

Each repetition copies a signed model file (read and write in 1 MiB pieces, then fsync), seals it and opens it again,
each in turn on one disk, so that ratios are of neighbours in time; files are removed in between. Times of the commands
hold all that a person waits for: the start of the program (`start_s`, the same command with a model of ten parameters),
keys, signatures, the last fsync; `work` is without that start. `peak_mb` is the most memory that the command's process
ever had (VmHWM). Printed are medians over the repetitions, and the load of the machine before and after.

`model seal` reads the manifest and checks no signature; `model open` decrypts, hashes every parameter, verifies from
the fingerprint down, and only then writes. The limits of both stand beside: AES-256-GCM over 1 MiB in the cache, and
SHA-256 on one core. Plans allow 10^7 parameters, 40 MB; for more, the limit is lifted in the processes of this
benchmark, which load nothing else before the command does. The plan goes on from an earlier run and so names its first
model; any other has it drawn again from the seed whenever it is read. Goal: sealing at 0.8 of a copy or more.
"""

import argparse
import base64
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

GOALS = {"seal_of_copy": 0.8}
PIECE = 1024 * 1024
TINY = 10
PLAN = """
version: 1
name: weights
kind: train
data:
  dataset: d
  features: {{a: {{type: float, range: [0, 1]}}}}
  target: {{column: y, type: binary}}
  min_rows: 3
  standardise: none
model: {{kind: trainer, name: large, parameters: {parameters}, initial: {initial}}}
continues: [{{run: run-0, steps: 1}}]
training: {{rounds: 1, local_epochs: 1, batch_size: 10, learning_rate: 0.5, seed: 7, weight_cap: 100}}
evaluation: {{holdout: 0.2, metrics: [loss]}}
cohort: {{min_participants: 3}}
protection: {{kind: masked, update_norm: 5}}
privacy: none
"""


def lift_limit() -> None:
    """Plans of this process may have as many parameters as they like."""
    from fedveil_common.plan import reading

    reading.MAX_PARAMETERS = 2**40


def make(parameters: int, out: Path) -> str:
    """A model of random numbers that a federation made for this signed; its fingerprint in hex."""
    import numpy as np
    from fedveil_common import modelfile, standardisation
    from fedveil_common.crypto import signing
    from fedveil_common.ids import COORDINATOR, FederationId, RunId
    from fedveil_common.messages import BlobType
    from fedveil_common.pki import governance
    from fedveil_common.plan import parse_plan
    from fedveil_common.roster import Member, Role, Roster, sign_roster
    from fedveil_common.secret import PrivateKey

    lift_limit()
    federation, run = FederationId("benchmark"), RunId("run-1")
    governor, coordinator = PrivateKey(os.urandom(32)), PrivateKey(os.urandom(32))
    rules = governance.GovernanceSet(1, (signing.public_key(governor),))
    trust = governance.TrustDocument(federation, 1, rules, (b"a" * 32,), signing.public_key(coordinator))
    chain = governance.encode_chain([governance.sign_trust(trust, [governor])])
    head = Member(COORDINATOR, Role.COORDINATOR, signing.public_key(coordinator))
    roster = sign_roster(Roster(federation, 1, (head,)), [governor]).encode()
    plan = parse_plan(PLAN.format(parameters=parameters, initial="ab" * 32).encode(), "plan")
    model = np.random.default_rng(1).random(parameters, dtype=np.float32)
    bare = modelfile.ModelFile(plan, model, standardisation.without_sum(plan), "{}", (), "", "")
    manifest = modelfile.manifest_for(bare, federation, run, 1, 1, b"t" * 32)
    blob = signing.sign(coordinator, COORDINATOR, BlobType.MODEL, manifest.to_bytes())
    carried = {"trust_chain": base64.b64encode(chain).decode(), "roster": base64.b64encode(roster).decode()}
    with out.open("wb") as stream:
        stream.write(
            modelfile.write_model(
                replace(bare, lineage=modelfile.lineage_text(manifest, 1), signatures=(blob,), **carried)
            )
        )
        stream.flush()
        os.fsync(stream.fileno())
    return governance.fingerprint(federation, rules).hex()


def command(words: list[str]) -> int:
    """`fedveil WORDS` in this process, whose peak memory is the last line on stderr."""
    from fedveil_cli import main as program

    if words[:2] == ["model", "open"]:  # sealing reads no plan
        lift_limit()
    code = program.main(words)
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024, file=sys.stderr)
    return code


class Runs:
    """The commands, each in a process of its own, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.peaks: dict[str, list[float]] = {}

    def child(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """This script again with these words."""
        line = [sys.executable, __file__, *words]
        environment = {**os.environ, "FEDVEIL_HOME": str(self._folder / "nobody")}
        done = subprocess.run(line, cwd=self._folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return done

    def timed(self, name: str, *words: str) -> float:
        """Seconds of one command; its peak memory in MB is kept under `name`."""
        begin = time.perf_counter()
        done = self.child("--command", *words)
        took = time.perf_counter() - begin
        self.peaks.setdefault(name, []).append(int(done.stderr.splitlines()[-1]) / 1e6)
        return took


def copy(source: Path, out: Path) -> None:
    """A plain copy that is durable."""
    with source.open("rb", buffering=0) as readable, out.open("wb", buffering=0) as writable:
        room = memoryview(bytearray(PIECE))
        while size := readable.readinto(room):
            writable.write(room[:size])
        os.fsync(writable.fileno())


def seconds(work: Callable[[], object]) -> float:
    """What one call takes, on the wall."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def limits(pieces: int = 256) -> dict[str, int]:
    """MB a second of AES-256-GCM and SHA-256 alone, on one core, over 1 MiB that stays in the cache."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, room, out = AESGCM(os.urandom(32)), bytes(PIECE), bytearray(PIECE + 16)

    def encrypt() -> None:
        for index in range(pieces):
            cipher.encrypt_into(index.to_bytes(12, "big"), room, b"", out)

    def digest() -> None:
        found = hashlib.sha256()
        for _ in range(pieces):
            found.update(room)

    return {
        name: round(pieces * PIECE / seconds(work) / 1e6)
        for name, work in (("aes_gcm_mb_s", encrypt), ("sha256_mb_s", digest))
    }


def measure(megabytes: int, repeats: int, folder: Path) -> dict[str, object]:
    """Medians over the repetitions."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from fedveil_common.sealing import key_files

    runs, load = Runs(folder), os.getloadavg()[0]
    large, small = folder / "large", folder / "small"
    sizes = {large: megabytes * 10**6 // 4, small: TINY}
    asked = [word for path, size in sizes.items() for word in (str(size), str(path))]
    prints = dict(zip(sizes, runs.child("--make", *asked).stdout.split(), strict=True))
    key, public, copied, sealed, opened = (folder / name for name in ("key", "public", "copied", "sealed", "opened"))
    private = X25519PrivateKey.generate()
    key.write_bytes(key_files.private_pem(private, None))
    public.write_bytes(key_files.public_pem(private.public_key()))
    length = large.stat().st_size
    times: dict[str, list[float]] = {}

    def both(model: Path, suffix: str) -> None:
        seal = ("model", "seal", str(model), "--for", str(public), "--out", str(sealed))
        times.setdefault(f"seal{suffix}", []).append(runs.timed(f"seal{suffix}", *seal))
        opening = ("model", "open", str(sealed), "--key", str(key), "--fingerprint", prints[model])
        times.setdefault(f"open{suffix}", []).append(runs.timed(f"open{suffix}", *opening, "--out", str(opened)))
        sealed.unlink()
        opened.unlink()

    for _ in range(repeats):
        times.setdefault("copy", []).append(seconds(lambda: copy(large, copied)))
        copied.unlink()
        both(large, "")
        both(small, "_start")

    found: dict[str, object] = {"megabytes": round(length / 1e6), "repeats": repeats}
    found |= {"copy_mb_s": round(length / statistics.median(times["copy"]) / 1e6)}
    for name in ("seal", "open"):
        start = statistics.median(times[f"{name}_start"])
        ratios = [one / other for one, other in zip(times["copy"], times[name], strict=True)]
        work = [one / (other - start) for one, other in zip(times["copy"], times[name], strict=True)]
        found |= {
            f"{name}_mb_s": round(length / statistics.median(times[name]) / 1e6),
            f"{name}_of_copy": round(statistics.median(ratios), 3),
            f"{name}_of_copy_range": [round(min(ratios), 3), round(max(ratios), 3)],
            f"{name}_start_s": round(start, 2),
            f"{name}_work_of_copy": round(statistics.median(work), 3),
            f"{name}_peak_mb": round(max(runs.peaks[name])),
            f"{name}_start_peak_mb": round(max(runs.peaks[f"{name}_start"])),
        }
    return {**found, **limits(), "load": [round(load, 1), round(os.getloadavg()[0], 1)], "goals": GOALS}


def main(arguments: list[str]) -> int:
    """Prints what was measured; 0."""
    if arguments[:1] == ["--command"]:
        return command(arguments[1:])
    if arguments[:1] == ["--make"]:
        for size, path in zip(arguments[1::2], arguments[2::2], strict=True):
            print(make(int(size), Path(path)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measure(given.megabytes, given.repeats, Path(folder).absolute())
    if given.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        print(f"{name:<20} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
