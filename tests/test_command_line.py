"""The command `fedveil` from outside: stdout, stderr and exit code of real processes, and of `main` in this one."""

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
import typer
from fedveil_cli import command_tree, demo_split, main, options, output, registry_commands, reserved
from fedveil_common.errors import FedveilError, IntegrityError, PeerError, PolicyRefusal, RoundAborted, Unreachable
from patience import LIMIT_S

PLAN = pathlib.Path(str(demo_split.__file__)).with_name("demo_plan.yaml")


def fedveil(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """One real process without a terminal, with nothing of ours in its environment but what is given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FEDVEIL_", "CREDENTIALS"))}
    return subprocess.run(
        [sys.executable, "-m", "fedveil_cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=inherited | environment,
    )


def commands() -> Iterator[tuple[str, ...]]:
    """Every command that can be typed, groups not."""
    yield from _commands_of(main.commands(), ())


def _commands_of(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    group: Mapping[str, object] | None = getattr(command, "commands", None)
    if group is None:
        yield path
        return
    for name, member in group.items():
        yield from _commands_of(member, (*path, name))


# --- names ----------

PROMISED = """
demo, simulate, version, doctor, plan check, plan explain, model verify, predict, verify, init, serve, invite,
revoke, fingerprint, status, run start, run list, run show, run watch, run pause, run resume, run abort, round
show, round close, backup, unseal, join, participate, leave, pause, resume, pending, show,
data key, data seal, data open, data rewrap, data show, data add, data list, data mask, data check, data preview,
 data masking-key, data unmask,
data forget, data exclude,
approve, deny, policy check, outbox, budget show, budget set, budget history, budget record,
budget carry, model list, model show, model diff,
model export, model promote, model withdraw, model seal, model open, renew, report, health, export,
roster show, roster confirm,
model retire, model rollback, model countersign,
 model rewrap, model card, model jws sign, model jws verify, model jwe wrap,
model jwe open, governance key, governance show, governance propose, governance sign,
governance publish, governance rotate, governance follow, ca rotate, ca retire,
storage show, storage seal, storage rotate, storage open, storage rewrap, key deal, key adopt, key show, key pair,
key import-phe, key export-phe, key terms, key holders start, key holders take, key holders show, key refresh start,
key refresh take, key refresh adopt, key pin, key publish, answers, audit show, audit verify, audit export
"""


def test_exactly_the_promised_names_exist() -> None:
    wanted = {" ".join(name.split()) for name in PROMISED.split(",")}
    assert {" ".join(path) for path in commands()} == wanted


def test_each_reserved_name_says_which_release_brings_it(capsys: pytest.CaptureFixture[str]) -> None:
    for name, release in reserved.COMMANDS.items():
        for further in ((), ("create", "--to", "x"), ("RUN", "7", "--json")):
            code = main.main([*name.split(), *further])
            out, err = capsys.readouterr()
            assert (code, out) == (2, ""), name
            if "--json" in further:
                err = json.loads(err)["error"]["what"]
            else:
                assert "[not_in_this_release]" in err
            assert f"`fedveil {name}` comes with release {release}" in err


def test_reserved_options_of_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (
        "init f --address h --recover",
        "invite acme --confirm",
    ):
        assert main.main([*line.split(), "--json"]) == 2
        assert error_of(capsys.readouterr().err)["code"] == "not_in_this_release", line


def test_noise_of_the_demo_that_nobody_adds(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("demo --noise coordinator", "demo --noise nobody", "demo --protection masked --noise coordinator"):
        assert main.main(line.split()) == 2
        assert "--noise" in capsys.readouterr().err


def test_every_command_has_json_and_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for path in commands():
        assert main.main([*path, "--help"]) == 0
        help_text = capsys.readouterr().out
        assert f"Example: fedveil {' '.join(path)}" in " ".join(help_text.split()), path
        if " ".join(path) not in reserved.COMMANDS:
            assert "--json" in help_text, path


def test_examples_use_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for path in commands():
        main.main([*path, "--help"])
        before, _, shown = capsys.readouterr().out.partition("Example: ")
        assert set(re.findall(r"--[a-z-]+", shown)) <= set(re.findall(r"--[a-z-]+", before)), path


def test_the_page_of_commands_is_that_of_the_program() -> None:
    page = (pathlib.Path(__file__).parent.parent / "docs" / "commands.md").read_text()
    now, _, later = page.partition("## Names of later releases")
    here = {" ".join(path) for path in commands()} - set(reserved.COMMANDS)
    assert set(re.findall(r"(?m)^\| `([a-z -]+)` \|", now)) == here
    for release, names in re.findall(r"(?m)^\| (0\.[0-9]) \| (.*) \|$", later):
        assert set(re.findall(r"`([a-z ]+)`", names)) == {n for n, r in reserved.COMMANDS.items() if r == release}
    for path in sorted(here):
        command: object = main.commands()
        for name in path.split():
            command = getattr(command, "commands")[name]  # noqa: B009
        shown = str(getattr(command, "epilog")).removeprefix("Example: ")  # noqa: B009
        assert f"| `{shown}` |" in now, path


# --- version ----------


def test_version_is_that_of_the_package() -> None:
    done = fedveil("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(fedveil("version", "--json").stdout)) == {"version", "protocol", "python"}
    assert re.match(r"fedveil [0-9]+\.[0-9]+\.[0-9]+\n", done.stdout)


def test_json_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--json", "version"]) == 0
    before = capsys.readouterr().out
    assert main.main(["version", "--json"]) == 0
    assert before == capsys.readouterr().out
    assert json.loads(before)


# --- failures ----------


def error_of(stderr: str) -> dict[str, str]:
    """The one JSON error on stderr."""
    (line,) = stderr.splitlines()
    value: dict[str, dict[str, str]] = json.loads(line)
    assert set(value) == {"error"}
    assert set(value["error"]) == {"code", "what", "not_done", "next"}
    return value["error"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "run",
        "nonsense",
        "version --nonsense",
        "plan check",
        "round show RUN zero",
        "round show RUN 0",
        "demo --protection x",
        "demo --seed 9007199254740992",
        "simulate plan.yaml --data . --seed 9007199254740992",
    ],
)
def test_a_line_that_cannot_be_understood_exits_2(line: str) -> None:
    done = fedveil(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fedveil: error: [usage] ")
    assert "\nfedveil: hint: `fedveil" in done.stderr
    assert "Traceback" not in done.stderr
    done = fedveil(*line.split(), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert error_of(done.stderr)["code"] == "usage"


ERRORS = [
    PolicyRefusal("model_spent", "we said no", next_step="decide"),
    PeerError("wrong_manifest", "T0 differs"),
    Unreachable("unreachable", "no answer"),
    IntegrityError("broken", "it does not hold"),
    RoundAborted("not_enough_participants", "2 came, 3 are needed"),
]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """`fedveil version` ends with `error` from here on."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(output.Output, "result", fail)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.code))
def test_an_error_is_two_lines_and_its_exit_code(
    error: FedveilError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error)
    assert main.main(["version"]) == type(error).exit_code
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"fedveil: error: [{error.code}] {error.what}; {error.not_done}"
    assert rest == ([f"fedveil: hint: {error.next_step}"] if error.next_step else [])
    assert main.main(["version", "--json"]) == type(error).exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert error_of(err) == {
        "code": error.code,
        "what": error.what,
        "not_done": error.not_done,
        "next": error.next_step,
    }


def test_a_defect_shows_neither_its_words_nor_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, KeyError("the-secret-value"))
    monkeypatch.delenv(main.TRACEBACK, raising=False)
    assert main.main(["version"]) == 70
    err = capsys.readouterr().err
    assert "[defect]" in err
    assert "KeyError" in err
    assert "the-secret-value" not in err
    assert "Traceback" not in err
    monkeypatch.setenv(main.TRACEBACK, "1")
    assert main.main(["version"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_bytes_that_are_no_text_are_a_mistake_of_who_typed_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of a file may be such; a reason, or the name of a run, goes to others as UTF-8."""

    def unsayable(*arguments: object) -> None:
        "\udcff".encode()

    monkeypatch.setattr(registry_commands, "decide", unsayable)
    assert main.main(["model", "withdraw", "run-1", "--reason", "\udcff"]) == 2
    assert "[usage] '\\udcff' is not text" in capsys.readouterr().err
    assert main.main(["model", "withdraw", "run-1", "--reason", "x"]) == 70, "of no word of the line: a defect"


def test_a_result_that_cannot_be_written_is_no_defect() -> None:
    with pathlib.Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fedveil_cli", "version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
    assert done.returncode == 74
    assert "[disk_full]" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_is_no_defect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert main.main(["version"]) == 130
    assert capsys.readouterr().err == ""


def test_every_problem_of_a_plan_has_its_line(tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "bad.yaml"
    text = PLAN.read_text().replace("rounds: 8", "rounds: 0").replace("min_rows: 20", "min_rows: -1")
    bad.write_text(text)
    done = fedveil("plan", "check", str(bad))
    assert (done.returncode, done.stdout) == (2, "")
    first, *problems, not_done, hint = done.stderr.splitlines()
    assert first == "fedveil: error: [bad_plan] 2 problems in the plan"
    wanted = [1 + text.splitlines().index(line) for line in text.splitlines() if "rounds: 0" in line or ": -1" in line]
    assert [int(line.split(":")[1]) for line in problems] == wanted
    assert not_done.startswith("fedveil: error: ")
    assert hint.startswith("fedveil: hint: ")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("status", "not_joined"),
        ("health", "not_joined"),
        ("participate", "not_joined"),
        ("model list", "not_joined"),
        ("model export --out m", "not_joined"),
        ("budget set icu --reason r", "not_joined"),
        ("budget set icu --max-epsilon 8 --delta 1e-5", "not_joined"),
        ("budget show", "not_joined"),
        ("budget history icu", "not_joined"),
        ("fingerprint", "not_initialised"),
        ("run list", "not_initialised"),
        ("run show RUN", "not_initialised"),
        ("round show RUN 1", "not_initialised"),
        ("revoke acme --reason r", "not_initialised"),
    ],
)
def test_a_home_that_is_none_is_said_to_be_none(
    line: str, code: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for home in (tmp_path / "none", tmp_path):
        assert main.main([*line.split(), "--home", str(home), "--json"]) == 2
        out, err = capsys.readouterr()
        assert (out, error_of(err)["code"]) == ("", code)
    assert list(tmp_path.iterdir()) == [], "looking made nothing"


def test_a_missing_passphrase_exits_3(tmp_path: pathlib.Path) -> None:
    for line in ("serve", "init hospitals --address fed.example.org", "run start plan.yaml", "invite acme"):
        done = fedveil(*line.split(), "--home", str(tmp_path), "--json")
        expected = (2, "not_initialised") if line.startswith("invite") else (3, "passphrase_missing")
        assert (done.returncode, error_of(done.stderr)["code"]) == expected, line
        assert done.stdout == ""


# --- what a terminal would obey ----------

NASTY = ("\x1b[8mhidden\x1b[0m", "a\rb", "a\nb", "\u202eevil", "a\u200bb", "\x9b31m", "\u2028", "\ud800")


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_text_from_outside_is_escaped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = output.Output(as_json=False)
    plain.result({"x": text}, [text, output.TextTable((text,), [(text,)])])
    plain.note(text)
    plain.error(PeerError("wrong", text, not_done=text, next_step=text))
    output.Output(as_json=True).result({"x": text}, [])
    out, err = capsys.readouterr()
    for line in (out + err).split("\n"):
        assert all(character.isprintable() or character == "─" for character in line), ascii(line)
    assert json.loads(out.splitlines()[-1]) == {"x": text}


def test_markup_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[conceal]privacy: none[/conceal] :smile:"
    output.Output(as_json=False).result({}, [text, output.TextTable(("c",), [(text,)])])
    assert capsys.readouterr().out.count(text) == 2


def test_printable_text_of_any_language_stays() -> None:
    assert output.safe_text("Universitätsklinikum Ærø 東京 [x]") == "Universitätsklinikum Ærø 東京 [x]"


def test_a_stdout_that_cannot_show_a_character_escapes_it(tmp_path: pathlib.Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.read_text().replace("mean_radius", "größe"), encoding="utf-8")
    done = fedveil("plan", "check", str(plan), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe" in done.stdout


def test_a_table_is_folded_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.Output(as_json=False).result({}, [output.TextTable(("hash",), [("f" * 400,)])])
    assert "f" * 400 in capsys.readouterr().out


def test_a_result_that_is_no_json_is_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        output.Output(as_json=True).result({"x": float("nan")}, [])
    assert capsys.readouterr().out == ""


# --- the home ----------


def home_seen_by(*arguments: str) -> str:
    """What a command gets as its home when called with these arguments."""
    app = typer.Typer()
    seen: list[pathlib.Path] = []

    @app.callback()
    def _(home: options.RootHome = None) -> None:
        """Root."""

    @app.command()
    def look(home: options.Home = None) -> None:
        seen.append(options.home_folder(home))

    command_tree.tree(app, {}).main(list(arguments), standalone_mode=False)
    return str(seen[0])


def test_the_nearest_home_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/me")
    monkeypatch.delenv("FEDVEIL_HOME", raising=False)
    assert home_seen_by("look") == "/people/me/.fedveil"
    monkeypatch.setenv("FEDVEIL_HOME", "/from/environment")
    assert home_seen_by("look") == "/from/environment"
    assert home_seen_by("--home", "/before", "look") == "/before"
    assert home_seen_by("look", "--home", "/after") == "/after"
    assert home_seen_by("--home", "/before", "look", "--home", "/after") == "/after"
