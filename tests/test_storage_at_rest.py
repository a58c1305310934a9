"""The coordinator's files at rest: sealed where the operator says so, converted whatever is killed, refused elsewhere.

What is sealed is looked for as bytes: no file of a sealed home holds a leaf that was put into it.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable

import pytest
from fedveil_cli import main, serving
from fedveil_cli.world import real_world
from fedveil_common import durable
from fedveil_common.errors import FedveilError, IntegrityError, SealedError
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.leafshape import BlockShape, RingShape
from fedveil_common.leafspool import Announced
from fedveil_common.pki import sealed_keys
from fedveil_common.ports import LeafSource, NoFailpoints
from fedveil_common.secret import Passphrase, Seed
from fedveil_coordinator import founding, resting
from fedveil_coordinator.founding import Federation
from fedveil_coordinator.store import CoordinatorStore, Storage, converting, open_store, storage_key
from fedveil_coordinator.store.converting import convert
from fedveil_simulation.ports import SeededEntropy, SimulatedClock

RUN, ACME, BETA = RunId("run.1"), OrgId("acme"), OrgId("beta")
LEAF = b"a leaf of the input, 32 bytes long"[:32]
SUM = b"the opened sum: 32 bytes of them"
EVIDENCE = b"signed by somebody twice"
CANARIES = (LEAF, SUM, EVIDENCE)
BLOCKS = BlockShape(2, 32)
K1, K2 = Seed(b"1" * 32), Seed(b"2" * 32)
SERVE, OTHER = Passphrase(b"certificate authority"), Passphrase(b"another passphrase")


class Killed(BaseException):
    """The process is gone."""


class KillAt:
    """A failpoint that is hit for the `count`-th time."""

    def __init__(self, count: int) -> None:
        self._left = count

    def hit(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed


def entropy(name: str = "rest") -> SeededEntropy:
    return SeededEntropy(1, name)


def opened(home: pathlib.Path, key: Seed | None, *, create: bool = False) -> CoordinatorStore:
    storage = None if key is None else Storage(key, entropy(f"store {os.urandom(8).hex()}"))
    return open_store(home, SimulatedClock(), create=create, storage=storage)


def announced(leaves: list[bytes]) -> Announced:
    return Announced(BlockShape(len(leaves), 32), b"i" * 32, lambda index, data: data == leaves[index])


def fill(store: CoordinatorStore) -> None:
    """An opened round with what is kept of it, a round at work, and a piece of evidence."""
    for round, attempt in ((1, 2), (2, 1)):
        key = AttemptKey(RUN, round, attempt)
        for org in (ACME, BETA):
            with contextlib.closing(store.journal.spool(key, org, announced([LEAF, LEAF]))) as spool:
                spool.write(0, LEAF)
                if (round, org) != (2, BETA):  # this one is still arriving
                    spool.write(1, LEAF)
                    spool.finish()
        for writer in (store.journal.new_product(key, BLOCKS), store.journal.new_noise(key, BLOCKS)):
            writer.write(1, LEAF)
            writer.write(0, LEAF)
            writer.finish()
        with contextlib.closing(store.journal.spool_answer(key, ACME, (0, 1), announced([LEAF]))) as spool:
            spool.write(0, LEAF)
            spool.finish()
    sink = store.journal.new_sum(RUN, 1, 8, 32)
    sink.write(0, SUM)
    sink.finish()
    store.journal.keep_inputs(AttemptKey(RUN, 1, 2), (ACME, BETA, COORDINATOR), (0, 1), (ACME,))
    store.records.record_evidence(RUN, BETA, "equivocation", [EVIDENCE])


def check_content(home: pathlib.Path, key: Seed | None) -> None:
    """All of it is there, as it was put in."""
    store = opened(home, key)
    journal, at_work = store.journal, AttemptKey(RUN, 2, 1)
    blocks = [LEAF, LEAF]
    for source, expected in (
        (journal.kept_input(RUN, 1, ACME), blocks),
        (journal.kept_input(RUN, 1, BETA), blocks),
        (journal.kept_input(RUN, 1, COORDINATOR), blocks),
        (journal.kept_product(RUN, 1), blocks),
        (journal.kept_answer(RUN, 1, ACME), [LEAF]),
        (journal.open_input(at_work, ACME), blocks),
        (journal.open_input(at_work, COORDINATOR), blocks),
        (journal.open_product(at_work), blocks),
        (journal.open_answer(at_work, ACME, (0, 1)), [LEAF]),
        (journal.open_sum(RUN, 1), [SUM]),
    ):
        assert leaves_of(source) == expected
    assert journal.read_sum(RUN, 1).tobytes() == SUM
    (evidence,) = store.records.evidence(RUN)
    assert store.records.blob(evidence.blobs[0]) == EVIDENCE
    store.close()


def leaves_of(source: LeafSource) -> list[bytes]:
    with contextlib.closing(source):
        return [bytes(source.packed(index)) for index in range(source.leaves)]


def files(home: pathlib.Path) -> dict[str, bytes]:
    """Every file beside the database."""
    folders = (home / name for name in ("spool", "inputs", "sums", "blobs"))
    return {str(path.relative_to(home)): path.read_bytes() for folder in folders for path in folder.iterdir()}


def in_clear(home: pathlib.Path) -> set[str]:
    return {name for name, data in files(home).items() if any(canary in data for canary in CANARIES)}


# --- the journal under a storage key ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, K1], ids=["in clear", "sealed"])
def test_all_of_it_is_read_as_it_was_written(tmp_path: pathlib.Path, key: Seed | None) -> None:
    store = opened(tmp_path, key, create=True)
    fill(store)
    store.close()
    assert in_clear(tmp_path) == (set() if key else set(files(tmp_path)))
    assert len(files(tmp_path)) == 12
    check_content(tmp_path, key)


def test_an_input_that_was_cut_short_is_taken_up_sealed(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path, K1, create=True)
    fill(store)
    store.close()
    store = opened(tmp_path, K1)
    with contextlib.closing(store.journal.spool(AttemptKey(RUN, 2, 1), BETA, announced([LEAF, LEAF]))) as spool:
        assert spool.first_missing == 1
        spool.write(1, LEAF)
        spool.finish()
    assert leaves_of(store.journal.open_input(AttemptKey(RUN, 2, 1), BETA)) == [LEAF, LEAF]
    store.close()
    assert in_clear(tmp_path) == set()


def test_without_the_key_nothing_is_read_and_with_it_nothing_in_clear(tmp_path: pathlib.Path) -> None:
    for name, written, read, code in (("a", K1, None, "sealed_at_rest"), ("b", None, K1, "not_sealed_at_rest")):
        store = opened(tmp_path / name, written, create=True)
        fill(store)
        store.close()
        store = opened(tmp_path / name, read)
        digest = store.records.evidence(RUN)[0].blobs[0]
        for look in readers(store, digest):
            with pytest.raises(FedveilError) as caught:
                look()
            assert caught.value.code == code
        store.close()


def readers(store: CoordinatorStore, digest: bytes) -> list[Callable[[], object]]:
    journal, at_work = store.journal, AttemptKey(RUN, 2, 1)
    return [
        lambda: journal.read_sum(RUN, 1),
        lambda: journal.open_sum(RUN, 1),
        lambda: journal.kept_input(RUN, 1, ACME),
        lambda: journal.kept_answer(RUN, 1, ACME),
        lambda: journal.open_product(at_work),
        lambda: journal.spool(at_work, ACME, announced([LEAF, LEAF])),
        lambda: store.records.blob(digest),
    ]


def test_a_sealed_file_in_the_place_of_another_does_not_open(tmp_path: pathlib.Path) -> None:
    """Another member's, another round's, a product for an input, a sum for another sum."""
    store = opened(tmp_path, K1, create=True)
    fill(store)
    sink = store.journal.new_sum(RUN, 2, 8, 32)
    sink.write(0, SUM)
    sink.finish()
    inputs, sums = tmp_path / "inputs", tmp_path / "sums"
    for source, target, look in (
        (inputs / "run.1.1.beta", inputs / "run.1.1.acme", lambda: store.journal.kept_input(RUN, 1, ACME)),
        (inputs / "run.1.1.+product", inputs / "run.1.1.acme", lambda: store.journal.kept_input(RUN, 1, ACME)),
        (inputs / "run.1.1.acme+answer", inputs / "run.1.1.acme", lambda: store.journal.kept_input(RUN, 1, ACME)),
        (tmp_path / "spool/run.1.2.1.acme", inputs / "run.1.1.acme", lambda: store.journal.kept_input(RUN, 1, ACME)),
        (sums / "run.1.2", sums / "run.1.1", lambda: store.journal.open_sum(RUN, 1)),
    ):
        before = target.read_bytes()
        target.write_bytes(source.read_bytes())
        with pytest.raises(IntegrityError) as caught:
            look()
        assert caught.value.code == "ring_file_damaged"
        target.write_bytes(before)
        look().close()


def test_a_sum_has_the_shape_of_any_other_ring_file(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path, K1, create=True)
    fill(store)
    with store.journal.open_sum(RUN, 1) as file:
        assert file.shape == RingShape(8, 32)


# --- another key, in any order of kills -------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "now"), [(None, K1), (K1, None), (K1, K2)], ids=["seal", "unseal", "rotate"])
def test_a_conversion_that_was_killed_anywhere_is_finished(
    tmp_path: pathlib.Path, before: Seed | None, now: Seed | None
) -> None:
    home = tmp_path / "home"
    store = opened(home, before, create=True)
    fill(store)
    store.close()
    for number, path in enumerate(sorted((home / "inputs").iterdir())):
        os.utime(path, (1000 + number, 1000 + number))
    times = {path.name: path.stat().st_mtime for path in (home / "inputs").iterdir()}
    count = 0
    while True:
        count += 1
        try:
            done = convert(home, before, now, entropy(f"convert {count}"), KillAt(count))
        except Killed:
            assert not any(name.startswith(".tmp") for name in files(home) if "blobs" not in name)
            continue
        break
    assert count == done.files + 2  # before each file of leaves, before the blobs, at the end: kill 1 .. files + 1
    assert done.files == 11  # the part that was arriving is gone
    check_content(home, now)
    assert in_clear(home) == (set(files(home)) if now is None else set())
    assert {path.name: path.stat().st_mtime for path in (home / "inputs").iterdir()} == times
    if now is K2:
        with pytest.raises(IntegrityError):
            opened(home, K1).journal.read_sum(RUN, 1)


def test_a_converted_file_never_stands_there_with_another_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as soon as it has its name: by their times, kept rounds are let go."""
    store = opened(tmp_path, None, create=True)
    fill(store)
    store.close()
    paths = sorted(path for name in ("spool", "inputs", "sums") for path in (tmp_path / name).iterdir())
    for number, path in enumerate(paths):
        os.utime(path, (1000 + number, 1000 + number))
    times = {path.name: path.stat().st_mtime for path in paths if path.suffix != ".part"}
    commit, kills = durable.TemporaryFile.commit, 0

    def dying(self: durable.TemporaryFile, name: str, modified_ns: int | None = None) -> pathlib.Path:
        commit(self, name, modified_ns)
        raise Killed

    while True:
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(durable.TemporaryFile, "commit", dying)
            convert(tmp_path, None, K1, entropy(f"killed {kills}"), NoFailpoints())
            break
        kills += 1
        assert {path.name: path.stat().st_mtime for path in paths if path.exists()} == times
    assert kills == 11


