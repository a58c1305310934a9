"""Homes of a founded federation whose organisations make a key by files, for the tests of the commands about keys."""

import json
import pathlib
import shutil

import pytest
from enrolment_office import Clock, Entropy, join, open_office
from fedveil_cli import main
from fedveil_common.paillier import modulus_record
from fedveil_participant.store import journal_key, open_store
from fedveil_participant.store.holder_files import HolderFiles

ORGS = ("acme", "borealis", "cygnus")
Answer = tuple[int, dict[str, object], str]


def found(folder: pathlib.Path) -> None:
    """A founded federation: `operator`, and a home for each organisation, of which `acme` knows the newest roster."""
    with open_office(folder) as office:
        for number, org in enumerate(ORGS):
            join(office, folder / org, office.invite(org), seed=10 + number)
        office.next_roster()
        home, signed = folder / "acme", office.federation.last_roster()
        store = open_store(home, journal_key(home, None), Clock(), Entropy(5))
        store.save_roster(signed)
        store.close()


def finish(folder: pathlib.Path) -> None:
    """A ceremony among the homes, to its end; its messages and the record are in `shared`."""
    write_terms(folder)
    for org in ORGS:
        silent(*at(folder, org), "holders", "start", folder / "terms.json", "--out", folder / "shared")
    for _ in range(6):
        for org in ORGS:
            silent(*at(folder, org), "holders", "take", folder / "shared", "--out", folder / "shared")


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def write_terms(folder: pathlib.Path) -> None:
    (folder / "modulus.json").write_bytes(modulus_record.adopt_rsa_2048(1).encode())
    silent(*terms_command(folder), *holders(*ORGS), "--threshold", 2, "--columns", 2)


def terms_command(folder: pathlib.Path, home: str = "operator", key_id: str = "icu-1") -> list[object]:
    out = folder / "terms.json"
    return ["--home", folder / home, "key", "terms", "--modulus", folder / "modulus.json", "--id", key_id, "--out", out]


def holders(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--holder", text)]


def at(folder: pathlib.Path, org: str) -> list[object]:
    return ["--home", folder / org, "key"]


def silent(*arguments: object) -> None:
    assert main.main([*map(str, arguments), "--json"]) == 0


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Answer:
    """Exit code, the JSON on stdout ({} if none), and stderr."""
    capsys.readouterr()
    code = main.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def refused(answer: Answer) -> tuple[int, str, str]:
    """Exit code, error code and words of a refusal, which prints no result."""
    code, result, err = answer
    assert result == {}
    (line,) = [line for line in err.splitlines() if line.startswith("{")]
    error = json.loads(line)["error"]
    return code, error["code"], error["what"]


def code_of(answer: Answer) -> tuple[int, str]:
    return refused(answer)[:2]


def files_of(home: pathlib.Path) -> HolderFiles:
    return HolderFiles(home, journal_key(home, None), Entropy(99))


def move_on(folder: pathlib.Path, epoch: int) -> pathlib.Path:
    """All holders go to this next epoch; its record."""
    shared = folder / f"epoch-{epoch}"
    for org in ORGS:
        silent(*at(folder, org), "refresh", "start", "--out", shared)
    for _ in range(3):
        for org in ORGS:
            silent(*at(folder, org), "refresh", "take", shared, "--out", shared)
    return shared / f"icu-1.epoch-{epoch}.record"
