"""`fedveil verify` and the stand-alone script, on rounds exported from a federation in memory."""

import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from fedveil.v1 import rounds_pb2 as pb
from fedveil_cli import verifying
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import Result
from fedveil_common.published import LeafKind
from fedveil_common.secret import Seed
from fedveil_common.wire.fields import MalformedError
from fedveil_common.wire.published import encode_parts, from_file, parse_parts, to_file
from fedveil_simulation.cluster import Cluster

from tests.federation import FIVE, RUN, body_of, federation, plan_bytes, resigned
from tests.private_federation import private_bytes

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "verify_round" / "verify_round.py"
PLAN = plan_bytes(rounds=1)


@pytest.fixture(scope="module")
def played() -> Cluster:
    """One round in which one dealer dropped after it dealt, and one survivor did not reveal."""
    cluster = federation(plan=PLAN)
    dropped: list[bool] = []
    upload = cluster.upload

    def lossy(org_id: OrgId, *rest: object) -> object:
        if org_id == FIVE[4] and not dropped:
            dropped.append(True)
            cluster.kill_member(org_id)
            raise FedveilError("unreachable", "lost")
        return upload(org_id, *rest)  # type: ignore[arg-type]

    cluster.upload = lossy  # type: ignore[method-assign, assignment]
    cluster.start_run(RUN, PLAN)
    cluster.play(lambda: cluster.ended(RUN), 1000)
    assert cluster.memory.runs[RUN][2] == "finished"
    assert sorted(cluster.published(RUN, 1).leaf_hashes) == sorted(FIVE[:4])
    return cluster


def shown(cluster: Cluster) -> verifying.Shown:
    """The round as a link would download it."""
    opened = cluster.memory.open_sum(RUN, 1)

    def leaves(kind: LeafKind, wanted: Sequence[int]) -> Sequence[tuple[OrgId, int, bytes]]:
        return list(cluster.archive.leaves(RUN, 1, wanted, kind))

    return verifying.Shown(cluster.charter.notice.trust_chain, cluster.published(RUN, 1), [opened.packed(0)], leaves)


@pytest.fixture
def folder(played: Cluster, tmp_path: pathlib.Path) -> pathlib.Path:
    """The exported round."""
    verifying.export(shown(played), tmp_path / "round")
    return tmp_path / "round"


def script(folder: pathlib.Path, fingerprint: bytes) -> tuple[int, str]:
    """Exit code and output of the stand-alone script, in an interpreter that cannot import fedveil."""
    run = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKED + SCRIPT.read_text(), str(folder), fingerprint.hex()],
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


BLOCKED = """import sys
for name in ("fedveil", "fedveil_common", "fedveil_cli", "fedveil_coordinator", "fedveil_participant", "google"):
    sys.modules[name] = None
"""


def test_a_round_verifies_three_ways(played: Cluster, folder: pathlib.Path) -> None:
    fingerprint = played.charter.fingerprint
    online = verifying.check(shown(played), fingerprint, None, Seed(bytes(32)))
    offline = verifying.check(verifying.read_folder(folder), fingerprint, 1, Seed(bytes(32)))
    assert online.survivors == offline.survivors == FIVE[:4]
    assert (online.checked, online.leaves) == (1, 1)
    code, text = script(folder, fingerprint)
    assert code == 0, text
    assert text.startswith("VERIFIED: 1 leaves"), text


def test_the_script_is_short_and_needs_little() -> None:
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) < 215
    used = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert used == {"hashlib", "json", "math", "pathlib", "sys", "numpy", "cryptography"}


