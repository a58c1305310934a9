"""Tokens, sealed keys, check words, the founded folder: what rests on a disk or is pasted by a person."""

import base64
import hashlib
import pathlib
import stat
from dataclasses import replace

import pytest
from enrolment_office import CA, GOV, NOW, Clock, Entropy
from fedveil_cli import identity_commands
from fedveil_cli.world import World
from fedveil_common import jcs
from fedveil_common.errors import ConfigError, PeerError, SealedError
from fedveil_common.pki import invites, sealed_keys, words
from fedveil_common.pki.invites import Token
from fedveil_common.ports import NoFailpoints
from fedveil_common.roster import verify_roster
from fedveil_common.secret import Passphrase, PrivateKey
from fedveil_coordinator import founding
from fedveil_coordinator.store import open_store
from fedveil_participant.membership import load_membership
from hypothesis import given
from hypothesis import strategies as st

from tests import passphrase_costs

TOKEN = Token("fed.example.org:7443", bytes(range(32)), bytes(16), PrivateKey(bytes(range(100, 132))))
TEXT = invites.format_token(TOKEN)


# --- tokens -----------------------------------------------------------------------------------------------------------


def raw(data: bytes) -> str:
    return "fv1_" + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def summed(fields: bytes) -> str:
    return raw(fields + hashlib.sha256(fields).digest()[:4])


def test_a_token_reads_back_with_white_space_around_it() -> None:
    assert invites.parse_token(f"  {TEXT}\r\n") == TOKEN
    assert len(TEXT) < 170


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "token_missing"),
        (" \n", "token_missing"),
        ("hello", "token_unknown_version"),
        (TEXT.removeprefix("fv1_"), "token_unknown_version"),
        ("fv2_" + TEXT[4:], "token_unknown_version"),
        ("fv1_", "token_malformed"),
        ("fv1_AAAA", "token_malformed"),
        ("fv1_!" + TEXT[5:], "token_malformed"),
        ("fv1_ä" + TEXT[5:], "token_malformed"),
        (TEXT[:40] + "\n" + TEXT[40:], "token_malformed"),
        (TEXT[:-6], "token_malformed"),
        (TEXT + "AAAA", "token_malformed"),
        (TEXT + "A" * 2000, "token_malformed"),
        (TEXT[:-1] + ("A" if TEXT[-1] != "A" else "B"), "token_altered"),
        (TEXT[:30] + ("A" if TEXT[30] != "A" else "B") + TEXT[31:], "token_altered"),
        (TEXT + TEXT, "token_malformed"),
        (summed(bytes([3]) + b"\xff\xff\xff" + bytes(80)), "token_malformed"),
        (summed(bytes([3]) + b"a b" + bytes(80)), "bad_address"),
        (summed(bytes([0]) + bytes(80)), "bad_address"),
    ],
)
def test_bad_tokens(text: str, code: str) -> None:
    with pytest.raises(ConfigError) as refused:
        invites.parse_token(text)
    assert (refused.value.code, refused.value.exit_code) == (code, 2)
    assert TEXT[60:100] not in str(refused.value)  # the part that holds the key


def test_the_spare_bits_of_base64_make_no_second_token() -> None:
    text = invites.format_token(replace(TOKEN, address="fed1.example.org:7443"))
    assert len(text.removeprefix("fv1_")) % 4 == 2  # so that the last character carries four unused bits
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    sibling = text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]
    with pytest.raises(ConfigError) as refused:
        invites.parse_token(sibling)
    assert refused.value.code == "token_altered"


@given(st.text(max_size=300) | st.binary(max_size=200).map(raw) | st.binary(max_size=200).map(summed))
def test_no_text_does_anything_but_parse_or_refuse(text: str) -> None:
    try:
        token = invites.parse_token(text)
    except ConfigError as error:
        code = error.code
    else:
        code, text = "", text.strip()
        assert invites.format_token(token) == text
    assert code in {"", "token_missing", "token_unknown_version", "token_malformed", "token_altered", "bad_address"}


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":7443", "host:0", "host:65535", "host:x", "a b:1", "::1:7443", "h/x:1", "h\n:1"]
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        invites.split_address(address)
    assert refused.value.code == "bad_address"