def test_a_file_in_neither_form_stops_a_conversion_and_stays(tmp_path: pathlib.Path) -> None:
    store = opened(tmp_path, K1, create=True)
    fill(store)
    store.close()
    path = tmp_path / "inputs" / "run.1.1.beta"
    damaged = path.read_bytes()[:-1] + b"!"
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError) as caught:
        convert(tmp_path, K1, K2, entropy(), NoFailpoints())
    assert str(path) in caught.value.what
    assert path.read_bytes() == damaged
    path.unlink()
    convert(tmp_path, K1, K2, entropy("again"), NoFailpoints())
    assert leaves_of(opened(tmp_path, K2).journal.kept_input(RUN, 1, ACME)) == [LEAF, LEAF]


# --- the operator's orders --------------------------------------------------------------------------------------------


def founded(home: pathlib.Path) -> Federation:
    clock = SimulatedClock()
    founding.init(home, "hospitals", "127.0.0.1:7443", SERVE, Passphrase(b"governance"), None, entropy(), clock)
    store = opened(home, None)
    fill(store)
    store.close()
    return founding.load_federation(home)


@pytest.fixture
def federation(tmp_path: pathlib.Path) -> Federation:
    """A founded home with files of a round. Its passphrases cost little: the cost stands in each sealed file."""
    return founded(tmp_path / "op")