def flip(path: pathlib.Path, at: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def without_a_vote(folder: pathlib.Path) -> None:
    record = from_file((folder / "round.bin").read_bytes())
    (folder / "round.bin").write_bytes(to_file(replace(record, votes=record.votes[:3])))


def without_a_survivor(folder: pathlib.Path) -> None:
    record = from_file((folder / "round.bin").read_bytes())
    (folder / "round.bin").write_bytes(to_file(replace(record, headers=record.headers[1:])))


def a_forged_signature(folder: pathlib.Path) -> None:
    record = from_file((folder / "round.bin").read_bytes())
    forged = replace(record.result, sig=bytes(64))
    (folder / "round.bin").write_bytes(to_file(replace(record, result=forged)))


DAMAGE: list[Callable[[pathlib.Path], None]] = [
    lambda folder: flip(folder / "sum.bin"),
    lambda folder: flip(folder / "inputs" / "acme.bin"),
    lambda folder: flip(folder / "trust.json", 40),
    without_a_vote,
    without_a_survivor,
    a_forged_signature,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_altered_does_not_verify(
    played: Cluster, folder: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    damage(folder)
    with pytest.raises(FedveilError):
        verifying.check(verifying.read_folder(folder), played.charter.fingerprint, None, Seed(bytes(32)))
    code, text = script(folder, played.charter.fingerprint)
    assert code == 1
    assert "VERIFIED: 1" not in text


def test_another_federation(played: Cluster, folder: pathlib.Path) -> None:
    with pytest.raises(FedveilError) as caught:
        verifying.check(verifying.read_folder(folder), bytes(32), None, Seed(bytes(32)))
    assert caught.value.code == "fingerprint_mismatch"
    assert script(folder, bytes(32))[0] == 1


def test_a_folder_that_is_not_empty_is_left_alone(played: Cluster, folder: pathlib.Path) -> None:
    with pytest.raises(FedveilError) as caught:
        verifying.export(shown(played), folder)
    assert caught.value.code == "folder_not_empty"
    shutil.rmtree(folder / "inputs")
    with pytest.raises(FedveilError) as caught:
        verifying.check(verifying.read_folder(folder), played.charter.fingerprint, None, Seed(bytes(32)))
    assert caught.value.code == "file_unreadable"


# --- the parts on the wire --------------------------------------------------------------------------------------------


def test_parts_are_read_as_they_were_written(played: Cluster) -> None:
    record = played.published(RUN, 1)
    assert parse_parts(encode_parts(record)) == record
    assert from_file(to_file(record)) == record


def test_a_masked_round_has_the_parts_that_it_always_had(played: Cluster) -> None:
    kinds = [pb.RoundPart.FromString(part).WhichOneof("part") for part in encode_parts(played.published(RUN, 1))]
    blobs = 5 + 4 + 4 + 4  # adverts, headers, votes, reveals
    assert kinds == ["blob", "blob", "signed_roster", "dealers", *["blob"] * (len(kinds) - 8), *["leaf_hashes"] * 4]
    assert len(kinds) - 8 <= blobs + 2


def test_malformed_parts_are_named(played: Cluster) -> None:
    parts = list(encode_parts(played.published(RUN, 1)))
    bad: list[list[bytes]] = [
        [],
        parts[1:],
        [*parts, parts[0]],
        [*parts, parts[-1]],
        [*parts, b"\xff"],
        [*parts, b""],
        [*parts, parts[0] + b"\x00"],
    ]
    for one in bad:
        with pytest.raises(MalformedError):
            parse_parts(one)
    whole = to_file(played.published(RUN, 1))
    for cut in (whole[:-1], whole[:3], whole + b"\x00"):
        with pytest.raises(MalformedError):
            from_file(cut)


def test_rounds_that_were_not_opened_are_not_published(played: Cluster) -> None:
    for run_id, number in ((RUN, 7), (RunId("other"), 1)):
        with pytest.raises(FedveilError) as caught:
            played.archive.round(run_id, number)
        assert caught.value.code == "unknown_round"


@pytest.mark.parametrize("bend", ["nothing", "link", "fewer"])
def test_the_script_follows_the_noise_that_leaves(bend: str, tmp_path: pathlib.Path) -> None:
    """A private round: the script knows the chain from its text alone; a result with other links is not verified."""
    plan = private_bytes(rounds=1)
    cluster = federation(plan=plan)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 1000)
    one = shown(cluster)
    verifying.export(one, tmp_path / "true")
    code, text = script(tmp_path / "true", cluster.charter.fingerprint)
    assert code == 0, text
    if bend == "nothing":
        return
    result = body_of(one.record.result)
    assert isinstance(result, Result)
    (removal,) = result.removal
    (org, link), *rest = removal.links
    links = ((org, bytes([link[0] ^ 1]) + link[1:]), *rest) if bend == "link" else tuple(rest)
    bent = resigned(cluster.charter, one.record.result, removal=(replace(removal, links=links),))
    lying = replace(one, record=replace(one.record, result=bent))
    with pytest.raises(FedveilError) as caught:
        verifying.check(lying, cluster.charter.fingerprint, None, Seed(bytes(32)))
    assert caught.value.code == "round_not_proved"
    verifying.export(lying, tmp_path / "bent")
    code, text = script(tmp_path / "bent", cluster.charter.fingerprint)
    assert code == 1
    assert "other noise is taken out" in text
