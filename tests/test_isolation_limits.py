"""What a trainer cannot fill: disk, memory, processes; and that nothing of it is left when its call ends."""

import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
from fedveil_participant.isolation import consumption
from fedveil_participant.isolation.levels import Confinement, Isolation
from fedveil_participant.training import child, scratch
from trainer_house import LEVELS, MIB, House, one_that_holds, open_to_everybody


@pytest.fixture(params=LEVELS, ids=lambda level: level.value)
def held(request: pytest.FixtureRequest) -> Confinement:
    """Each level that is here."""
    return one_that_holds(request.param)


@pytest.fixture
def house() -> Iterator[House]:
    with open_to_everybody() as made:
        yield made


def test_it_fills_no_disk(held: Confinement, house: House) -> None:
    """One file, many files, and files that are open and have no name any more."""
    one_file = """
    def fill(path):
        with open(path, "wb", buffering=0) as stream:
            for _ in range(64):
                stream.write(bytes(1 << 20))
    for folder in (".", "/tmp", "/dev/shm"):
        say(how(fill, os.path.join(folder, "large")))
    """
    found = house.said(held, one_file)
    assert set(found) <= {"EFBIG", "ENOSPC", "EACCES"}
    assert found[0] != "EACCES"
    house.log.clear()
    many = """
    kept = []
    def fill():
        for number in range(256):
            stream = open(f"part-{number}", "wb", buffering=0)
            kept.append(stream)
            stream.write(bytes(1 << 20))
            os.unlink(f"part-{number}")
    say(how(fill))
    time.sleep(100)
    """
    if held.level is Isolation.BWRAP:
        assert house.said(held, many.replace("time.sleep(100)", "")) == ["ENOSPC"]
    else:
        assert "its working folder holds" in house.ended(held, many)


def test_it_fills_no_memory(held: Confinement, house: House) -> None:
    """One process by its address space; many together, or what they share, by what they hold."""
    alone = house.said(held, "say(how(lambda: np.ones(1 << 28)))", memory_mib=512)
    assert alone == ["ENOMEM"]
    house.log.clear()
    together = """
    for _ in range(8):
        if not os.fork():
            held = np.ones(200 << 17)  # 200 MiB each, below the bound of one
            time.sleep(100)
    time.sleep(100)
    """
    assert "in memory, and may hold 512" in house.ended(held, together, memory_mib=512)


def test_memory_that_processes_share_counts_once(held: Confinement, house: House) -> None:
    body = """
    held = np.ones(200 << 17)
    children = []
    for _ in range(6):
        child = os.fork()
        if not child:
            time.sleep(0.5)
            os._exit(0)
        children.append(child)
    say([os.waitpid(child, 0)[1] for child in children])
    """
    assert house.said(held, body, memory_mib=768) == [[0] * 6]


def test_it_starts_only_so_many_processes(held: Confinement, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes and threads; all are gone when the call ends, those that left its group and session too."""
    monkeypatch.setattr(child, "PROCESSES", 20)
    found = house.said(
        held,
        """
        count = 0
        try:
            while count < 200:
                if not os.fork():
                    os.setsid()
                    if not os.fork():
                        time.sleep(1000)
                    os._exit(0)
                count += 1
                os.wait()
        except OSError as error:
            say(errno.errorcode[error.errno])
        say(count)
        """,
    )
    assert found[0] == "EAGAIN"
    assert isinstance(found[1], int)
    assert 5 <= found[1] <= 20


def test_a_fork_bomb_ends_with_the_call(held: Confinement, house: House) -> None:
    """Every process starts another and ends, so that there is never the same one to kill."""
    found = house.said(
        held,
        """
        if not os.fork():
            os.setsid()
            while True:
                try:
                    if os.fork():
                        os._exit(0)
                except OSError:
                    pass
        say("left")
        """,
    )
    assert found == ["left"]


def test_the_folder_goes_whatever_is_in_it(held: Confinement, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    place = house.home.parent / "temporary"
    place.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    house.said(
        held,
        """
        os.mkdir("closed", 0)
        os.symlink("/etc", "out")
        how(os.mkfifo, "pipe")
        for _ in range(1200):  # deeper than a path can say
            os.mkdir("d")
            os.chdir("d")
        """,
    )
    assert not list(place.iterdir())


def test_removing_follows_no_link_and_needs_no_path(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folder = tmp_path / "scratch"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "link").symlink_to(outside)
    (folder / "link").symlink_to(outside)
    (folder / ".lifted-0").mkdir()
    (folder / ".lifted-0" / "full").touch()
    here = os.getcwd()
    try:
        os.chdir(folder)
        for _ in range(3000):
            os.mkdir("d", 0o700)
            os.chdir("d")
    finally:
        os.chdir(here)
    scratch.remove(folder)
    assert not folder.exists()
    assert (outside / "kept").read_text() == "kept"


def test_what_a_tree_of_processes_holds_is_counted(tmp_path: pathlib.Path) -> None:
    """Against what this process knows of itself: a file with a name, one without, and one that is only mapped."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "named").write_bytes(bytes(MIB))
    with (tmp_path / "nameless").open("w+b") as stream:
        stream.write(bytes(2 * MIB))
        stream.flush()
        (tmp_path / "nameless").unlink()
        held, entries = consumption.disk_held([os.getpid()], tmp_path)
    assert 3 * MIB <= held < 3 * MIB + 65536
    assert entries == 2
    assert consumption.disk_held([os.getpid()], tmp_path)[0] < MIB + 65536
    mapped = np.memmap(tmp_path / "mapped", dtype=np.uint8, mode="w+", shape=(4 * MIB,))
    mapped[:] = 1
    (tmp_path / "mapped").unlink()
    assert consumption.disk_held([os.getpid()], tmp_path)[0] >= 5 * MIB
    block = np.ones(8 * MIB)
    held = consumption.memory_held([os.getpid()], 0)
    assert block.nbytes <= held <= consumption.memory_held([os.getpid()], 1 << 60)
