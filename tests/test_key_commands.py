"""`fedveil key` as a person uses it: stdout, stderr, exit codes, and the files that it leaves."""

import json
import pathlib
import stat
import subprocess
import sys

import phe
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fedveil_cli import main, safe_primes
from fedveil_common.crypto import signing
from fedveil_common.errors import StorageError
from fedveil_common.paillier import rsa_2048
from fedveil_common.paillier.factors import Factor
from fedveil_common.paillier.modulus_record import ModulusRecord
from fedveil_common.paillier.single_holder_files import open_private
from fedveil_common.secret import Passphrase, PrivateKey
from paillier_numbers import OTHER_P, P, Q
from phe import command_line

SECRETS = [form for prime in (P, Q, OTHER_P) for form in (str(prime)[:25], f"{prime:x}"[:25])]


@pytest.fixture
def known_primes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Safe primes that were drawn before; what was asked for is in the list."""
    asked: list[int] = []

    def known(bits: int) -> tuple[Factor, Factor]:
        asked.append(bits)
        return Factor.of(P), Factor.of(Q)

    monkeypatch.setattr(safe_primes, "safe_primes", known)
    return asked


@pytest.fixture
def passphrase_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "passphrase.txt"
    path.write_text("six words are a good passphrase\n")
    path.chmod(0o600)
    return path


Answer = tuple[int, dict[str, object], str]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Answer:
    """Exit code, the JSON on stdout ({} if none), and stderr, in which no prime stands."""
    code = main.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert not [secret for secret in SECRETS if secret in out + err]
    return code, json.loads(out) if out else {}, err


def code_of(answer: Answer) -> tuple[int, str]:
    """Exit code and error code of a refusal, which prints no result."""
    code, result, err = answer
    assert result == {}
    (line,) = [line for line in err.splitlines() if line.startswith("{")]
    return code, json.loads(line)["error"]["code"]


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- moduli ----------


def test_deal_with_openssl_for_real(tmp_path: pathlib.Path) -> None:
    """A real process that starts a real one; the record is the only file."""
    out = tmp_path / "modulus.json"
    arguments = ["key", "deal", "--bits", "2048", "--dealer", "notary", "--out", str(out), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "fedveil_cli", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 2), done.stderr
    value = json.loads(done.stdout)
    record = ModulusRecord.decode(out.read_bytes())
    assert value["fingerprint"] == record.fingerprint.hex()
    assert (value["bits"], value["s"], value["origin"], value["dealer"]) == (2048, 1, "dealt", "notary")
    assert [path.name for path in tmp_path.iterdir()] == ["modulus.json"]


def test_deal_and_show(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], known_primes: list[int]) -> None:
    out = tmp_path / "modulus.json"
    code, dealt, err = run(capsys, "key", "deal", "--bits", 2048, "--s", 3, "--out", out)
    assert (code, known_primes) == (0, [1024])
    assert "drawing two safe primes of 1024 bits" in err
    assert "power this machine off" in err
    assert not [secret for secret in SECRETS if secret in out.read_text()]
    code, shown, err = run(capsys, "key", "show", out)
    assert (code, err) == (0, "")
    assert dealt == {"file": str(out), **shown}
    assert shown["kind"] == "modulus"
    assert shown["s"] == 3
    assert shown["dealer"] == "unnamed"
    assert main.main(["key", "show", str(out)]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert "modulus of 2048 bits, s = 3\ndealt: the dealer knew the factors and says that he erased them\n" in text
    assert f"signed by key {shown['key']}\n" in text
    assert text.splitlines()[-1].replace(" ", "") == f"fingerprint{shown['fingerprint']}"


def test_adopt_and_show(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    code, adopted, err = run(capsys, "key", "adopt", "rsa-2048", "--out", first)
    assert (code, err) == (0, "")
    assert (adopted["bits"], adopted["s"], adopted["origin"]) == (2048, 1, "rsa-2048")
    assert "dealer" not in adopted
    run(capsys, "key", "adopt", "rsa-2048", "--out", second)
    assert first.read_bytes() == second.read_bytes()
    main.main(["key", "show", str(first)])
    assert "RSA-2048, the challenge number of RSA Laboratories (2001): no dealer\n" in capsys.readouterr().out
    assert code_of(run(capsys, "key", "adopt", "rsa-1024", "--out", first)) == (2, "usage")
    assert code_of(run(capsys, "key", "adopt", "rsa-2048", "--s", 4, "--out", first)) == (2, "bad_exponent")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--bits", "1024"), "modulus_too_short"),
        (("--bits", "2032"), "modulus_too_short"),
        (("--bits", "8208"), "modulus_too_long"),
        (("--bits", "2056"), "usage"),
        (("--bits", "2049"), "usage"),
        (("--bits", "many"), "usage"),
        (("--s", "0"), "bad_exponent"),
        (("--s", "4"), "bad_exponent"),
        (("--dealer", "The Notary"), "bad_name"),
        (("--signing-key", "nowhere.pem"), "key_missing"),
    ],
)
def test_deal_refuses_before_it_draws(
    options: tuple[str, ...],
    code: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    known_primes: list[int],
) -> None:
    out = tmp_path / "modulus.json"
    assert code_of(run(capsys, "key", "deal", "--out", out, *options)) == (2, code)
    assert known_primes == []
    assert not out.exists()


def test_the_usual_length_and_s(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], known_primes: list[int]
) -> None:
    """3072 bits are asked for; the primes at hand make 2048, which is seen at once."""
    answer = run(capsys, "key", "deal", "--out", tmp_path / "modulus.json")
    assert code_of(answer) == (70, "bad_safe_prime")
    assert known_primes == [1536]


def test_show_refuses_what_is_no_key(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], known_primes: list[int]
) -> None:
    del known_primes
    file, dealt = tmp_path / "other.json", tmp_path / "dealt.json"
    run(capsys, "key", "adopt", "rsa-2048", "--out", file)
    run(capsys, "key", "deal", "--bits", 2048, "--dealer", "notary", "--out", dealt)
    good = file.read_bytes()
    even = good.replace(f"{rsa_2048.N:x}".encode(), f"{rsa_2048.N - 1:x}".encode())
    for data, expected in (
        (b"nothing", (2, "bad_public_key_file")),
        (b"[1]", (2, "bad_public_key_file")),
        (b'{"format":"fedveil/paillier-public/v1"}', (2, "bad_public_key_file")),
        (dealt.read_bytes().replace(b"notary", b"other"), (5, "bad_signature")),
        (good.replace(b'"s":1', b'"s":5'), (2, "bad_exponent")),
        (even, (2, "modulus_even")),
        (b"x" * 70_000, (2, "file_too_large")),
    ):
        file.write_bytes(data)
        assert code_of(run(capsys, "key", "show", file)) == expected
    assert code_of(run(capsys, "key", "show", tmp_path / "missing")) == (2, "file_unreadable")


# --- the dealer's own key ----------


def pem(key: object, path: pathlib.Path, passphrase: bytes | None = None, rights: int = 0o600) -> pathlib.Path:
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    encode = getattr(key, "private_bytes")  # noqa: B009 - keys of several kinds
    path.write_bytes(encode(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    path.chmod(rights)
    return path


def test_deal_with_the_dealers_own_key(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    known_primes: list[int],
    passphrase_file: pathlib.Path,
) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    expected = signing.public_key(PrivateKey(bytes(range(32)))).hex()
    common = ("key", "deal", "--bits", 2048, "--out", tmp_path / "modulus.json", "--signing-key")
    code, value, _ = run(capsys, *common, pem(key, tmp_path / "clear.pem"))
    assert (code, value["key"]) == (0, expected)
    sealed = pem(key, tmp_path / "sealed.pem", b"six words are a good passphrase")
    code, value, _ = run(capsys, *common, sealed, "--passphrase-file", passphrase_file)
    assert (code, value["key"]) == (0, expected)
    del known_primes[:]
    passphrase_file.write_text("another one")
    assert code_of(run(capsys, *common, sealed, "--passphrase-file", passphrase_file)) == (3, "passphrase_wrong")
    assert code_of(run(capsys, *common, sealed)) == (3, "passphrase_missing")
    exposed = pem(key, tmp_path / "exposed.pem", rights=0o644)
    assert code_of(run(capsys, *common, exposed)) == (2, "key_exposed")
    from cryptography.hazmat.primitives.asymmetric import ec

    other = pem(ec.generate_private_key(ec.SECP256R1()), tmp_path / "other.pem")
    assert code_of(run(capsys, *common, other)) == (2, "bad_key_file")
    other.write_text("no key")
    assert code_of(run(capsys, *common, other)) == (2, "bad_key_file")
    assert known_primes == []


# --- openssl ----------


def program(folder: pathlib.Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program of the name openssl stands first, and alone, on the PATH."""
    folder.mkdir()
    path = folder / "openssl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 1", "openssl_failed"),
        ("echo; exit 0", "openssl_failed"),
        ("echo not hex", "openssl_failed"),
        ("echo -5", "openssl_failed"),
        (f"echo {P:X}; exit 3", "openssl_failed"),
        (f"echo {P - 2:X}", "bad_safe_prime"),
        (f"echo {P >> 1:X}", "bad_safe_prime"),
        (f"echo {P:X}", "factors_too_close"),
    ],
    ids=["fails", "silent", "words", "negative", "fails late", "composite", "short", "twice the same"],
)
def test_openssl_is_not_believed(
    script: str, code: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", script, monkeypatch)
    out = tmp_path / "modulus.json"
    assert code_of(run(capsys, "key", "deal", "--bits", 2048, "--out", out)) == (70, code)
    assert not out.exists()


def test_openssl_missing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "modulus.json"
    assert code_of(run(capsys, "key", "deal", "--bits", 2048, "--out", out)) == (2, "openssl_missing")


# --- pairs ----------


def made_pair(capsys: pytest.CaptureFixture[str], folder: pathlib.Path, passphrase_file: pathlib.Path) -> Answer:
    names = ("--out-private", folder / "own.key", "--out-public", folder / "own.pub")
    return run(capsys, "key", "pair", "--bits", 2048, *names, "--passphrase-file", passphrase_file)


def test_a_pair_and_its_way_to_phe_and_back(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    known_primes: list[int],
    passphrase_file: pathlib.Path,
) -> None:
    private, public = tmp_path / "own.key", tmp_path / "own.pub"
    code, made, _ = made_pair(capsys, tmp_path, passphrase_file)
    assert (code, known_primes) == (0, [1024])
    assert (made["private"], made["public"], made["origin"], made["s"]) == (
        str(private),
        str(public),
        "single-holder",
        1,
    )
    assert mode(private) == 0o600
    assert not [secret for secret in SECRETS if secret in private.read_text() + public.read_text()]
    code, shown, err = run(capsys, "key", "show", public)
    assert (code, shown["fingerprint"], err) == (0, made["fingerprint"], "")
    main.main(["key", "show", str(public)])
    assert "single holder: whoever holds the private key opens everything alone\n" in capsys.readouterr().out

    code, _, err = run(capsys, "key", "export-phe", public, "--out", tmp_path / "phe.pub")
    assert (code, err) == (0, "")
    theirs = command_line.load_public_key(json.loads((tmp_path / "phe.pub").read_text()))
    opened = open_private(private.read_bytes(), Passphrase(b"six words are a good passphrase"))
    assert opened.decrypt(theirs.raw_encrypt(55)) == 55

    clear = tmp_path / "phe.json"
    exporting = ("key", "export-phe", private, "--private", "--out", clear, "--passphrase-file", passphrase_file)
    code, value, err = run(capsys, *exporting)
    assert (code, value["private"], mode(clear)) == (0, True, 0o600)
    assert "holds the factors in clear" in err
    assert json.loads(clear.read_text())["p"] in {phe.util.int_to_base64(P), phe.util.int_to_base64(Q)}
    assert code_of(run(capsys, *exporting)) == (2, "key_exists")

    again, again_public = tmp_path / "again.key", tmp_path / "again.pub"
    importing = ("key", "import-phe", clear, "--out-private", again, "--out-public", again_public)
    code, value, err = run(capsys, *importing, "--passphrase-file", passphrase_file)
    assert (code, value["fingerprint"], mode(again)) == (0, made["fingerprint"], 0o600)
    assert "still holds the private key in clear" in err
    assert "may have read" not in err
    assert again_public.read_bytes() == public.read_bytes()
    assert open_private(again.read_bytes(), Passphrase(b"six words are a good passphrase")).factors == opened.factors


def test_import_of_a_public_key_and_of_the_public_half(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = phe.util.int_to_base64
    half = {"kty": "DAJ", "alg": "PAI-GN1", "key_ops": ["encrypt"], "n": text(P * Q), "kid": ""}
    whole = {"kty": "DAJ", "key_ops": ["decrypt"], "p": text(P), "q": text(Q), "pub": half, "kid": ""}
    file, public = tmp_path / "phe.json", tmp_path / "own.pub"
    file.write_text(json.dumps(half))
    code, first, err = run(capsys, "key", "import-phe", file, "--out-public", public)
    assert (code, err) == (0, "")
    answer = run(capsys, "key", "import-phe", file, "--out-public", public, "--out-private", tmp_path / "own.key")
    assert code_of(answer) == (2, "not_a_private_key")
    file.write_text(json.dumps(whole))
    file.chmod(0o644)
    code, second, err = run(capsys, "key", "import-phe", file, "--out-public", public)
    assert (code, second) == (0, first)
    assert "may have read the private key" in err
    file.write_text(json.dumps({**whole, "p": text(OTHER_P)}))
    assert code_of(run(capsys, "key", "import-phe", file, "--out-public", public)) == (2, "factors_of_another")
    file.write_text("{}")
    assert code_of(run(capsys, "key", "import-phe", file, "--out-public", public)) == (2, "bad_phe_key")
    assert not (tmp_path / "own.key").exists()


def test_pair_refuses_before_it_draws(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    known_primes: list[int],
    passphrase_file: pathlib.Path,
) -> None:
    common = ("key", "pair", "--bits", 2048, "--out-private", tmp_path / "own.key", "--out-public")
    given = ("--passphrase-file", passphrase_file)
    assert code_of(run(capsys, *common, tmp_path / "own.pub")) == (3, "passphrase_missing")
    assert code_of(run(capsys, *common, tmp_path / "own.key", *given)) == (2, "usage")
    assert code_of(run(capsys, *common, tmp_path / "own.pub", *given, "--bits", 2047)) == (2, "usage")
    assert code_of(run(capsys, *common, tmp_path / "own.pub", *given, "--bits", 1024)) == (2, "modulus_too_short")
    assert code_of(run(capsys, *common, tmp_path / "own.pub", *given, "--s", 9)) == (2, "bad_exponent")
    passphrase_file.write_text("short")
    assert code_of(run(capsys, *common, tmp_path / "own.pub", *given)) == (2, "weak_passphrase")
    (tmp_path / "own.key").write_text("an older key")
    assert code_of(run(capsys, *common, tmp_path / "own.pub", *given)) == (2, "key_exists")
    assert (tmp_path / "own.key").read_text() == "an older key"
    assert known_primes == []
    assert not (tmp_path / "own.pub").exists()


def test_a_pair_is_both_files_or_none(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    known_primes: list[int],
    passphrase_file: pathlib.Path,
) -> None:
    del known_primes
    names = ("--out-private", tmp_path / "own.key", "--out-public", tmp_path / "missing" / "own.pub")
    answer = run(capsys, "key", "pair", "--bits", 2048, *names, "--passphrase-file", passphrase_file)
    assert code_of(answer) == (StorageError.exit_code, "file_unwritable")
    assert not (tmp_path / "own.key").exists()


def test_export_refuses_what_it_cannot_say(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    known_primes: list[int],
    passphrase_file: pathlib.Path,
) -> None:
    del known_primes
    names = ("--out-private", tmp_path / "own.key", "--out-public", tmp_path / "own.pub")
    run(capsys, "key", "pair", "--bits", 2048, "--s", 2, *names, "--passphrase-file", passphrase_file)
    out = tmp_path / "phe.json"
    assert code_of(run(capsys, "key", "export-phe", tmp_path / "own.pub", "--out", out)) == (2, "phe_needs_s_1")
    exporting = ("key", "export-phe", tmp_path / "own.key", "--private", "--out", out)
    assert code_of(run(capsys, *exporting, "--passphrase-file", passphrase_file)) == (2, "phe_needs_s_1")
    assert code_of(run(capsys, *exporting)) == (3, "passphrase_missing")
    assert code_of(run(capsys, "key", "export-phe", tmp_path / "own.key", "--out", out)) == (2, "bad_public_key_file")
    passphrase_file.write_text("the wrong words")
    assert code_of(run(capsys, *exporting, "--passphrase-file", passphrase_file)) == (3, "passphrase_wrong")
    (tmp_path / "own.key").chmod(0o644)
    assert code_of(run(capsys, *exporting, "--passphrase-file", passphrase_file)) == (2, "key_exposed")
    assert not out.exists()
