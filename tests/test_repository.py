"""What must hold for the repository as a whole, read from its files: R5 and the static half of attack 36, names, size.

Each rule is a function on text with a test that shows that it can fail.
"""

import ast
import importlib.util
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from patience import LIMIT_S

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = [
    "common/fedveil_common",
    "coordinator/fedveil_coordinator",
    "participant/fedveil_participant",
    "simulation/fedveil_simulation",
    "cli/fedveil_cli",
]
LONGEST = 600
STATE_MACHINES = {"coordinator/fedveil_coordinator/round.py": 900, "participant/fedveil_participant/round.py": 800}
"""A state machine may be longer, because it is read from top to bottom."""
VAGUE = re.compile(r"(^|_)(utils?|helpers?|misc|manager|base|handlers?)$")
THIS = pathlib.Path(__file__).resolve()


def tracked(*suffixes: str) -> list[pathlib.Path]:
    """Files that git tracks (in an archive without git: all), by suffix; generated code is left out."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listing.stdout.split("\n") if listing.returncode == 0 else [str(p.relative_to(ROOT)) for p in sources()]
    files = [ROOT / name for name in names if name.endswith(suffixes)]
    return [path for path in files if path.is_file() and "_pb2" not in path.name]


def sources() -> list[pathlib.Path]:
    """The product's own modules, whether committed or not."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


# --- R5, attack 36: nothing that turns bytes into code ------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "compile"}