def test_addresses() -> None:
    assert invites.split_address("[::1]:7443") == ("::1", 7443)
    assert founding.full_address("fed.example.org") == "fed.example.org:7443"
    assert founding.full_address("[::1]") == "[::1]:7443"
    assert founding.full_address("10.0.0.1:99") == "10.0.0.1:99"


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_parse_as_an_invite_or_refuse(data: bytes) -> None:
    with pytest.raises(PeerError) as refused:
        invites.parse_invite(data)
    assert refused.value.code == "bad_document"


# --- sealed keys ------------------------------------------------------------------------------------------------------


def test_a_sealed_key_opens_with_its_passphrase_only() -> None:
    sealed = sealed_keys.seal_key(b"secret bytes", CA, "authority", Entropy(1))
    assert sealed_keys.open_key(sealed, CA, "authority") == b"secret bytes"
    assert b"secret" not in sealed
    for word, purpose, code in (
        (GOV, "authority", "passphrase_wrong"),
        (CA, "governance", "passphrase_wrong"),
        (None, "authority", "passphrase_missing"),
        (Passphrase(b""), "authority", "passphrase_missing"),
    ):
        with pytest.raises(SealedError) as refused:
            sealed_keys.open_key(sealed, word, purpose)
        assert (refused.value.code, refused.value.exit_code) == (code, 3)


def test_the_product_stretches_passphrases_with_scrypt_at_full_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    passphrase_costs.restore(monkeypatch)
    assert sealed_keys.COST == 2**17
    sealed = jcs.loads(sealed_keys.seal_key(b"x", CA, "authority", Entropy(1)))
    assert isinstance(sealed, dict)
    assert (sealed["kdf"], sealed["n"], sealed["r"], sealed["p"]) == ("scrypt", 2**17, 8, 1)


@pytest.mark.parametrize(
    "change", [{"n": 2**19}, {"n": 1000}, {"r": 16}, {"p": 2}, {"kdf": "md5"}, {"salt": "00"}, {"format": "x"}]
)
def test_parameters_that_are_not_ours_are_refused_before_deriving(change: dict[str, jcs.Json]) -> None:
    value = jcs.loads(sealed_keys.seal_key(b"x", CA, "authority", Entropy(1)))
    assert isinstance(value, dict)
    with pytest.raises(ConfigError) as refused:
        sealed_keys.open_key(jcs.dumps({**value, **change}), CA, "authority")
    assert refused.value.code == "bad_key_file"


def test_every_changed_byte_of_the_ciphertext_is_noticed() -> None:
    value = jcs.loads(sealed_keys.seal_key(b"key", CA, "authority", Entropy(1)))
    assert isinstance(value, dict)
    text = str(value["ciphertext"])
    for at in range(0, len(text), 7):
        other = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
        with pytest.raises(SealedError):
            sealed_keys.open_key(jcs.dumps({**value, "ciphertext": other}), CA, "authority")


def test_weak_passphrases_are_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        sealed_keys.seal_key(b"x", Passphrase(b"1234567"), "authority", Entropy(1))
    assert refused.value.code == "weak_passphrase"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path: pathlib.Path, mode: int) -> None:
    path = tmp_path / "x.key"
    path.write_bytes(b"key")
    path.chmod(0o600)
    assert sealed_keys.read_private(path) == b"key"
    path.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        sealed_keys.read_private(path)
    assert refused.value.code == "key_exposed"


def test_a_missing_or_linked_key_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError) as missing:
        sealed_keys.read_private(tmp_path / "none")
    assert missing.value.code == "key_missing"
    (tmp_path / "real").write_bytes(b"key")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError) as linked:
        sealed_keys.read_private(tmp_path / "link")
    assert linked.value.code == "key_unreadable"


# --- check words ------------------------------------------------------------------------------------------------------


def test_words_are_256_and_tell_keys_apart() -> None:
    assert len(words.WORDS) == 256
    assert len({word[:4] for word in words.WORDS}) == 256
    assert list(words.WORDS) == sorted(words.WORDS)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words.WORDS)
    shown = {words.check_words(bytes([value])) for value in range(256)}
    assert len(shown) == 256
    assert all(len(text.split()) == 6 for text in shown)
    assert words.check_words(b"a key") == words.check_words(b"a key")


# --- founding ---------------------------------------------------------------------------------------------------------


