"""The second implementation: independent of the product, and the source of the committed vectors byte for byte."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
REFERENCE = sorted((HERE / "reference").glob("*.py"))
ALLOWED = {"base64", "collections", "fractions", "functools", "hashlib", "hmac", "itertools", "json", "math", "pathlib"}
ALLOWED |= {"struct", "sys", "tests", "zlib"}


def imported(source: str) -> set[str]:
    """The modules that a source text imports, in full."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {name.name for name in names}
            case ast.ImportFrom(module=module, level=level):
                assert level == 0
                assert module
                found.add(module)
            case ast.Call(func=ast.Name(id="__import__" | "exec" | "eval")):
                found.add("dynamic")
    return found


def test_imported_sees_what_it_should() -> None:
    text = "import numpy as np\nfrom fedveil_common.crypto import prg\ndef f():\n    import os\n    __import__('x')"
    assert imported(text) == {"numpy", "fedveil_common.crypto", "os", "dynamic"}


@pytest.mark.parametrize("path", REFERENCE, ids=lambda p: p.name)
def test_reference_imports_nothing_but_itself_and_the_standard_library(path: pathlib.Path) -> None:
    modules = imported(path.read_text(encoding="utf-8"))
    assert {module.split(".")[0] for module in modules} <= ALLOWED
    assert all(module.startswith("tests.reference") for module in modules if module.split(".")[0] == "tests")


def test_regenerating_gives_the_committed_bytes(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "tests.reference.generate", str(tmp_path)]
    subprocess.run(command, cwd=HERE.parent, check=True, timeout=300)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written
    for name, content in written.items():
        assert content == (HERE / "vectors" / name).read_bytes(), f"{name}: run python -m tests.reference.generate"


def test_a_quarter_of_the_vectors_are_failures_that_name_their_step() -> None:
    cases = [
        case
        for name in ("crypto", "shares", "masking", "transcript")
        for section in json.loads((HERE / "vectors" / f"{name}.json").read_text()).values()
        if isinstance(section, list)
        for case in section
    ]
    failures = [case for case in cases if "fails_at" in case]
    assert all(case["fails_at"] and case["code"] and "out" not in case for case in failures)
    assert 4 * len(failures) >= len(cases) > 100