def code_from_bytes(tree: ast.AST) -> Iterator[str]:
    """Imports and calls through which data could become code."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (a.name for a in names if a.name.split(".")[0] in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in FORBIDDEN_MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                yield f"{name}()"
            case ast.Call(func=ast.Attribute(attr="load" | "unsafe_load" | "full_load" as attr), keywords=keywords):
                if attr != "load":
                    yield attr
                for keyword in keywords:
                    refused = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
                    if keyword.arg == "allow_pickle" and refused:
                        yield "allow_pickle"
            case _:
                pass


def test_rival_R5_no_bytes_become_code() -> None:
    found = {name_of(p): list(code_from_bytes(ast.parse(p.read_text()))) for p in sources()}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "yaml.unsafe_load(s)",
    ],
)
def test_code_from_bytes_is_found(text: str) -> None:
    assert list(code_from_bytes(ast.parse(text)))


def test_ordinary_code_is_not_accused() -> None:
    assert list(code_from_bytes(ast.parse("import re\nre.compile('x')\nnp.load(f, allow_pickle=False)"))) == []


# --- modules: names, size, imports ------------------------------------------------


def test_modules_are_nouns_of_the_domain() -> None:
    vague = [name_of(p) for p in sources() if VAGUE.search(p.stem) or VAGUE.search(p.parent.name)]
    assert vague == []
    assert VAGUE.search("crypto_utils")
    assert not VAGUE.search("database")


def test_no_file_holds_more_than_one_idea() -> None:
    sizes = {name_of(p): p.read_text().count("\n") for p in tracked(".py")}
    assert {name: size for name, size in sizes.items() if size > STATE_MACHINES.get(name, LONGEST)} == {}


def test_modules_say_why_they_exist() -> None:
    silent = [
        name_of(p) for p in sources() if p.read_text().strip() and ast.get_docstring(ast.parse(p.read_text())) is None
    ]
    assert silent == []


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of everything imported absolutely."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name.split(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                names.add(module.split(".")[0])
            case _:
                pass
    return names


def test_the_reference_imports_nothing_of_fedveil() -> None:
    """The second implementation would prove nothing if it shared code with the first."""
    for path in (ROOT / "tests" / "reference").rglob("*.py"):
        names = imported(ast.parse(path.read_text()))
        assert not {name for name in names if name.startswith("fedveil")}, name_of(path)
        assert "importlib" not in names, name_of(path)


DISTRIBUTIONS = {
    "google": "protobuf",
    "grpc": "grpcio",
    "pydantic_core": "pydantic",
    "grpc_health": "grpcio-health-checking",
    "yaml": "pyyaml",
    "ffx": "libffx",
}


def pins(path: pathlib.Path) -> dict[str, str]:
    """Distribution -> version of a hashed requirements file."""
    found = re.findall(r"(?m)^([A-Za-z0-9_.-]+)==([^\s\\;]+)", path.read_text())
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_the_product_imports_only_what_it_declares() -> None:
    declared = {
        re.split(r"[<>=!~\[ ]", text)[0].lower()
        for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    }
    foreign: dict[str, str] = {}
    for path in sources():
        for name in imported(ast.parse(path.read_text())):
            if name in sys.stdlib_module_names or name.startswith("fedveil"):
                continue
            distribution = DISTRIBUTIONS.get(name, name.replace("_", "-"))
            if distribution not in declared:
                foreign[name_of(path)] = name
    assert foreign == {}


# --- requirements, texts ----------


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "bootstrap.txt"])
def test_requirements_are_hashed_and_name_no_index(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"(?m)^\s*-|https?://|pypi|index", re.sub(r"(?m)^\s*--hash=\S+", "", text))
    entries = re.split(r"(?m)^(?=[A-Za-z])", text)[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


def test_both_requirement_files_pin_the_same_versions() -> None:
    run, dev = (pins(ROOT / "requirements" / name) for name in ("run.txt", "dev.txt"))
    assert {name: dev.get(name) for name in run} == run


WORKPLACE = re.compile(
    r"(?<![\w./-])/(work|tmp|farm|root|home/\w+)/|\bshared/design|pythonhosted|pypi\.org|deb\.debian\.org"
)


def test_no_file_names_the_place_where_it_was_written() -> None:
    files = tracked(
        ".py", ".md", ".toml", ".yaml", ".yml", ".proto", ".service", ".txt", ".in", "Makefile", "Dockerfile", "run"
    )
    found = {
        name_of(p): hits.group(0) for p in files if p.resolve() != THIS and (hits := WORKPLACE.search(p.read_text()))
    }
    assert found == {}
    assert WORKPLACE.search("open('/tmp/x')")


def test_the_changelog_has_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def fenced(text: str) -> str:
    """The indented and fenced blocks of a Markdown text."""
    return "\n".join(re.findall(r"(?ms)^```.*?^```|^ {4}\S.*?$", text))


def test_commands_in_the_readme_exist() -> None:
    from fedveil_cli.main import commands

    known = set(commands().commands)
    named = set(re.findall(r"(?m)(?:^|\$)\s*fedveil ([a-z]+)", fenced((ROOT / "README.md").read_text())))
    assert {"init", "serve", "invite", "join", "participate", "run"} <= named
    assert named <= known, named - known


def test_makefile_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for text in ("README.md", "CONTRIBUTING.md", "deploy/README.md"):
        named = set(re.findall(r"(?m)(?:^|`|\s{4})make ([a-z-]+)", (ROOT / text).read_text()))
        assert named <= targets, text


def test_relative_links_lead_somewhere() -> None:
    broken = []
    for path in tracked(".md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{name_of(path)}: {target}")
    assert broken == []


# --- error codes ------------------------------------------------


def test_every_error_code_has_its_row() -> None:
    """After a new error: `make errors`."""
    command = [sys.executable, str(ROOT / "docs" / "errors" / "table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr


def test_error_codes_are_read_from_source() -> None:
    spec = importlib.util.spec_from_file_location("error_table", ROOT / "docs" / "errors" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    sys.modules["error_table"] = table  # dataclasses look their module up
    spec.loader.exec_module(table)
    classes = table.exit_codes((ROOT / "common/fedveil_common/errors.py").read_text())
    assert classes["PeerError"] == 5
    assert classes["FedveilError"] == 70
    source = 'raise PeerError("bad_x", f"{n} of 3")\nraise errors.ConfigError("bad_y", "w", next_step="do")'
    found = {(use.code, use.exit_code, use.what, use.next_step) for use in table.uses(source, classes)}
    assert found == {("bad_x", 5, "... of 3", ""), ("bad_y", 2, "w", "do")}


# --- skips ----------


def test_each_allowed_skip_names_a_test_that_exists() -> None:
    for line in (ROOT / "tests" / "ALLOWED_SKIPS").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, separator, reason = (part.strip() for part in line.partition("|"))
            assert separator, line
            assert reason, line
            assert (ROOT / pattern.split("::")[0]).exists(), line


SKIPPING = {
    "called": "import pytest\ndef test_a():\n    pytest.skip('why')\n",
    "marked": "import pytest\n@pytest.mark.skip(reason='why')\ndef test_a(): pass\n",
    "expected": "import pytest\n@pytest.mark.xfail\ndef test_a(): assert False\n",
    "module": "import pytest\npytest.skip('why', allow_module_level=True)\n",
}


def test_an_unlisted_skip_fails(tmp_path: pathlib.Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    for name, body in SKIPPING.items():
        (tmp_path / f"test_{name}.py").write_text(body)
    (tmp_path / "ALLOWED_SKIPS").write_text("# none\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    command += ["--rootdir", str(tmp_path), "--continue-on-collection-errors", "-rfE", "--strict-skips", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 1
    last = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    assert sorted(pathlib.Path(line.split()[1].partition("::")[0]).name for line in last) == sorted(
        f"test_{name}.py" for name in SKIPPING
    )
    (tmp_path / "ALLOWED_SKIPS").write_text("test_*.py* | a reason\n")
    assert subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S).returncode == 0


def test_the_plan_in_the_readme_is_a_plan() -> None:
    from fedveil_common.plan import parse_plan

    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", text)
    assert parse_plan(block.encode(), "README.md").name == "sepsis-risk"
