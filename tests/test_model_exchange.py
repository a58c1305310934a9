"""`model seal|open|rewrap|card|export|jws|jwe`: what is written, what is refused, and what is left on disk."""

import base64
import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fedveil_cli import main, model_files
from fedveil_cli.world import SystemEntropy
from fedveil_common import durable, jcs, modelfile
from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import labelled
from fedveil_common.errors import PeerError
from fedveil_common.exchange import jose, jwe, sealed_model
from fedveil_common.exchange.jwe import SealedKey
from fedveil_common.ids import COORDINATOR, RunId
from fedveil_common.messages import BlobType
from fedveil_common.registry.stages import Stage
from fedveil_common.roster import Member, Role, Roster, sign_roster
from fedveil_common.sealing import files, header, key_files, recipients
from fedveil_common.sealing.header import Subject
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding

from tests import model_samples
from tests.model_samples import OURS, THEIRS

Capture = pytest.CaptureFixture[str]
PLAN = model_samples.plan_for("logistic", "binary", "federated")
PRINT = ("--fingerprint", OURS.fingerprint.hex())


def run(capsys: Capture, *words: object) -> tuple[int, str, str]:
    code = main.main(["model", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def value(capsys: Capture, *words: object) -> dict[str, Any]:
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def refused(capsys: Capture, *words: object) -> tuple[int, str]:
    """Exit and error code; nothing was printed as a result, and no file came or went."""
    before = everything()
    code, out, err = run(capsys, *words, "--json")
    assert out == ""
    assert everything() == before
    return code, str(json.loads(err.splitlines()[-1])["error"]["code"])


def everything() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in sorted(os.listdir(".")) if Path(name).is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and keys of four people: an RSA key takes a while."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "m.safetensors").write_bytes(model_samples.signed_bytes(PLAN))
    (folder / "word").write_text("a long passphrase\n")
    for name, key in (
        ("ann", key_files.new_x25519(SystemEntropy())),
        ("bob", key_files.new_x25519(SystemEntropy())),
        ("rsa", key_files.new_rsa()),
        ("eve", key_files.new_x25519(SystemEntropy())),
    ):
        (folder / f"{name}.key").write_bytes(key_files.private_pem(key, None))
        (folder / f"{name}.pub").write_bytes(key_files.public_pem(key.public_key()))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDVEIL_HOME", str(tmp_path / "nobody"))
    for one in made.iterdir():
        shutil.copy(one, tmp_path)
    return tmp_path


def sealed(capsys: Capture, *recipients: str) -> dict[str, Any]:
    return value(capsys, "seal", "m.safetensors", *(w for r in recipients for w in ("--for", r)), "--out", "m.sealed")


# --- sealed -----------------------------------------------------------------------------------------------------------


def test_a_model_goes_to_somebody_who_has_the_fingerprint_and_a_key(place: Path, capsys: Capture) -> None:
    made = sealed(capsys, "ann.pub", "rsa.pub")
    assert (made["kind"], made["federation"], made["object"]) == ("model", "hospitals", "run-1")
    for key in ("ann.key", "rsa.key"):
        opened = value(capsys, "open", "m.sealed", "--key", key, *PRINT, "--out", "again")
        assert (opened["verified"], opened["run_id"], opened["plan"]) == (True, "run-1", "sample")
        assert Path("again").read_bytes() == Path("m.safetensors").read_bytes()
        assert Path("again").stat().st_mode & 0o777 == 0o600
        Path("again").unlink()
    assert refused(capsys, "open", "m.sealed", "--key", "eve.key", *PRINT, "--out", "x") == (3, "not_a_recipient")
    rewrap = ("rewrap", "m.sealed", "--key", "ann.key", "--for", "eve.pub")
    code, _, err = run(capsys, *rewrap, "--out", "e.sealed")
    assert code == 0
    assert "still can" in err
    assert value(capsys, "open", "e.sealed", "--key", "eve.key", *PRINT, "--out", "again")["verified"]
    value(capsys, *rewrap, "--reencrypt", "--out", "f.sealed")
    assert Path("f.sealed").read_bytes()[-64:] != Path("m.sealed").read_bytes()[-64:]
    assert Path("e.sealed").read_bytes()[-64:] == Path("m.sealed").read_bytes()[-64:]
    assert value(capsys, "open", "f.sealed", "--key", "eve.key", *PRINT, "--out", "again")["verified"]


def test_a_passphrase_alone(place: Path, capsys: Capture) -> None:
    value(capsys, "seal", "m.safetensors", "--passphrase-file", "word", "--out", "s")
    words = ("open", "s", "--passphrase-file", "word", *PRINT, "--out", "again")
    assert value(capsys, *words)["verified"]
    Path("other").write_text("another one")
    assert refused(capsys, "open", "s", "--passphrase-file", "other", *PRINT, "--out", "x") == (3, "passphrase_wrong")


def seal_as(data: bytes, name: str, subject: Subject) -> None:
    """A sealed file for ann by somebody who seals what pleases them: everybody has her public key."""
    key = key_files.read_public(Path("ann.pub").read_bytes(), "")
    out = Path(name).absolute()
    wrap = lambda data_key: recipients.wrap_for([key], data_key, subject)  # noqa: E731
    files.seal(io.BytesIO(data), len(data), out, subject, wrap, SystemEntropy())


OWN = Subject("model", "hospitals", "run-1")


@functools.cache
def lies() -> dict[str, tuple[bytes, Subject, str]]:
    """What was sealed, as what, and the code of the refusal."""
    good = model_samples.signed(PLAN)
    data = modelfile.write_model(good)
    changed = modelfile.write_model(dataclasses.replace(good, model=good.model * 2))
    naked = modelfile.write_model(dataclasses.replace(good, signatures=(), trust_chain="", roster=""))
    theirs = model_samples.signed_bytes(PLAN, THEIRS)
    older = OURS.sign(good, OURS.id, 3, OURS.roster(2))

    def renamed(old: str, new: str) -> bytes:
        """The lineage, which no signature covers, says something else than the manifest."""
        assert old in good.lineage
        return modelfile.write_model(dataclasses.replace(good, lineage=good.lineage.replace(old, new)))

    stranger = signing.sign(THEIRS.coordinator_key, COORDINATOR, BlobType.MODEL, good.signatures[0].body)
    return {
        "tampered": (data[:-1] + bytes([data[-1] ^ 1]), OWN, "model_mismatch"),
        "another model under its signature": (changed, OWN, "model_mismatch"),
        "truncated": (data[:-4], OWN, "bad_model_file"),
        "longer": (data + bytes(4), OWN, "bad_model_file"),
        "no model": (b"columns,and,rows\n", OWN, "bad_model_file"),
        "empty": (b"", OWN, "bad_model_file"),
        "unsigned": (naked, OWN, "bad_model_file"),
        "of another federation": (theirs, OWN, "fingerprint_mismatch"),
        "a manifest of another federation": (
            modelfile.write_model(model_samples.other_federation(good)),
            OWN,
            "wrong_federation",
        ),
        "downgraded to an older roster": (modelfile.write_model(older), OWN, "wrong_roster"),
        "signed by a stranger": (
            modelfile.write_model(dataclasses.replace(good, signatures=(stranger,))),
            OWN,
            "bad_signature",
        ),
        "under another run's name": (renamed('"run-1"', '"run-2"'), OWN, "lineage_mismatch"),
        "under another round's number": (renamed('"round":8', '"round":9'), OWN, "lineage_mismatch"),
        "under more steps than rounds": (renamed('"steps":8', '"steps":9'), OWN, "lineage_mismatch"),
        "under fewer steps": (renamed('"steps":8', '"steps":6'), OWN, "lineage_mismatch"),
        "with another text beside": (renamed('"run-1"', '"run-1" '), OWN, "lineage_mismatch"),
        "swapped for another run's": (data, Subject("model", "hospitals", "run-2"), "sealed_model_mismatch"),
        "swapped for another federation's": (data, Subject("model", "others", "run-1"), "sealed_model_mismatch"),
        "called data": (data, Subject("data", "hospitals", "run-1"), "sealed_for_another"),
    }


@pytest.mark.parametrize("lie", lies())
def test_nothing_that_does_not_verify_gets_a_name(lie: str, place: Path, capsys: Capture) -> None:
    data, subject, code = lies()[lie]
    seal_as(data, "m.sealed", subject)
    Path("kept").write_text("before")
    assert refused(capsys, "open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "new")[1] == code
    assert refused(capsys, "open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "kept")[1] == code


def test_a_sealed_file_that_was_changed_is_named_by_its_chunk(place: Path, capsys: Capture) -> None:
    sealed(capsys, "ann.pub")
    good = Path("m.sealed").read_bytes()
    opening = ("open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "x")
    for bad, code in (
        (good[:-1] + bytes([good[-1] ^ 1]), "sealed_chunk_damaged"),
        (good[:-1], "sealed_chunk_damaged"),
        (good + b"\0", "sealed_chunk_damaged"),
        (good[:40], "sealed_header_damaged"),
        (good.replace(b'"object":"run-1"', b'"object":"run-2"'), "sealed_header_damaged"),
        (good.replace(b"FVSEAL\x01", b"FVSEAL\x02"), "sealed_version_unknown"),
        (b"", "not_sealed"),
    ):
        Path("m.sealed").write_bytes(bad)
        assert refused(capsys, *opening)[1] == code
    Path("m.sealed").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "chunk 0 of 1" in run(capsys, *opening)[2]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_sealed_file_that_changes_once_it_was_verified_gets_no_name(
    nameless: bool, place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sealed it could make other chunks that open, too. Where a file can be without a name, it was written
    while it was verified, and what was verified is what gets the name. Elsewhere it is read twice, so that nothing of
    it is written before all of it was verified; and what changed in between ends it.
    """
    if not nameless:
        monkeypatch.setattr(durable, "_unnamed", lambda folder: None)
    sealed(capsys, "ann.pub")
    data = Path("m.sealed").read_bytes()
    found, start = header.parse(io.BytesIO(data))
    key = recipients.unwrap(found, key_files.read_private(Path("ann.key").read_bytes(), "", None))
    other = AESGCM(found.chunk_key(key)).encrypt(bytes(11) + b"\1", bytes(found.length), found.fixed)
    real = model_files.check_head
    for after, code in ((data[:start] + other, "file_changed"), (data[:-1] + b"\0", "sealed_chunk_damaged")):

        def verified(*arguments: Any, after: bytes = after) -> model_files.Origin:
            found = real(*arguments)
            with Path("m.sealed").open("r+b") as stream:
                stream.write(after)
            return found

        monkeypatch.setattr(model_files, "check_head", verified)
        exit_code, out, err = run(capsys, "open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "x")
        if nameless:
            assert (exit_code, Path("x").read_bytes()) == (0, Path("m.safetensors").read_bytes())
            Path("x").unlink()
            Path("m.sealed").write_bytes(data)
            continue
        assert (exit_code != 0, out, f"[{code}]" in err) == (True, "", True)
        assert not Path("x").exists()
        assert not list(Path().glob(".tmp-*"))
        Path("m.sealed").write_bytes(data)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("seal", "none", "--for", "ann.pub", "--out", "x"), "file_unreadable"),
        (("seal", "word", "--for", "ann.pub", "--out", "x"), "bad_model_file"),
        (("seal", "m.safetensors", "--for", "ann.key", "--out", "x"), "bad_key_file"),
        (("seal", "m.safetensors", "--for", "ann.pub", "--for", "ann.pub", "--out", "x"), "recipient_twice"),
        (("seal", "m.safetensors", "--for", "ann.pub", "--out", "m.safetensors"), "output_refused"),
        (("seal", "m.safetensors", "--for", "ann.pub", "--out", "no/x"), "output_refused"),
        (("seal", "m.safetensors", "--out", "x"), "passphrase_missing"),
        (("seal", "m.safetensors", "--for", "ann.pub", "--passphrase-file", "word", "--out", "x"), "recipient_mixed"),
        (("seal", "m.safetensors", "--for", "ann.pub", "--out", "dangling"), "output_refused"),
        (("seal", "m.safetensors", "--for", "ann.pub", "--out", "ann.pub"), "same_file"),
        (("seal", "m.safetensors", "--passphrase-file", "word", "--out", "word"), "same_file"),
        (("open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "ann.key"), "same_file"),
        (("open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "linked"), "same_file"),
        (("open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "n" * 300), "output_refused"),
        (("rewrap", "m.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "ann.key"), "same_file"),
        (("rewrap", "m.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "bob.pub"), "same_file"),
        (("jwe", "wrap", "m.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "m.sealed"), "same_file"),
        (("jwe", "wrap", "m.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "ann.key"), "same_file"),
        (("jwe", "wrap", "m.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "bob.pub"), "same_file"),
        (("jwe", "open", "word", "m.sealed", "--key", "ann.key", *PRINT, "--out", "word"), "same_file"),
        (("jwe", "open", "word", "m.sealed", "--key", "ann.key", *PRINT, "--out", "ann.key"), "same_file"),
        (("jws", "sign", "m.safetensors", "--out", "m.safetensors"), "same_file"),
        (("card", "m.safetensors", *PRINT, "--out", "m.safetensors"), "same_file"),
        (("export", "m.safetensors", *PRINT, "--to", "onnx", "--out", "m.safetensors"), "same_file"),
        (("card", "m.safetensors", *PRINT, "--out", "n" * 300), "file_unwritable"),
        (("diff", "n" * 300, "m.safetensors"), "not_joined"),
        (("open", "m.safetensors", "--key", "ann.key", *PRINT, "--out", "x"), "not_sealed"),
        (("open", "m.sealed", "--key", "ann.key", "--out", "x"), "fingerprint_missing"),
        (("open", "m.sealed", "--key", "ann.key", "--fingerprint", "9f2c", "--out", "x"), "bad_fingerprint"),
        (
            ("open", "m.sealed", "--key", "ann.key", "--fingerprint", THEIRS.fingerprint.hex(), "--out", "x"),
            "fingerprint_mismatch",
        ),
        (("open", "m.sealed", "--key", "ann.pub", *PRINT, "--out", "x"), "bad_key_file"),
        (("open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "m.sealed"), "output_refused"),
        (("rewrap", "m.sealed", "--key", "ann.key", "--out", "x"), "recipient_missing"),
        (("rewrap", "d.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "x"), "sealed_for_another"),
        (("open", "d.sealed", "--key", "ann.key", *PRINT, "--out", "x"), "sealed_for_another"),
        (("jwe", "wrap", "d.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "x"), "sealed_for_another"),
        (("jws", "sign", "m.safetensors", "--out", "x"), "not_initialised"),
        (("export", "m.safetensors", "--to", "csv", "--out", "x"), "fingerprint_missing"),
        (("export", "m.safetensors", "--to", "pickle", "--out", "x"), "usage"),
        (("export", "m.safetensors", *PRINT, "--out", "."), "file_unwritable"),
        (("open", "m.sealed", "--key", "ann.key", *PRINT, "--out", "."), "output_refused"),
        (("export", "m.safetensors", "--run", "run-1", *PRINT, "--out", "x"), "usage"),
        (("export", "word", *PRINT, "--to", "onnx", "--out", "x"), "bad_model_file"),
        (("card", "none.safetensors", *PRINT, "--out", "x"), "file_unreadable"),
        (("card", "run-1", *PRINT, "--out", "x"), "not_joined"),
    ],
)
def test_what_cannot_be_done_writes_nothing(place: Path, capsys: Capture, words: tuple[str, ...], code: str) -> None:
    sealed(capsys, "ann.pub")
    assert main.main(["data", "seal", "word", "--to", "ann.pub", "--out", "d.sealed"]) == 0
    Path("dangling").symlink_to("nowhere/x")
    Path("linked").symlink_to("ann.key")
    capsys.readouterr()
    assert refused(capsys, *words)[1] == code


def test_data_commands_do_not_rewrap_a_model(place: Path, capsys: Capture) -> None:
    sealed(capsys, "ann.pub")
    words = ["data", "rewrap", "m.sealed", "--key", "ann.key", "--to", "bob.pub", "--out", "x", "--json"]
    assert main.main(words) == 2
    assert "sealed_for_another" in capsys.readouterr().err


def test_a_name_that_leaves_no_room_for_a_status_list_is_a_name(place: Path, capsys: Capture) -> None:
    Path("n" * 250).write_bytes(Path("m.safetensors").read_bytes())
    assert value(capsys, "verify", "n" * 250, *PRINT)["status"] is None


@pytest.mark.parametrize("sides", [[2**53 - 1] * 300, [2**53 - 1] * 100_000, [-1], [0, 5]])
def test_a_shape_that_nobody_signed_costs_nothing(sides: list[int], place: Path, capsys: Capture) -> None:
    """The product of its sides may have millions of digits: the first that is too large ends it."""
    body = json.loads(modelfile.read_model(Path("m.safetensors").read_bytes()).signatures[0].body)
    body["layout"] = [{"name": "w", "shape": sides}]
    signatures = jcs.dumps([{"body": base64.b64encode(jcs.dumps(body)).decode()}]).decode()
    head = jcs.dumps({"__metadata__": {"signatures": signatures}})
    data = len(head).to_bytes(8, "little") + head + bytes(8)
    early = "does not fit" if sides[0] else "not what its manifest says"
    with pytest.raises(PeerError, match=early):
        sealed_model.manifest_of(io.BytesIO(data), len(data))
    Path("bad").write_bytes(data)
    assert refused(capsys, "seal", "bad", "--for", "ann.pub", "--out", "x") == (5, "bad_model_file")


def test_a_model_of_another_length_than_its_manifest_is_not_sealed(place: Path, capsys: Capture) -> None:
    data = Path("m.safetensors").read_bytes()
    for bad in (data[:-4], data + bytes(4), data[:100], data[:7], b"\xff" * 16):
        Path("bad").write_bytes(bad)
        assert refused(capsys, "seal", "bad", "--for", "ann.pub", "--out", "x") == (5, "bad_model_file")


# --- JOSE -------------------------------------------------------------------------------------------------------------


def wrapped(capsys: Capture) -> None:
    sealed(capsys, "ann.pub")
    made = value(capsys, "jwe", "wrap", "m.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "bob.jwe")
    assert made["object"] == "run-1"


def opening(*, token: str = "bob.jwe", key: str = "bob.key", file: str = "m.sealed") -> tuple[str, ...]:
    return ("jwe", "open", token, file, "--key", key, *PRINT, "--out", "x")


def test_a_token_opens_one_file_for_one_reader(place: Path, capsys: Capture) -> None:
    wrapped(capsys)
    token = Path("bob.jwe").read_bytes()
    assert len(token) < 2000, "the key and a digest, never the model"
    assert refused(capsys, "open", "m.sealed", "--key", "bob.key", *PRINT, "--out", "x")[1] == "not_a_recipient"
    assert value(capsys, *opening())["verified"]
    assert Path("x").read_bytes() == Path("m.safetensors").read_bytes()
    Path("x").unlink()
    Path("lines.jwe").write_bytes(token + b"\r\n")
    assert value(capsys, *opening(token="lines.jwe"))["run_id"] == "run-1"
    Path("x").unlink()
    assert refused(capsys, *opening(key="eve.key")) == (3, "not_a_recipient")
    assert refused(capsys, *opening(token="m.sealed"))[1] == "jose_malformed"
    Path("again").write_bytes(Path("m.sealed").read_bytes())
    sealed(capsys, "ann.pub")  # another data key, the same model
    assert refused(capsys, *opening()) == (5, "jose_mismatch")
    assert value(capsys, *opening(file="again"))["verified"]
    Path("x").unlink()
    value(capsys, "rewrap", "again", "--key", "ann.key", "--for", "bob.pub", "--out", "rewrapped")
    assert refused(capsys, *opening(file="rewrapped"))[1] == "jose_mismatch"


@pytest.mark.parametrize("what", ["key", "digest", "subject", "kind"])
def test_a_token_that_says_something_else_than_the_file(what: str, place: Path, capsys: Capture) -> None:
    wrapped(capsys)
    bob = key_files.read_private(Path("bob.key").read_bytes(), "", None)
    said = jwe.open_token(Path("bob.jwe").read_bytes(), bob)
    changes: dict[str, SealedKey] = {
        "key": dataclasses.replace(said, key=type(said.key)(b"k" * 32)),
        "digest": dataclasses.replace(said, digest=bytes(32)),
        "subject": dataclasses.replace(said, subject=Subject("model", "hospitals", "run-2")),
        "kind": dataclasses.replace(said, subject=Subject("data", "hospitals", "run-1")),
    }
    Path("bob.jwe").write_bytes(jwe.wrap(changes[what], bob.public_key()))
    code = "sealed_header_damaged" if what == "key" else "jose_mismatch"
    assert refused(capsys, *opening()) == (5, code)


def test_a_token_for_a_model_that_does_not_verify_opens_nothing(place: Path, capsys: Capture) -> None:
    data, subject, code = lies()["tampered"]
    seal_as(data, "m.sealed", subject)
    value(capsys, "jwe", "wrap", "m.sealed", "--key", "ann.key", "--for", "bob.pub", "--out", "bob.jwe")
    assert refused(capsys, *opening())[1] == code


def operator(capsys: Capture) -> tuple[str, bytes]:
    """An operator's home `op`, and a model that its coordinator signed: (fingerprint, model file)."""
    for name in ("ca", "gov"):
        Path(name).write_text(f"a long passphrase for {name}")
        Path(name).chmod(0o600)
    words = ["init", "hospitals", "--address", "127.0.0.1:7443", "--passphrase-file", "ca"]
    assert main.main(["--home", "op", *words, "--governance-passphrase-file", "gov"]) == 0
    capsys.readouterr()
    federation = founding.load_federation(Path("op"))
    key = federation.protocol_key()
    head = Member(COORDINATOR, Role.COORDINATOR, signing.public_key(key))
    governor = federation.governance_key(Passphrase(b"a long passphrase for gov"))
    roster = sign_roster(Roster(federation.federation_id, 1, (head,)), [governor]).encode()
    file = model_samples.unsigned(PLAN)
    manifest = modelfile.manifest_for(file, federation.federation_id, RunId("run-1"), 3, 1, b"t" * 32)
    blob = signing.sign(key, COORDINATOR, BlobType.MODEL, manifest.to_bytes())
    signed = dataclasses.replace(
        file,
        lineage=modelfile.lineage_text(manifest, 3),
        signatures=(blob,),
        roster=base64.b64encode(roster).decode(),
        trust_chain=base64.b64encode(federation.trust_chain).decode(),
    )
    return federation.fingerprint.hex(), modelfile.write_model(signed)


def test_a_manifest_as_a_token_is_the_operator_s_to_sign(place: Path, capsys: Capture) -> None:
    fingerprint, data = operator(capsys)
    Path("ours.safetensors").write_bytes(data)
    made = value(capsys, "jws", "sign", "ours.safetensors", "--home", "op", "--out", "ours.jws")
    body = modelfile.read_model(data).signatures[0].body
    head, payload, _ = Path("ours.jws").read_bytes().split(b".")
    assert jose.decode(payload, "payload") == body
    assert json.loads(jose.decode(head, "header")) == {
        "alg": "Ed25519",
        "kid": jose.thumbprint(made["jwk"]),
        "typ": "fedveil-manifest",
    }
    verify = ("jws", "verify", "ours.jws", "ours.safetensors", "--fingerprint", fingerprint)
    assert value(capsys, *verify)["jwk"] == made["jwk"]
    # a model that was withdrawn: by the home's list, and by the one that is named
    op = founding.load_federation(Path("op"))
    withdrawn = (modelfile.read_model(data), Stage.WITHDRAWN, op.protocol_key(), op.trust_chain)
    Path("op/status.json").write_bytes(model_samples.status_file(*withdrawn))
    signing_again = ("jws", "sign", "ours.safetensors", "--home", "op", "--out", "x")
    assert refused(capsys, *signing_again) == (4, "model_withdrawn")
    Path("op/status.json").rename("listed")
    assert refused(capsys, *signing_again, "--status", "listed") == (4, "model_withdrawn")
    assert refused(capsys, *verify, "--status", "listed") == (4, "model_withdrawn")
    assert refused(capsys, *verify[:-1], OURS.fingerprint.hex())[1] == "fingerprint_mismatch"
    # a model that another coordinator signed
    assert refused(capsys, "jws", "sign", "m.safetensors", "--home", "op", "--out", "x")[1] == "fingerprint_mismatch"
    # the token of another model of the same coordinator
    file = modelfile.read_model(data)
    manifest = dataclasses.replace(modelfile.parse_manifest(body), run_id=RunId("run-2"))
    key = founding.load_federation(Path("op")).protocol_key()
    blob = signing.sign(key, COORDINATOR, BlobType.MODEL, manifest.to_bytes())
    other = dataclasses.replace(file, signatures=(blob,), lineage=modelfile.lineage_text(manifest, 3))
    Path("other.safetensors").write_bytes(modelfile.write_model(other))
    assert refused(capsys, *verify[:3], "other.safetensors", *verify[4:]) == (5, "jose_mismatch")
    Path("forged.jws").write_bytes(
        b".".join([head, payload.replace(payload[:4], b"eyJh"), Path("ours.jws").read_bytes().split(b".")[2]])
    )
    Path("cut.jws").write_bytes(Path("ours.jws").read_bytes()[:-3])
    assert refused(capsys, *verify[:2], "cut.jws", *verify[3:])[1] == "jose_malformed"
    # a coordinator that was given another key since
    Path("op/coordinator/protocol.key").write_text("ab" * 32)
    words = ("jws", "sign", "ours.safetensors", "--home", "op", "--out", "x")
    assert refused(capsys, *words) == (2, "not_the_coordinators_key")


def test_no_signature_of_the_protocol_reads_as_a_token() -> None:
    """What the same key signs elsewhere begins with a length below 2^24; a token's input begins with "ey"."""
    for kind in BlobType:
        message = labelled(f"sig/{kind.value}", b"coordinator", b"body")
        assert message[0] == 0
        assert not message.startswith(b"ey")


# --- freshness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "m.safetensors"),
        ("open", "m.sealed", "--key", "ann.key", "--out", "x"),
        ("jwe", "open", "bob.jwe", "m.sealed", "--key", "bob.key", "--out", "x"),
        ("export", "m.safetensors", "--out", "x"),
        ("export", "m.safetensors", "--to", "onnx", "--out", "x"),
        ("card", "m.safetensors", "--out", "x"),
    ],
)
def test_the_list_that_is_named_counts(words: tuple[str, ...], place: Path, capsys: Capture) -> None:
    """`test_model_status` has the rest: here, that each command takes `--status`."""
    wrapped(capsys)
    for stage in (Stage.RELEASED, Stage.WITHDRAWN):
        listed = model_samples.status_file(model_samples.signed(PLAN), stage, OURS.coordinator_key, OURS.chain)
        Path(stage).write_bytes(listed)
    assert value(capsys, *words, *PRINT, "--status", "released")["status"]["stage"] == "released"
    Path("x").unlink(missing_ok=True)
    if words[0] == "card":
        assert value(capsys, *words, *PRINT, "--status", "withdrawn")["status"]["stage"] == "withdrawn"
    else:
        Path("x.status.json").unlink(missing_ok=True)
        assert refused(capsys, *words, *PRINT, "--status", "withdrawn") == (4, "model_withdrawn")


# --- other formats ----------------------------------------------------------------------------------------------------


def test_every_format_of_a_model_file(place: Path, capsys: Capture) -> None:
    for wanted in ("safetensors", "onnx", "sklearn", "torch", "csv"):
        made = value(capsys, "export", "m.safetensors", "--to", wanted, *PRINT, "--out", f"x.{wanted}")
        assert (made["format"], made["run_id"]) == (wanted, "run-1")
        assert made["size_bytes"] == Path(f"x.{wanted}").stat().st_size
    assert Path("x.safetensors").read_bytes() == Path("m.safetensors").read_bytes()
    code, _, err = run(capsys, "export", "m.safetensors", "--to", "onnx", *PRINT, "--out", "again")
    assert (code, Path("again").read_bytes()) == (0, Path("x.onnx").read_bytes())
    assert "no signature covers" in err
    assert "no signature covers" not in run(capsys, "export", "m.safetensors", *PRINT, "--out", "again")[2]


def test_nothing_is_exported_of_a_model_that_does_not_verify(place: Path, capsys: Capture) -> None:
    for lie in ("tampered", "of another federation", "unsigned", "signed by a stranger"):
        data, _, code = lies()[lie]
        Path("bad").write_bytes(data)
        for wanted in ("onnx", "safetensors"):
            assert refused(capsys, "export", "bad", "--to", wanted, *PRINT, "--out", "x")[1] == code
        assert refused(capsys, "card", "bad", *PRINT, "--out", "x")[1] == code


def test_a_trainer_s_model_has_one_format(place: Path, capsys: Capture) -> None:
    Path("own").write_bytes(model_samples.signed_bytes(model_samples.plan_for("trainer", "binary")))
    for wanted in ("onnx", "sklearn", "torch", "csv"):
        assert refused(capsys, "export", "own", "--to", wanted, *PRINT, "--out", "x") == (2, "format_cannot_say")
    assert value(capsys, "export", "own", *PRINT, "--out", "x")["format"] == "safetensors"


# --- cards ------------------------------------------------------------------------------------------------------------


def test_a_card_says_what_the_file_says(place: Path, capsys: Capture) -> None:
    made = value(capsys, "card", "m.safetensors", *PRINT, "--out", "card.md")
    verified = value(capsys, "verify", "m.safetensors", *PRINT)
    assert made["model"]["run_id"] == verified["run_id"]
    for name in ("fingerprint", "plan_hash", "model_hash", "roster_version"):
        assert made["digests"][name] == verified[name]
    assert made["digests"]["file_sha256"] == hashlib.sha256(Path("m.safetensors").read_bytes()).hexdigest()
    assert [one["name"] for one in made["data"]["columns"]] == list(model_samples.FEATURES)
    assert made["data"]["columns"][3] == {
        "name": "größe",
        "type": "float",
        "range": [-5, 5],
        "clamp": True,
        "missing": 2.5,
    }
    assert (made["privacy"], made["record"], made["members"]) == ("none", None, [])
    text = Path("card.md").read_text()
    for wanted in ("# Model card: sample", "größe", "no differential privacy", made["digests"]["model_hash"]):
        assert wanted in text
    assert "Not in the signed file" not in text
