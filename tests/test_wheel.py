"""The one wheel holds everything that the roots hold, data files included, and the command runs from it alone."""

import pathlib
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from patience import LIMIT_S

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = [
    "proto/fedveil",
    "common/fedveil_common",
    "coordinator/fedveil_coordinator",
    "participant/fedveil_participant",
    "simulation/fedveil_simulation",
    "cli/fedveil_cli",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    hatchling = pathlib.Path(sysconfig.get_path("scripts")) / "hatchling"
    command = [str(hatchling), "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=LIMIT_S)
    (made,) = folder.glob("fedveil-*.whl")
    return made


def test_the_wheel_holds_every_file_of_the_roots(wheel: pathlib.Path) -> None:
    expected = {
        path.relative_to((ROOT / package).parent).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected
    for package in PACKAGES[1:]:
        assert f"{pathlib.Path(package).name}/py.typed" in held


def test_the_wheel_brings_its_licence_and_no_test(wheel: pathlib.Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "deploy/"))]


def test_rival_R21_the_command_runs_from_the_unpacked_wheel(wheel: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Isolated mode keeps the working tree out; only the unpacked wheel stands before the installed dependencies."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import fedveil_cli.main as command, fedveil_common\n"
        f"assert fedveil_common.__file__.startswith({str(tmp_path)!r}), fedveil_common.__file__\n"
        "sys.argv = ['fedveil', 'version']\n"
        "sys.exit(command.main())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0.1.0" in done.stdout