def test_seal_rotate_rewrap_unseal(federation: Federation) -> None:
    home, none = federation.home, NoFailpoints()
    assert storage_key.key_in_force(home, None) is None
    assert resting.seal(federation, SERVE, SimulatedClock(), entropy("1"), none).files == 11
    first = storage_key.key_in_force(home, SERVE)
    assert first is not None
    assert first.expose() not in (home / storage_key.FILE).read_bytes()
    assert (home / storage_key.FILE).stat().st_mode & 0o777 == 0o600
    check_content(home, first)
    resting.seal(federation, SERVE, SimulatedClock(), entropy("2"), none)
    assert storage_key.key_in_force(home, SERVE) == first
    resting.rotate(federation, SERVE, SimulatedClock(), entropy("3"), none)
    second = storage_key.key_in_force(home, SERVE)
    assert second not in (first, None)
    check_content(home, second)
    resting.unseal(federation, SERVE, SimulatedClock(), entropy("4"), none)
    assert not storage_key.exists(home)
    check_content(home, None)
    for order in (resting.rotate, resting.unseal):
        with pytest.raises(FedveilError) as caught:
            order(federation, SERVE, SimulatedClock(), entropy("5"), none)
        assert caught.value.code == "storage_in_clear"


def test_what_a_copy_brought_back_in_clear_is_sealed_again(federation: Federation) -> None:
    home = federation.home
    path = home / "sums" / "run.1.1"
    before = path.read_bytes()
    resting.seal(federation, SERVE, SimulatedClock(), entropy("1"), NoFailpoints())
    path.write_bytes(before)
    key = storage_key.key_in_force(home, SERVE)
    with pytest.raises(IntegrityError) as caught:
        opened(home, key).journal.read_sum(RUN, 1)
    assert (caught.value.code, "storage seal" in caught.value.next_step) == ("not_sealed_at_rest", True)
    resting.seal(federation, SERVE, SimulatedClock(), entropy("2"), NoFailpoints())
    check_content(home, key)


