"""`fedveil key pin` as people use it: from epoch to epoch, its record kept, no key of one holder."""

import pathlib

import pytest
from enrolment_office import Entropy
from fedveil_cli import main, participating
from fedveil_common.paillier import rsa_2048, single_holder_files
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.paillier.single_holder import SingleHolderKey
from fedveil_common.pki import sealed_keys
from fedveil_common.secret import Passphrase
from fedveil_participant.key_ring import KeyRing
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
    move_on,
    run,
    silent,
    terms_command,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("finished")
    found(folder)
    finish(folder)
    return folder


@pytest.fixture
def made(finished: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    copy(finished, tmp_path)
    return tmp_path


def test_a_pin_goes_from_epoch_to_epoch(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    zero = made / "shared" / "icu-1.epoch-0.record"
    one = move_on(made, 1)
    two = move_on(made, 2)
    terms = made / "terms.json"

    def pin(record: pathlib.Path, *more: object) -> Answer:
        return run(capsys, *at(made, "acme"), "pin", terms, record, *more)

    assert code_of(pin(one)) == (5, "wrong_key_epoch")
    root = KeyTerms.decode(terms.read_bytes()).holders.root.hex()
    assert code_of(pin(zero, "--root", "1" * 64)) == (5, "other_key_root")
    code, value, err = pin(zero, "--root", root)
    assert (code, err, value["epoch"], value["changed"], value["root"]) == (0, "", 0, True, root)
    assert pin(zero)[1]["changed"] is False
    assert code_of(pin(two)) == (5, "wrong_key_epoch")
    few = KeyRecord.from_bytes(one.read_bytes())
    few = KeyRecord(few.holders, few.epoch, few.lists, dict(list(few.signatures.items())[:1]))
    (made / "few.record").write_bytes(few.to_bytes())
    assert code_of(pin(made / "few.record")) == (5, "too_few_key_signatures")
    (made / "cut.record").write_bytes(one.read_bytes()[:-1])
    assert code_of(pin(made / "cut.record")) == (5, "bad_key_message")
    assert code_of(run(capsys, "key", "show", made / "cut.record")) == (2, "bad_public_key_file")
    assert pin(one)[1]["epoch"] == 1
    assert code_of(pin(zero)) == (5, "wrong_key_epoch")
    assert pin(two)[1]["epoch"] == 2
    code, value, _ = run(capsys, *at(made, "acme"), "holders", "show", "--id", "icu-1")
    assert value["keys"][0]["pin"]["epoch"] == 2  # type: ignore[index]
    assert value["keys"][0]["pin"]["record"] is True  # type: ignore[index]
    kept = files_of(made / "acme").read(Thing.RECORD, "icu-1")
    assert kept is not None
    assert kept.expose() == two.read_bytes()
    silent(*terms_command(made), *holders("acme", "borealis"), "--columns", 2)
    assert code_of(pin(two)) == (5, "other_key_root")


def test_a_pin_from_before_records_were_kept(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = [*at(made, "acme"), "pin", made / "terms.json", made / "shared" / "icu-1.epoch-0.record"]
    silent(*again)
    (made / "acme" / "paillier" / "icu-1.record").unlink()
    told: list[dict[str, str]] = []
    participating.tell_keys(KeyRing(files_of(made / "acme")), lambda kind, facts: told.append({"kind": kind, **facts}))
    assert [(one["kind"], one["id"], one["code"]) for one in told] == [("key", "icu-1", "key_record_missing")]
    shown = run(capsys, *at(made, "acme"), "holders", "show")[1]
    assert shown["keys"][0]["pin"]["record"] is False  # type: ignore[index]
    assert main.main([*map(str, at(made, "acme")), "holders", "show"]) == 0
    assert "pin it again" in capsys.readouterr().out
    code, value, _ = run(capsys, *again)
    assert (code, value["changed"]) == (0, False)
    participating.tell_keys(KeyRing(files_of(made / "acme")), lambda kind, facts: told.append({"kind": kind, **facts}))
    assert told[1] == {"kind": "key", "id": "icu-1", "epoch": "0", "fingerprint": str(value["fingerprint"])}


def test_a_key_of_one_holder_is_not_pinned(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    public, private = made / "own.pub", made / "own.key"
    key = SingleHolderKey(rsa_2048.N, 2048)
    public.write_bytes(single_holder_files.encode_public(key))
    private.write_bytes(sealed_keys.seal_key(b"x", Passphrase(b"a passphrase"), "paillier", Entropy(3)))
    terms, record = made / "terms.json", made / "shared" / "icu-1.epoch-0.record"
    for files in ((public, public), (private, record), (terms, public), (terms, private)):
        assert code_of(run(capsys, *at(made, "acme"), "pin", *files)) == (4, "single_holder_key")
    assert files_of(made / "acme").ids(Thing.PIN) == ()


def test_a_record_of_other_terms_is_not_pinned(made: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent(*terms_command(made), *holders(*ORGS), "--columns", 2)
    record = made / "shared" / "icu-1.epoch-0.record"
    assert code_of(run(capsys, *at(made, "acme"), "pin", made / "terms.json", record)) == (5, "other_key_root")
    assert files_of(made / "acme").ids(Thing.PIN) == ()
