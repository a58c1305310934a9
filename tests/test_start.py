"""What a command loads before it works, and that commands made when they are asked for are those that typer makes."""

import copy
import importlib
import io
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from fedveil_cli import command_tree, main, output, plain_words
from fedveil_cli.world import SystemEntropy
from fedveil_common.sealing import key_files
from hypothesis import given
from hypothesis import strategies as st
from typer import Context
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from tests import model_samples

ARITHMETIC = ("numpy", "gmpy2", "pyarrow")
SERVICES = ("grpc", "google.protobuf", "sqlalchemy", "alembic", "uvicorn", "starlette", "structlog", "asyncio", "ssl")
TYPES = ("pydantic", "rich", "yaml")
CRYPTOGRAPHY = ("cryptography",)

NOT_LOADED = {
    "version": (*ARITHMETIC, *SERVICES, *TYPES, *CRYPTOGRAPHY),
    "--help": (*ARITHMETIC, *SERVICES, *TYPES, *CRYPTOGRAPHY),
    "model --help": (*ARITHMETIC, *SERVICES, *TYPES, *CRYPTOGRAPHY),
    "data key --out new": (*ARITHMETIC, *SERVICES, *TYPES),
    "data seal m.safetensors --to bob.pub --out s": (*ARITHMETIC, *SERVICES, *TYPES),
    "data open d.sealed --key bob.key --out s": (*ARITHMETIC, *SERVICES, *TYPES),
    "data show d.sealed": (*ARITHMETIC, *SERVICES, *TYPES),
    "model seal m.safetensors --for bob.pub --out s": (*ARITHMETIC, *SERVICES, *TYPES),
    "model rewrap m.sealed --key bob.key --for bob.pub --out s": (*ARITHMETIC, *SERVICES, *TYPES),
    f"model open m.sealed --key bob.key --fingerprint {model_samples.OURS.fingerprint.hex()} --out s": SERVICES,
    f"model verify m.safetensors --fingerprint {model_samples.OURS.fingerprint.hex()}": SERVICES,
}
"""A command that succeeds -> modules that it must not wait for."""

LOADED = """
import sys
from fedveil_cli.main import main
code = main(sys.argv[2:])
print(*sorted(name for name in sys.argv[1].split(",") if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a model, somebody's keys, and both a model and a file sealed for them."""
    folder = tmp_path_factory.mktemp("place")
    plan = model_samples.plan_for("logistic", "binary", "federated")
    (folder / "m.safetensors").write_bytes(model_samples.signed_bytes(plan))
    bob = key_files.new_x25519(SystemEntropy())
    (folder / "bob.key").write_bytes(key_files.private_pem(bob, None))
    (folder / "bob.pub").write_bytes(key_files.public_pem(bob.public_key()))
    model, key = str(folder / "m.safetensors"), str(folder / "bob.pub")
    assert main.main(["model", "seal", model, "--for", key, "--out", str(folder / "m.sealed")]) == 0
    assert main.main(["data", "seal", model, "--to", key, "--out", str(folder / "d.sealed")]) == 0
    return folder


@pytest.mark.parametrize("line", NOT_LOADED)
def test_a_command_loads_what_it_needs(line: str, place: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, ",".join(NOT_LOADED[line]), *line.split()],
        cwd=place,
        env={**os.environ, "FEDVEIL_HOME": str(place / "nobody")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == ""


def test_only_the_module_of_a_command_is_loaded() -> None:
    code = (
        "import sys; from fedveil_cli import main; main.commands().commands['storage']; "
        "print(*sorted(name for name in sys.modules if name.startswith('fedveil_cli.commands_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["fedveil_cli.commands_storage"]


def test_no_garbage_is_looked_for_at_the_end() -> None:
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count(), len(gc.get_objects()))); "
        "import fedveil_cli.main"
    )  # what is registered first is called last
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    frozen, left = map(int, done.stdout.split())
    assert frozen > 100 * left


# --- the same commands as typer's -------------------------------------------------------------------------------------


def eager() -> TyperGroup:
    """The whole program as typer builds it, from what the same modules register."""
    whole = copy.copy(main.app)
    whole.registered_commands, whole.registered_groups = [], []
    for module in dict.fromkeys(module for module, _ in main.CONTENTS):
        importlib.import_module(f"fedveil_cli.{module}").register(whole)
    order = [name for _, names in main.CONTENTS for name in names.split()]
    whole.registered_groups.sort(key=lambda one: order.index(str(one.name)))
    made = get_command(whole)
    assert isinstance(made, TyperGroup)
    return made


@dataclass(frozen=True)
class Twins:
    """A command as typer builds it and as the program has it, each with what it would be called in."""

    path: tuple[str, ...]
    theirs: Any
    ours: Any
    theirs_in: Context
    ours_in: Context

    def below(self) -> "Iterator[Twins]":
        """Itself and all that is under it."""
        yield self
        for name in getattr(self.theirs, "commands", ()):
            theirs, ours = self.theirs.commands[name], self.ours.commands[name]
            yield from Twins(
                (*self.path, name),
                theirs,
                ours,
                Context(theirs, info_name=name, parent=self.theirs_in),
                Context(ours, info_name=name, parent=self.ours_in),
            ).below()