@pytest.mark.parametrize("first", ["seal", "rotate", "unseal"])
@pytest.mark.parametrize("second", ["seal", "rotate", "unseal"])
def test_an_order_first_finishes_the_one_that_was_killed(federation: Federation, first: str, second: str) -> None:
    home, none = federation.home, NoFailpoints()
    orders = {"seal": resting.seal, "rotate": resting.rotate, "unseal": resting.unseal}
    if first != "seal":
        resting.seal(federation, SERVE, SimulatedClock(), entropy("1"), none)
    with pytest.raises(Killed):
        orders[first](federation, SERVE, SimulatedClock(), entropy("2"), KillAt(5))
    with pytest.raises(FedveilError) as caught:
        storage_key.key_in_force(home, SERVE)
    assert caught.value.code == "storage_unfinished"
    if (first, second) == ("unseal", "rotate"):
        with pytest.raises(FedveilError) as caught:
            resting.rotate(federation, SERVE, SimulatedClock(), entropy("3"), none)
        assert caught.value.code == "storage_in_clear"
    else:
        orders[second](federation, SERVE, SimulatedClock(), entropy("3"), none)
    key = storage_key.key_in_force(home, SERVE)
    assert (key is None) is (second == "unseal" or (first, second) == ("unseal", "rotate"))
    check_content(home, key)


def test_another_passphrase_opens_nothing_and_changes_nothing(federation: Federation) -> None:
    home = federation.home
    before = files(home)
    for order in (resting.seal, resting.rotate, resting.unseal):
        with pytest.raises(SealedError) as caught:
            order(federation, OTHER, SimulatedClock(), entropy("1"), NoFailpoints())
        assert caught.value.code == "passphrase_wrong"
    assert (files(home), storage_key.exists(home)) == (before, False)
    resting.seal(federation, SERVE, SimulatedClock(), entropy("2"), NoFailpoints())
    for given, code in ((None, "passphrase_missing"), (OTHER, "passphrase_wrong")):
        with pytest.raises(SealedError) as caught:
            storage_key.key_in_force(home, given)
        assert caught.value.code == code
    (home / storage_key.FILE).chmod(0o640)
    with pytest.raises(FedveilError) as exposed:
        storage_key.key_in_force(home, SERVE)
    assert exposed.value.code == "key_exposed"
    (home / storage_key.FILE).chmod(0o600)
    authority = (home / "authority" / "ca.key").read_bytes()
    (home / storage_key.FILE).write_bytes(authority)  # sealed for another purpose
    with pytest.raises(SealedError) as caught:
        storage_key.key_in_force(home, SERVE)
    assert caught.value.code == "passphrase_wrong"