def found(home: pathlib.Path, **change: object) -> identity_commands.Report:
    settings: dict[str, object] = {"name": "hospitals", "address": "fed.example.org", "ca": CA, "gov": GOV, "dir": None}
    settings |= change
    return identity_commands.run_init(
        home,
        settings["name"],  # type: ignore[arg-type]
        settings["address"],  # type: ignore[arg-type]
        settings["ca"],  # type: ignore[arg-type]
        settings["gov"],  # type: ignore[arg-type]
        settings["dir"],  # type: ignore[arg-type]
        World(Clock(), Entropy(1), NoFailpoints()),
    )


def test_a_founded_folder(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "home"
    report = found(home)
    federation = founding.load_federation(home)
    assert str(report["federation_id"]).startswith("hospitals-")
    assert len(federation.federation_id) == len("hospitals-") + 16
    assert federation.address == "fed.example.org:7443"
    assert federation.listen == ("0.0.0.0", 7443)
    assert identity_commands.run_fingerprint(home)["fingerprint"] == report["fingerprint"]
    store = open_store(home, Clock())
    newest = store.records.latest_roster()
    assert newest is not None
    roster = verify_roster(newest[1], federation.trust.governance)
    assert (roster.version, roster.participants) == (1, ())
    assert [row.role for row in store.members.certificates()] == ["operator"]
    store.close()
    for path in home.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_sealed_keys_of_a_founded_folder(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "home"
    found(home)
    federation = founding.load_federation(home)
    before = {path: path.read_bytes() for path in home.rglob("*.key")}
    federation.authority(CA)
    federation.governance_key(GOV)
    for word, code in ((GOV, "passphrase_wrong"), (None, "passphrase_missing")):
        with pytest.raises(SealedError) as refused:
            federation.authority(word)
        assert refused.value.code == code
    with pytest.raises(SealedError) as other:
        federation.governance_key(CA)
    assert other.value.code == "passphrase_wrong"
    assert {path: path.read_bytes() for path in home.rglob("*.key")} == before
    assert b"PRIVATE KEY" not in (home / "authority" / "ca.key").read_bytes()


def test_equal_passphrases_are_refused_and_nothing_is_made(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError) as refused:
        found(tmp_path / "home", gov=CA)
    assert (refused.value.code, refused.value.exit_code) == ("equal_passphrases", 2)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["lock"]


def test_a_folder_is_founded_once(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "home"
    first = found(home)
    before = {path: path.read_bytes() for path in home.rglob("*.key")}
    with pytest.raises(ConfigError) as refused:
        found(home, name="others")
    assert refused.value.code == "already_initialised"
    assert {path: path.read_bytes() for path in home.rglob("*.key")} == before
    assert identity_commands.run_fingerprint(home)["fingerprint"] == first["fingerprint"]
    (home / "federation.json").unlink()
    with pytest.raises(ConfigError) as half:
        found(home)
    assert half.value.code == "init_incomplete"


def test_governance_on_another_medium(tmp_path: pathlib.Path) -> None:
    home, medium = tmp_path / "home", tmp_path / "stick"
    found(home, dir=medium)
    assert not (home / "governance").exists()
    key = founding.load_federation(home).governance_key(GOV)
    assert isinstance(key, PrivateKey)
    (medium / "governance.key").rename(medium / "away")
    federation = founding.load_federation(home)
    federation.authority(CA)  # serving needs nothing of the medium
    federation.protocol_key()
    federation.server_credentials()
    with pytest.raises(ConfigError) as missing:
        federation.governance_key(GOV)
    assert missing.value.code == "key_missing"


@pytest.mark.parametrize("name", ["", "Hospitals", "a b", "x" * 41, "../x"])
def test_names_that_no_federation_has(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        found(tmp_path / "home", name=name)
    assert refused.value.code == "bad_name"


def test_folders_that_hold_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError) as operator:
        founding.load_federation(tmp_path)
    assert operator.value.code == "not_initialised"
    with pytest.raises(ConfigError) as participant:
        load_membership(tmp_path)
    assert participant.value.code == "not_joined"
    found(tmp_path / "home")
    with pytest.raises(ConfigError) as used:
        identity_commands.run_join(tmp_path / "home", TEXT, None, World(Clock(NOW), Entropy(1), NoFailpoints()))
    assert used.value.code == "home_in_use"


def test_a_mistyped_token_leaves_no_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError):
        identity_commands.run_join(tmp_path / "new", TEXT[:-1], None, World(Clock(NOW), Entropy(1), NoFailpoints()))
    assert not (tmp_path / "new").exists()