def twins() -> list[Twins]:
    theirs, ours = eager(), main.commands()
    return list(
        Twins((), theirs, ours, Context(theirs, info_name="fedveil"), Context(ours, info_name="fedveil")).below()
    )


def test_each_name_is_in_the_module_that_contents_names() -> None:
    for module in dict.fromkeys(module for module, _ in main.CONTENTS):
        registered = copy.copy(main.app)
        registered.registered_commands, registered.registered_groups = [], []
        importlib.import_module(f"fedveil_cli.{module}").register(registered)
        made = get_command(registered)
        assert isinstance(made, TyperGroup)
        named = [name for place, names in main.CONTENTS if place == module for name in names.split()]
        assert list(made.commands) == named, module


def function(command: Any) -> tuple[str, str] | None:
    """Which function a command calls; a group has none."""
    called = getattr(command.callback, "__wrapped__", None)
    return called and (called.__module__, called.__qualname__)


def test_every_command_is_what_typer_makes_of_it() -> None:
    aside = {"commands", "callback", "params", "_help_option"}
    pairs = twins()
    assert len(pairs) > 100
    for pair in pairs:
        theirs, ours = ({n: v for n, v in vars(one).items() if n not in aside} for one in (pair.theirs, pair.ours))
        assert ours == theirs, pair.path
        assert pair.ours.get_help(pair.ours_in) == pair.theirs.get_help(pair.theirs_in), pair.path
        assert function(pair.ours) == function(pair.theirs), pair.path
        assert list(getattr(pair.ours, "commands", ())) == list(getattr(pair.theirs, "commands", ()))


def outcome(parameter: Any, context: Context, value: object) -> tuple[str, object]:
    """What a command would be given for a value, or why it is not."""
    try:
        found = parameter.process_value(context, value)
    except (TyperException, ValueError) as error:
        return type(error).__name__, str(error)
    if isinstance(found, list | tuple) and not found:
        return "none", None  # typer hands both on as none, or as an empty list
    return type(found).__name__, [(type(one).__name__, one) for one in (found if isinstance(found, list) else [found])]


def same_values(words: Sequence[object]) -> int:
    """How many words every parameter of every command takes, or refuses, as typer does."""
    count = 0
    for pair in twins():
        ours = pair.ours.get_params(pair.ours_in)
        for mine, other in zip(ours, pair.theirs.get_params(pair.theirs_in), strict=True):
            assert type(mine) in {plain_words.Option, plain_words.Argument}
            many = other.multiple or other.nargs != 1
            for word in words:
                value = [word] if many and word is not None else word
                assert outcome(mine, pair.ours_in, value) == outcome(other, pair.theirs_in, value), (pair.path, word)
                count += 1
    return count


def test_every_parameter_takes_what_typer_s_takes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDVEIL_HOME", "nowhere")
    pathlib.Path("there").write_text("x")
    given = (
        None,
        "",
        "x",
        "a b",
        "-",
        "0",
        "7",
        "-3",
        "1e3",
        "onnx",
        "1/2",
        "größe",
        "~",
        "there",
        ".",
        "\udcff",
        "\ud800",
        "\0",
        7,
        0.5,
    )
    assert same_values(given) > 5000


def test_a_file_that_may_not_be_read_is_refused_as_by_typer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("there").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main.main(["plan", "check", "there"]) == 2
    assert same_values(["there", "nowhere"]) > 500


def test_what_a_declaration_asks_of_a_path_is_asked() -> None:
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    def look(
        file: Annotated[pathlib.Path, typer.Option("--file", exists=True)],
        folder: Annotated[pathlib.Path, typer.Option("--folder", file_okay=False)] = pathlib.Path(),
    ) -> None:
        """Look."""

    group = command_tree.tree(app, {})
    for line in ("look --file nowhere", f"look --file {__file__} --folder {__file__}"):
        with pytest.raises(typer.BadParameter):
            group.main(line.split(), standalone_mode=False)
    assert group.main(["look", "--file", __file__], standalone_mode=False) is None


# --- tables -----------------------------------------------------------------------------------------------------------

CELLS = st.text(st.sampled_from(" abc-_/:=[]\\\t\n\x1b~é東"), max_size=30)


@st.composite
def tables(draw: st.DrawFn) -> output.TextTable:
    row = st.lists(CELLS, min_size=(width := draw(st.integers(1, 4))), max_size=width)
    return output.TextTable(draw(row), draw(st.lists(row, max_size=4)))


def shown(table: output.TextTable, encoding: str, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    output.Output(as_json=False).result({}, [table])
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]  # it is a BytesIO


@given(tables(), st.sampled_from(["utf-8", "ascii"]))
def test_a_table_is_the_same_without_what_draws_it(table: output.TextTable, encoding: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ours = shown(table, encoding, patch)
        patch.setattr(output, "_unfolded", lambda table, stream: [])
        assert shown(table, encoding, patch) == ours


def test_a_table_of_ascii_is_drawn_here() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "rich.console", None)
        assert shown(output.TextTable(("a", "bc"), [("1", "2")]), "utf-8", patch) == "a   bc\n──────\n1   2 \n"
        with pytest.raises(ModuleNotFoundError):
            shown(output.TextTable(("ä",), []), "utf-8", patch)