def test_the_key_follows_the_authority_to_another_passphrase(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = federation.home
    resting.seal(federation, SERVE, SimulatedClock(), entropy("1"), NoFailpoints())
    key = storage_key.key_in_force(home, SERVE)
    with pytest.raises(SealedError):  # the authority's key is not under it: `serve` could not start
        resting.rewrap(federation, SERVE, OTHER, SimulatedClock(), entropy("2"))
    assert storage_key.key_in_force(home, SERVE) == key
    sealed = sealed_keys.open_key((home / "authority" / "ca.key").read_bytes(), SERVE, founding.AUTHORITY_PURPOSE)
    again = sealed_keys.seal_key(sealed, OTHER, founding.AUTHORITY_PURPOSE, entropy("3"))
    (home / "authority" / "ca.key").write_bytes(again)
    with pytest.raises(SealedError) as caught:
        resting.seal(federation, OTHER, SimulatedClock(), entropy("4"), NoFailpoints())
    assert "storage rewrap" in caught.value.next_step
    resting.rewrap(federation, SERVE, OTHER, SimulatedClock(), entropy("5"))
    assert storage_key.key_in_force(home, OTHER) == key
    check_content(home, key)


def test_every_folder_that_holds_files_is_converted(federation: Federation) -> None:
    """A folder that a later release adds must not be forgotten."""
    known = {"authority", "coordinator", "operator", "governance"}
    folders = {path.name for path in federation.home.iterdir() if path.is_dir()} - known
    assert folders == {converting.BLOBS, "spool", "inputs", "sums"}


def test_a_home_is_served_under_the_key_on_record_alone(federation: Federation) -> None:
    """A storage.key that is gone, or an earlier one: what is written next would lie in clear, or under the old key."""
    home, none = federation.home, NoFailpoints()

    def code() -> str:
        with contextlib.closing(opened(home, None)) as store:
            recorded = store.records.storage_on_record()
        try:
            storage_key.check_recorded(storage_key.key_in_force(home, SERVE), recorded)
        except FedveilError as error:
            return error.code
        return ""

    assert code() == ""
    resting.seal(federation, SERVE, SimulatedClock(), entropy("1"), none)
    first = (home / storage_key.FILE).read_bytes()
    assert code() == ""
    resting.rotate(federation, SERVE, SimulatedClock(), entropy("2"), none)
    second = (home / storage_key.FILE).read_bytes()
    assert code() == ""
    durable.write_file(home / storage_key.FILE, first)
    assert code() == "storage_key_replaced"
    (home / storage_key.FILE).unlink()
    assert code() == "storage_key_replaced"
    before = files(home)
    with pytest.raises(SealedError) as caught:  # nor does another key come: some files would be lost with either
        resting.seal(federation, SERVE, SimulatedClock(), entropy("3"), none)
    assert (caught.value.code, files(home), storage_key.exists(home)) == ("sealed_at_rest", before, False)
    durable.write_file(home / storage_key.FILE, second)
    assert code() == ""
    resting.unseal(federation, SERVE, SimulatedClock(), entropy("4"), none)
    assert code() == ""
    durable.write_file(home / storage_key.FILE, second)
    assert code() == "storage_key_replaced"


@pytest.mark.parametrize("order", ["seal", "rotate", "unseal"])
def test_at_every_kill_the_record_is_the_key_s_or_the_home_is_not_served(federation: Federation, order: str) -> None:
    home = federation.home
    orders = {"seal": resting.seal, "rotate": resting.rotate, "unseal": resting.unseal}
    if order != "seal":
        resting.seal(federation, SERVE, SimulatedClock(), entropy("0"), NoFailpoints())
    for count in (11, 12, 13):  # before the evidence, after it, after the record
        with pytest.raises(Killed):
            orders[order](federation, SERVE, SimulatedClock(), entropy(f"{count}"), KillAt(count))
        with pytest.raises(FedveilError) as caught:
            storage_key.key_in_force(home, SERVE)
        assert caught.value.code == "storage_unfinished"
    orders[order](federation, SERVE, SimulatedClock(), entropy("1"), NoFailpoints())
    key = storage_key.key_in_force(home, SERVE)
    with contextlib.closing(opened(home, key)) as store:
        storage_key.check_recorded(key, store.records.storage_on_record())
    check_content(home, key)


@pytest.mark.parametrize("order", ["seal", "rotate", "unseal"])
@pytest.mark.parametrize(
    "name", ["inputs/run.1.1.beta", "inputs/notes.txt", "sums/run.1.1.bak", "blobs/README", f"blobs/{7:064x}"]
)
def test_what_cannot_be_converted_is_found_before_anything_is(federation: Federation, order: str, name: str) -> None:
    """A home that was served until then is served as before."""
    home = federation.home
    orders = {"seal": resting.seal, "rotate": resting.rotate, "unseal": resting.unseal}
    if order != "seal":
        resting.seal(federation, SERVE, SimulatedClock(), entropy("1"), NoFailpoints())
    (home / name).write_bytes(b"neither in clear nor sealed")
    before, key = files(home), storage_key.key_in_force(home, SERVE)
    with pytest.raises(FedveilError) as caught:
        orders[order](federation, SERVE, SimulatedClock(), entropy("2"), NoFailpoints())
    codes = {"beta": "ring_file_damaged", "0007": "blob_damaged"}
    assert caught.value.code == codes.get(name[-4:], "unknown_file")
    assert (files(home), storage_key.key_in_force(home, SERVE)) == (before, key)


def test_serve_asks_for_the_key_on_record(federation: Federation, tmp_path: pathlib.Path) -> None:
    resting.seal(federation, SERVE, SimulatedClock(), entropy("1"), NoFailpoints())
    (federation.home / storage_key.FILE).unlink()
    with pytest.raises(FedveilError) as caught:
        serving.serve(federation.home, SERVE, real_world(), "tests", pytest.fail)
    assert caught.value.code == "storage_key_replaced"


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands_say_what_was_done_and_it_is_on_record(
    federation: Federation, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, word in (("ca.txt", SERVE), ("other.txt", OTHER)):
        (tmp_path / name).write_bytes(word.expose() + b"\n")
        (tmp_path / name).chmod(0o600)
    shown = []
    for order in ("show", "seal", "show", "rotate", "open", "show"):
        given = () if order == "show" else ("--passphrase-file", str(tmp_path / "ca.txt"))
        assert main.main(["--home", str(federation.home), "storage", order, *given, "--json"]) == 0
        shown.append(json.loads(capsys.readouterr().out)["sealed"])
    assert shown == [False, True, True, True, False, False]
    check_content(federation.home, None)
    store = opened(federation.home, None)
    rows = [(row.who, row.what, row.detail["order"]) for row in store.records.audit_rows() if "storage" in row.what]
    store.close()
    assert rows == [
        ("operator", "storage.begun", "seal"),
        ("operator", "storage.sealed", "seal"),
        ("operator", "storage.begun", "rotate"),
        ("operator", "storage.sealed", "rotate"),
        ("operator", "storage.begun", "unseal"),
        ("operator", "storage.unsealed", "unseal"),
    ]
    wrong = ("--passphrase-file", str(tmp_path / "other.txt"))
    before = files(federation.home)
    assert main.main(["--home", str(federation.home), "storage", "seal", *wrong]) == 3
    assert "[passphrase_wrong]" in capsys.readouterr().err
    assert files(federation.home) == before


def test_an_organisations_home_has_no_storage_key(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.txt").write_bytes(SERVE.expose())
    for order in ("show", "seal", "rotate", "open"):
        given = () if order == "show" else ("--passphrase-file", str(tmp_path / "ca.txt"))
        assert main.main(["--home", str(tmp_path), "storage", order, *given]) == 2
        assert "[not_an_operators_home]" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ca.txt"]
