"""`fedveil key terms`, `key holders`, `key refresh` and `key pin` as people use them: homes and folders of files."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import gmpy2
import pytest
from enrolment_office import Clock, Entropy
from fedveil_cli import main
from fedveil_common.crypto import signing
from fedveil_common.database import FolderLock
from fedveil_common.paillier import party
from fedveil_common.paillier.holder_key import HolderKey, StoredState
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.secret import Passphrase
from fedveil_participant.key_seat import load_key, split_terms
from fedveil_participant.store import journal_key, open_store, seal_journal_key
from fedveil_participant.store.holder_files import Thing
from key_homes import (
    ORGS,
    Answer,
    at,
    code_of,
    copy,
    files_of,
    finish,
    found,
    holders,
    refused,
    run,
    silent,
    terms_command,
    write_terms,
)
from patience import LIMIT_S


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("federation")
    found(folder)
    return folder


@pytest.fixture(scope="module")
def finished(joined: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("finished")
    copy(joined, folder)
    finish(folder)
    return folder


@pytest.fixture
def table(joined: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Homes and terms; nothing begun."""
    copy(joined, tmp_path)
    write_terms(tmp_path)
    return tmp_path


@pytest.fixture
def made(finished: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    copy(finished, tmp_path)
    return tmp_path


def begin(folder: pathlib.Path) -> None:
    """Each holder's first message lies in a folder of its own."""
    for org in ORGS:
        silent(*at(folder, org), "holders", "start", folder / "terms.json", "--out", folder / f"from-{org}")


def take(capsys: pytest.CaptureFixture[str], folder: pathlib.Path, org: str, *paths: object) -> Answer:
    return run(capsys, *at(folder, org), "holders", "take", *paths, "--out", folder / f"from-{org}")


def others(folder: pathlib.Path, org: str) -> list[pathlib.Path]:
    return [folder / f"from-{other}" for other in ORGS if other != org]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def key_of(home: pathlib.Path) -> HolderKey:
    found = load_key(files_of(home), "icu-1")
    assert found is not None
    return found[1]


def secrets_of(home: pathlib.Path) -> list[bytes]:
    """The seeds of the key, and what everything of a run under way is drawn from."""
    files, found = files_of(home), []
    if "icu-1" in files.ids(Thing.KEY):
        found += [seed.expose() for seed in key_of(home).seeds.values()]
    for thing in (Thing.CEREMONY, Thing.REFRESH):
        content = files.read(thing, "icu-1")
        if content is not None:
            _, rest = split_terms(content)
            if thing is Thing.REFRESH:
                rest.take(4)
                rest.take(rest.unsigned(1))
                rest.take(4)
            found.append(party.unpack(StoredState(rest.rest()))[0].expose())
    return found


def assert_hidden(folder: pathlib.Path, secrets: list[bytes], *texts: str) -> None:
    assert secrets
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [one for one in secrets if one in data or one.hex().encode() in data], path
    assert not [one for one in secrets for text in texts if one.hex() in text or repr(one) in text]


def assert_opens(keys: list[HolderKey]) -> None:
    """Every quorum's exponents sum to those of the columns: what is encrypted under h_k is opened by them."""
    public, n = keys[0].public, keys[0].public.group.n
    width = public.terms.width
    for quorum in itertools.combinations(range(len(keys)), public.terms.threshold):
        parts = [keys[index].exponents(quorum, width) for index in quorum]
        sums = [sum(column) for column in zip(*parts, strict=True)]
        assert [gmpy2.powmod(public.g, one, n) for one in sums] == list(public.columns)


# --- terms ----------


def test_terms_from_the_rosters_of_both_homes(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = (table / "terms.json").read_bytes()
    code, value, err = run(capsys, *terms_command(table, "acme"), *holders(*ORGS), "--threshold", 2, "--columns", 2)
    assert code == 0
    assert "keys; 3 prevents it" in err
    assert (table / "terms.json").read_bytes() == first
    terms = KeyTerms.decode(first)
    assert value["root"] == terms.holders.root.hex()
    assert (value["origin"], value["threshold"], value["columns"]) == ("rsa-2048", 2, 2)
    code, shown, err = run(capsys, "key", "show", table / "terms.json")
    assert (code, err, {"file": value["file"], **shown}) == (0, "", value)
    for org, key in zip(terms.terms.holders, terms.holders.keys, strict=True):
        store = open_store(table / org, journal_key(table / org, None), Clock(), Entropy(5))
        assert signing.public_key(store.protocol_key()) == key
        store.close()


def test_terms_without_a_home(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    agreed = KeyTerms.decode((table / "terms.json").read_bytes())
    named = [f"{org}={key.hex()}" for org, key in zip(ORGS, agreed.holders.keys, strict=True)]
    nowhere = terms_command(table, "nowhere")
    code, value, err = run(capsys, *nowhere, *holders(*named), "--federation", agreed.terms.federation)
    assert (code, err) == (0, "")
    assert (value["threshold"], value["columns"]) == (3, 32)
    assert code_of(run(capsys, *nowhere, *holders(*named))) == (2, "no_federation_here")
    assert code_of(run(capsys, *nowhere, *holders("acme"), "--federation", "f")) == (2, "no_federation_here")


@pytest.mark.parametrize(
    ("named", "more", "code"),
    [
        (ORGS, ("--threshold", 1), "bad_key_terms"),
        (ORGS, ("--threshold", 4), "bad_key_terms"),
        (ORGS, ("--threshold", 2, "--max-corrupt", 2), "bad_key_terms"),
        (ORGS, ("--columns", 0), "bad_key_terms"),
        (("acme",), (), "bad_key_terms"),
        (("acme", "delta"), (), "holder_not_listed"),
        (("acme", "acme"), (), "bad_holder_option"),
        (("acme", "borealis=12"), (), "bad_holder_option"),
        (("acme", "Borealis"), (), "bad_name"),
        (ORGS, ("--federation", "another"), "other_federation"),
    ],
)
def test_terms_that_are_refused(
    table: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    named: tuple[str, ...],
    more: tuple[object, ...],
    code: str,
) -> None:
    (table / "terms.json").unlink()
    assert code_of(run(capsys, *terms_command(table), *holders(*named), *more)) == (2, code)
    assert not (table / "terms.json").exists()


def test_a_modulus_is_checked_again_by_every_holder(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (table / "terms.json").read_text()
    n = json.loads(text)["modulus"]["n"]
    (table / "terms.json").write_text(text.replace(n, n[:-2] + "01"))
    start = [*at(table, "acme"), "holders", "start", table / "terms.json", "--out", table / "out"]
    assert code_of(run(capsys, *start))[0] == 2
    (table / "terms.json").write_text(text.replace("icu-1", "icu 1"))
    assert code_of(run(capsys, *start)) == (2, "bad_terms_file")
    assert not (table / "out").exists()
    assert not (table / "acme" / "paillier").exists()


# --- the ceremony ----------


def test_three_homes_make_a_key_by_files(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In odd order, with repetitions and own messages among them; the secrets are nowhere in clear."""
    begin(table)
    texts, secrets = [*capsys.readouterr()], [one for org in ORGS for one in secrets_of(table / org)]
    for turn in range(8):
        for org in ORGS if turn % 2 else reversed(ORGS):
            folders = [*others(table, org), *others(table, org), table / f"from-{org}"]
            code, value, err = take(capsys, table, org, *(reversed(folders) if turn % 2 else folders))
            assert code == 0
            texts += [json.dumps(value), err]
            secrets += secrets_of(table / org)
    keys = [key_of(table / org) for org in ORGS]
    records = {(table / f"from-{org}" / "icu-1.epoch-0.record").read_bytes() for org in ORGS}
    assert len(records) == 1
    assert KeyRecord.from_bytes(records.pop()) == keys[0].record
    assert_opens(keys)
    assert_hidden(table, secrets, *texts)
    assert [files_of(table / org).ids(Thing.CEREMONY) for org in ORGS] == [(), (), ()]
    code, value, _ = run(capsys, *at(table, "acme"), "holders", "show")
    assert code == 0
    (shown,) = value["keys"]  # type: ignore[attr-defined]
    assert (shown["stage"], shown["made"], shown["awaited"], shown["signers"]) == ("made", True, [], list(ORGS))
    code, again, _ = run(capsys, "key", "show", table / "from-acme" / "icu-1.epoch-0.record")
    assert (code, again["root"], again["fingerprint"]) == (0, shown["root"], shown["fingerprint"])
    assert main.main(["--home", str(table / "acme"), "key", "holders", "show"]) == 0
    assert "made: the key is in this home\nroot " in capsys.readouterr()[0]


def test_who_is_awaited(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(table)
    code, value, _ = take(capsys, table, "acme", table / "from-borealis")
    assert (code, value["stage"], value["awaited"]) == (0, "channel_key", ["cygnus"])
    code, value, _ = take(capsys, table, "acme", table / "from-cygnus")
    assert (code, value["stage"], value["awaited"]) == (0, "commitments", ["borealis", "cygnus"])
    assert main.main([*map(str, at(table, "acme")), "holders", "show"]) == 0
    assert "awaited: commitments of borealis, cygnus" in capsys.readouterr()[0]


def test_messages_come_again_byte_for_byte(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(table)
    for turn in range(6):
        for org in ORGS:
            assert take(capsys, table, org, *others(table, org))[0] == 0
            before = contents(table / f"from-{org}")
            shutil.rmtree(table / f"from-{org}")
            assert take(capsys, table, org)[0] == 0
            assert contents(table / f"from-{org}") == before, turn
    assert "icu-1.epoch-0.record" in before


def test_a_kill_between_store_and_write(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes that die; the next one says what the first would have said, and no second ceremony begins."""
    out = table / "from-acme"
    start = [*at(table, "acme"), "holders", "start", table / "terms.json", "--out", out]
    command = [sys.executable, "-m", "fedveil_cli", *map(str, start)]
    killed = subprocess.run(
        command,
        env=os.environ | {"FEDVEIL_FAILPOINT": "holder.stored"},
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (killed.returncode, killed.stdout, out.exists()) == (-signal.SIGKILL, b"", False)
    assert code_of(run(capsys, *start)) == (2, "key_ceremony_open")
    assert take(capsys, table, "acme")[0] == 0
    first = contents(out)
    assert list(first) == ["icu-1.epoch-0.acme.1-channel-key.message"]
    for org in ORGS[1:]:
        silent(*at(table, org), "holders", "start", table / "terms.json", "--out", table / f"from-{org}")
    for _ in range(5):
        for org in ORGS[1:]:
            assert take(capsys, table, org, *others(table, org))[0] == 0
        if "icu-1.epoch-0.borealis.6-approval.message" in contents(table / "from-borealis"):
            break
        assert take(capsys, table, "acme", *others(table, "acme"))[0] == 0
    command = [sys.executable, "-m", "fedveil_cli", *map(str, at(table, "acme")), "holders", "take"]
    command += [*map(str, others(table, "acme")), "--out", str(out)]
    killed = subprocess.run(
        command, env=os.environ | {"FEDVEIL_FAILPOINT": "holder.key"}, capture_output=True, check=False, timeout=LIMIT_S
    )
    assert killed.returncode == -signal.SIGKILL
    files = files_of(table / "acme")
    assert (files.ids(Thing.CEREMONY), files.ids(Thing.KEY)) == (("icu-1",), ("icu-1",))
    code, value, _ = take(capsys, table, "acme")
    assert (code, value["made"], files.ids(Thing.CEREMONY)) == (0, True, ())
    assert first.items() < contents(out).items()
    assert len(contents(out)) == 7


def test_faulty_messages_move_nothing(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(table)
    sealed = (table / "acme" / "paillier" / "icu-1.ceremony").read_bytes()
    before = contents(table / "from-acme")
    good = table / "from-borealis" / "icu-1.epoch-0.borealis.1-channel-key.message"
    bad = table / "in"
    bad.mkdir()
    cut = bad / good.name
    cut.write_bytes(good.read_bytes()[:-1])
    code, name, what = refused(take(capsys, table, "acme", table / "from-cygnus", bad))
    assert (code, name) == (5, "bad_key_message")
    assert str(cut) in what
    assert "borealis" in what
    changed = bytearray(good.read_bytes())
    changed[-1] ^= 1
    cut.write_bytes(changed)
    code, name, what = refused(take(capsys, table, "acme", table / "from-cygnus", bad))
    assert (code, name, "borealis" in what, str(cut) in what) == (5, "bad_signature", True, True)
    stranger = bytearray(good.read_bytes())
    stranger[2] = 7
    cut.write_bytes(stranger)
    assert code_of(take(capsys, table, "acme", cut)) == (5, "bad_key_message")
    assert code_of(take(capsys, table, "acme", bad / "missing")) == (2, "file_unreadable")
    assert (table / "acme" / "paillier" / "icu-1.ceremony").read_bytes() == sealed
    assert contents(table / "from-acme") == before
    cut.unlink()
    code, value, _ = take(capsys, table, "acme", *others(table, "acme"), bad)
    assert (code, value["stage"]) == (0, "commitments")


def test_a_second_ceremony_says_something_else(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A holder whose home was put back draws again: both messages are signed, and it is named."""
    shutil.copytree(table / "borealis", table / "copy")
    begin(table)
    silent(*at(table, "copy"), "holders", "start", table / "terms.json", "--out", table / "second")
    assert take(capsys, table, "acme", table / "from-borealis")[0] == 0
    code, name, what = refused(take(capsys, table, "acme", table / "second"))
    assert (code, name) == (5, "key_equivocation")
    assert "borealis" in what
    assert str(table / "second") in what
    assert take(capsys, table, "acme", table / "from-cygnus")[0] == 0
    # cygnus is shown the other one: the fault shows when that completes the phase, and the file is the one that differs
    sealed = (table / "cygnus" / "paillier" / "icu-1.ceremony").read_bytes()
    code, name, what = refused(take(capsys, table, "cygnus", table / "from-acme", table / "second"))
    assert (code, name) == (5, "key_views_differ")
    assert "acme" in what
    assert str(table / "from-acme" / "icu-1.epoch-0.acme.2-commitments.message") in what
    assert (table / "cygnus" / "paillier" / "icu-1.ceremony").read_bytes() == sealed


def test_a_home_under_a_passphrase(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, file = Passphrase(b"six words are a good passphrase"), table / "passphrase.txt"
    file.write_bytes(words.expose())
    file.chmod(0o600)
    seal_journal_key(table / "acme", words, Entropy(7))
    start = [*at(table, "acme"), "holders", "start", table / "terms.json", "--out", table / "out"]
    assert code_of(run(capsys, *start)) == (3, "passphrase_missing")
    assert not (table / "out").exists()
    code, value, err = run(capsys, *start, "--passphrase-file", file)
    assert (code, value["stage"], "six words" in err) == (0, "channel_key", False)


def test_terms_of_another_federation(table: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    agreed = KeyTerms.decode((table / "terms.json").read_bytes())
    named = [f"{org}={key.hex()}" for org, key in zip(ORGS, agreed.holders.keys, strict=True)]
    silent(*terms_command(table), *holders(*named), "--federation", "another")
    start = [*at(table, "acme"), "holders", "start", table / "terms.json", "--out", table / "out"]
    assert code_of(run(capsys, *start)) == (2, "other_federation")


def test_homes_that_cannot_begin(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["holders", "start", made / "terms.json", "--out", made / "out"]
    assert code_of(run(capsys, *at(made, "acme"), *start)) == (2, "key_id_used")
    assert code_of(run(capsys, *at(made, "operator"), *start)) == (2, "not_joined")
    assert code_of(run(capsys, *at(made, "acme"), *start, "--root", "0" * 64)) == (5, "other_key_root")
    with FolderLock(made / "acme"):
        assert code_of(run(capsys, *at(made, "acme"), *start)) == (2, "data_folder_in_use")
    silent(*terms_command(made, key_id="icu-2"), *holders("acme", "borealis"))
    assert code_of(run(capsys, *at(made, "cygnus"), *start)) == (2, "not_a_holder")
    assert code_of(run(capsys, *at(made, "cygnus"), "holders", "take", "--id", "icu-2", "--out", made / "out")) == (
        2,
        "no_key_here",
    )
    silent(*at(made, "acme"), *start)
    silent(*terms_command(made, key_id="icu-3"), *holders("acme", "borealis"))
    silent(*at(made, "acme"), *start)
    assert code_of(run(capsys, *at(made, "acme"), "holders", "take", "--out", made / "out")) == (2, "which_key")
    assert not (made / "cygnus" / "paillier" / "icu-2.ceremony").exists()


def test_what_rests_in_a_home_opens_nowhere_else(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made / "acme" / "paillier"
    assert (folder / "icu-1.key").stat().st_mode & 0o077 == 0
    shutil.copy(folder / "icu-1.key", folder / "icu-1.pin")
    assert code_of(run(capsys, *at(made, "acme"), "holders", "show")) == (74, "holder_file_damaged")
    (folder / "icu-1.pin").unlink()
    shutil.copy(made / "borealis" / "paillier" / "icu-1.key", folder / "icu-1.key")
    assert code_of(run(capsys, *at(made, "acme"), "holders", "show")) == (74, "holder_file_damaged")


# --- refresh ----------


def refresh(
    capsys: pytest.CaptureFixture[str], folder: pathlib.Path, present: tuple[str, ...], epoch: int
) -> pathlib.Path:
    """Those present go to the next epoch in one shared folder."""
    shared = folder / f"epoch-{epoch}"
    absent = [word for org in ORGS if org not in present for word in ("--absent", org)]
    for org in present:
        code, value, _ = run(capsys, *at(folder, org), "refresh", "start", *absent, "--out", shared)
        assert (code, value["epoch"], value["stage"]) == (0, epoch, "lists")
    texts, secrets = [], [one for org in present for one in secrets_of(folder / org)]
    for _ in range(2):
        for org in present:
            code, value, err = run(capsys, *at(folder, org), "refresh", "take", shared, "--out", shared)
            assert code == 0
            texts += [json.dumps(value), err]
            secrets += secrets_of(folder / org)
    for org in present:
        code, value, _ = run(capsys, *at(folder, org), "refresh", "take", shared, "--out", shared)
        assert (code, value["made"], value["epoch"]) == (0, True, epoch)
        assert files_of(folder / org).ids(Thing.REFRESH) == ()
    assert_hidden(folder, secrets, *texts)
    return shared


def test_refresh_with_all_and_with_one_away(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [key_of(made / org) for org in ORGS]
    refresh(capsys, made, ORGS, 1)
    second = [key_of(made / org) for org in ORGS]
    assert_opens(second)
    assert [one.record.epoch for one in second] == [1, 1, 1]
    assert {one.record.root for one in second} == {first[0].record.root}
    assert first[0].seeds != second[0].seeds
    shared = refresh(capsys, made, ("acme", "cygnus"), 2)
    record = shared / "icu-1.epoch-2.record"
    code, value, _ = run(capsys, *at(made, "borealis"), "refresh", "adopt", record)
    assert (code, value["made"], value["epoch"]) == (0, True, 2)
    assert_opens([key_of(made / org) for org in ORGS])
    assert code_of(run(capsys, *at(made, "borealis"), "refresh", "adopt", record)) == (5, "wrong_key_epoch")


def test_a_holder_that_does_not_come_is_left_out(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared, start = made / "shared-1", ["refresh", "start", "--out", made / "shared-1"]
    for org in ("acme", "cygnus"):
        silent(*at(made, org), *start)
    assert code_of(run(capsys, *at(made, "acme"), *start)) == (2, "key_ceremony_open")
    takes = ["refresh", "take", shared, "--out", shared]
    code, value, _ = run(capsys, *at(made, "acme"), *takes)
    assert (code, value["awaited"]) == (0, ["borealis"])
    for org in ("acme", "cygnus", "acme"):
        code, value, _ = run(capsys, *at(made, org), *takes, "--absent", "borealis")
        assert code == 0
    assert value["signers"] == ["acme", "cygnus"]
    code, value, _ = run(capsys, *at(made, "borealis"), "refresh", "adopt", shared / "icu-1.epoch-1.record")
    assert (code, value["epoch"]) == (0, 1)
    assert_opens([key_of(made / org) for org in ORGS])


def test_a_kill_when_the_new_seeds_are_durable(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old seeds are gone with the new key, and what the others still need is said again."""
    shared, old = made / "shared-1", secrets_of(made / "acme")
    for org in ORGS:
        silent(*at(made, org), "refresh", "start", "--out", shared)
    for org in ORGS[1:]:
        silent(*at(made, org), "refresh", "take", shared, "--out", shared)
    changed = bytearray((shared / "icu-1.epoch-1.cygnus.6-approval.message").read_bytes())
    changed[-1] ^= 1
    (made / "bad.message").write_bytes(changed)
    takes = [*at(made, "acme"), "refresh", "take", shared, "--out", shared]
    sealed = (made / "acme" / "paillier" / "icu-1.refresh").read_bytes()
    code, name, what = refused(run(capsys, *takes, made / "bad.message"))
    assert (code, name, "cygnus" in what) == (5, "bad_signature", True)
    assert (made / "acme" / "paillier" / "icu-1.refresh").read_bytes() == sealed
    killed = subprocess.run(
        [sys.executable, "-m", "fedveil_cli", *map(str, takes)],
        env=os.environ | {"FEDVEIL_FAILPOINT": "holder.key"},
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert killed.returncode == -signal.SIGKILL
    assert files_of(made / "acme").ids(Thing.REFRESH) == ("icu-1",)
    assert not (shared / "icu-1.epoch-1.acme.6-approval.message").exists()
    code, value, _ = run(capsys, *takes)
    assert (code, value["made"], value["epoch"]) == (0, True, 1)
    assert files_of(made / "acme").ids(Thing.REFRESH) == ()
    assert (shared / "icu-1.epoch-1.acme.6-approval.message").exists()
    assert not set(old) & set(secrets_of(made / "acme"))
    for org in ORGS[1:]:
        silent(*at(made, org), "refresh", "take", shared, "--out", shared)
    assert_opens([key_of(made / org) for org in ORGS])


@pytest.mark.parametrize("absent", [("acme",), ("delta",), ("borealis", "cygnus")])
def test_who_cannot_be_absent(made: pathlib.Path, capsys: pytest.CaptureFixture[str], absent: tuple[str, ...]) -> None:
    words = [word for org in absent for word in ("--absent", org)]
    start = [*at(made, "acme"), "refresh", "start", *words, "--out", made / "out"]
    assert code_of(run(capsys, *start)) == (2, "bad_absent")
    assert files_of(made / "acme").ids(Thing.REFRESH) == ()
