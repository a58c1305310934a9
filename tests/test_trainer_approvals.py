"""What an organisation approves when it approves a trainer: its code and all that is said about it."""

import os
import pathlib
import stat
from collections.abc import Callable
from dataclasses import replace

import pytest
from confinements import best
from fedveil_cli.house_bindings import HouseBindings
from fedveil_common.errors import LocalRefusal
from fedveil_common.plan import canonical, plan_hash
from fedveil_participant.data.folder import table_files
from fedveil_participant.data.registration import FileSource, Registration
from fedveil_participant.store.trainer_files import ApprovalFile
from fedveil_participant.training import code_tree
from fedveil_participant.training.own_trainer import MemoryApprovals, TrainerConfig, Trainers
from test_own_trainers import MIB, PLAN, Bench, LookedAt


def a_changed_byte(code: pathlib.Path) -> None:
    (code / "a.py").write_text("x = 2\n")


def another_name(code: pathlib.Path) -> None:
    (code / "a.py").rename(code / "b.py")


def one_more_file(code: pathlib.Path) -> None:
    (code / "sub" / "new.py").touch()


@pytest.mark.parametrize("change", [a_changed_byte, another_name, one_more_file])
def test_the_digest_is_of_names_and_bytes(tmp_path: pathlib.Path, change: Callable[[pathlib.Path], None]) -> None:
    code = tmp_path / "code"
    (code / "sub").mkdir(parents=True)
    (code / "a.py").write_text("x = 1\n")
    (code / "sub" / "c.py").touch()
    before = code_tree.digest(code)
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    os.utime(code / "a.py", (1, 1))
    assert code_tree.digest(code) == before == code_tree.copy(code, tmp_path / "copy")
    assert not (tmp_path / "copy" / "__pycache__").exists()
    assert stat.S_IMODE((tmp_path / "copy" / "a.py").stat().st_mode) == 0o400
    change(code)
    assert code_tree.digest(code) != before


def test_links_and_pipes_are_no_code(tmp_path: pathlib.Path) -> None:
    for number, make in enumerate(
        (lambda p: p.symlink_to("/etc/hostname"), lambda p: p.symlink_to("/etc"), os.mkfifo, None)
    ):
        code = tmp_path / str(number)
        code.mkdir()
        if make is not None:
            (code / "a.py").touch()
            assert code_tree.digest(code)
            make(code / "b.py")
        with pytest.raises(LocalRefusal) as caught:
            code_tree.digest(code)
        assert caught.value.code == "trainer_code"


def test_the_approved_digest_outlives_the_process(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, "class Own: pass\n")
    configs = {"risk": (bench.config, best())}

    def accept() -> None:
        Trainers(configs, ApprovalFile(tmp_path), LookedAt(), lambda name, data: None).accept(PLAN)

    accept()
    accept()
    (bench.code / "own.py").write_text("class Own: y = 1\n")
    with pytest.raises(LocalRefusal) as caught:
        accept()
    assert caught.value.code == "trainer_changed"
    ApprovalFile(tmp_path).put(plan_hash(canonical(PLAN)), bench.config.digest(code_tree.digest(bench.code)))
    accept()
    with pytest.raises(LocalRefusal) as caught:
        Trainers({}, ApprovalFile(tmp_path), LookedAt(), lambda name, data: None).accept(PLAN)
    assert caught.value.code == "trainer_missing"
    path = tmp_path / "trainers" / "approved.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "said",
    [
        {"entry": "own:Other"},
        {"python": "/usr/bin/python3"},
        {"adapter": "flower"},
        {"more": {"node_config": {"rate": 2}}},
        {"memory_bytes": MIB * 256},
        {"rows_at_once": 1},
        {"scratch_bytes": MIB},
    ],
)
def test_what_is_approved_is_the_description_too(tmp_path: pathlib.Path, said: dict[str, object]) -> None:
    """The same code entered elsewhere, by another interpreter or with other settings, is another trainer."""
    bench, approvals = Bench(tmp_path, "class Own: pass\nclass Other: pass\n"), MemoryApprovals()

    def accept(config: TrainerConfig) -> None:
        Trainers({"risk": (config, best())}, approvals, LookedAt(), lambda name, data: None).accept(PLAN)

    accept(bench.config)
    moved = replace(bench.config, name="hazard", code=bench.code.rename(tmp_path / "elsewhere"))
    accept(moved)
    with pytest.raises(LocalRefusal) as caught:
        accept(replace(moved, **said))  # type: ignore[arg-type]
    assert caught.value.code == "trainer_changed"
    assert "fedveil approve PLAN_HASH" in caught.value.next_step


def test_an_approval_of_a_plan_is_for_the_trainer_that_runs_here(tmp_path: pathlib.Path) -> None:
    bench, digest = Bench(tmp_path, "class Own: pass\n"), plan_hash(canonical(PLAN))
    name = PLAN.data.dataset
    table = tmp_path / "table.csv"
    table.write_text("a\n1\n")

    def house(config: TrainerConfig) -> HouseBindings:
        known = {name: Registration(name, FileSource(table))}
        return HouseBindings(lambda: known, lambda one: table_files(table), {"risk": config}, ApprovalFile(tmp_path))

    first, other = house(bench.config), house(replace(bench.config, entry="own:Other"))
    one, two = first.of(PLAN).trainer, other.of(PLAN).trainer
    assert one == bench.config.digest(code_tree.digest(bench.code)) != two
    assert first.trainer_known(digest, one)
    first.trainer_approved(digest, one)
    other = house(replace(bench.config, entry="own:Other"))  # as after a restart
    assert (other.trainer_known(digest, one), other.trainer_known(digest, two)) == (True, False)
    other.trainer_approved(digest, two)
    assert ApprovalFile(tmp_path).get(digest) == two
    assert house(bench.config).trainer_known(bytes(32), one), "another plan has met none yet"
