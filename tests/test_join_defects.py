"""Joining, and the keys that it leaves: what people ran into."""

import http.client
import json
import pathlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from berths import free_port
from enrolment_office import Entropy, Office, code_of, join, open_office
from fedveil_cli import participating
from fedveil_common import durable
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError, SealedError, Unreachable
from fedveil_common.ids import OrgId
from fedveil_common.pki import invites
from fedveil_common.roster import accept_roster, verify_roster
from fedveil_common.secret import Passphrase
from fedveil_participant import enrolment
from fedveil_participant.membership import load_membership
from fedveil_participant.store import journal_key, open_store

from tests.processes import NAMES, House, house, plan_text

WORD, OTHER = Passphrase(b"journal passphrase"), Passphrase(b"another passphrase")
SECRET_KEY = b"PRIVATE KEY"


@pytest.fixture
def office(tmp_path: pathlib.Path) -> Iterator[Office]:
    with open_office(tmp_path) as made:
        yield made


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Iterator[House]:
    with house(tmp_path) as made:
        yield made


def dead(*_: object) -> object:
    raise Unreachable("coordinator_unreachable", "the line broke")


def assert_sealed(home: pathlib.Path, word: Passphrase) -> None:
    """Neither key is in clear, and both open under `word` alone."""
    assert b'"key"' not in (home / "journal.key").read_bytes()
    assert SECRET_KEY not in (home / "tls.key").read_bytes()
    journal_key(home, word)
    assert SECRET_KEY in load_membership(home).key_pem(word)
    for wrong, code in ((None, "passphrase_missing"), (OTHER, "passphrase_wrong")):
        for opened in (lambda given: journal_key(home, given), load_membership(home).key_pem):
            with pytest.raises(SealedError) as refused:
                opened(wrong)
            assert code_of(refused) == (code, 3)


def test_no_line_is_open_while_keys_are_made_and_written(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator cuts a line that asks for nothing, and a slow disk takes its time: a join over it would fail."""
    dialled, real, held = list[http.client.HTTPSConnection](), enrolment.dial, list[bool]()

    def dial(*arguments: Any) -> http.client.HTTPSConnection:
        dialled.append(real(*arguments))
        return dialled[-1]

    def stored(path: pathlib.Path, data: bytes) -> None:
        held.extend(line.sock is not None for line in dialled)
        durable.write_file(path, data)

    monkeypatch.setattr(enrolment, "dial", dial)
    monkeypatch.setattr(enrolment, "durable", SimpleNamespace(write_file=stored, remove=durable.remove))
    join(office, tmp_path / "acme", office.invite("acme"))
    assert (held, len(dialled)) == ([False], 2)


def test_a_passphrase_seals_both_keys(office: Office, tmp_path: pathlib.Path) -> None:
    join(office, tmp_path / "acme", office.invite("acme"), passphrase=WORD)
    assert_sealed(tmp_path / "acme", WORD)


def test_a_passphrase_given_at_the_second_try_is_not_ignored(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try, without it, died when its keys may already have been enrolled: they stay, and get sealed."""
    home, token = tmp_path / "acme", office.invite("acme")
    with monkeypatch.context() as patch:
        patch.setattr(enrolment, "post_join", dead)
        with pytest.raises(Unreachable):
            join(office, home, token)
        with pytest.raises(Unreachable):
            join(office, home, token, seed=3, passphrase=WORD)
    assert SECRET_KEY not in (home / "joining.key").read_bytes()
    with pytest.raises(SealedError):
        join(office, home, token, seed=4)
    assert join(office, home, token, seed=4, passphrase=WORD)["org"] == "acme"
    assert_sealed(home, WORD)


def test_a_retry_with_a_passphrase_uses_the_keys_that_may_be_enrolled(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, token, real = tmp_path / "acme", office.invite("acme"), enrolment.post_join

    def lossy(*arguments: object) -> object:
        real(*arguments)  # type: ignore[arg-type]
        return dead()

    with monkeypatch.context() as patch:
        patch.setattr(enrolment, "post_join", lossy)
        with pytest.raises(Unreachable):
            join(office, home, token)
    assert join(office, home, token, seed=5, passphrase=WORD)["org"] == "acme", "not token_used"
    assert_sealed(home, WORD)


def test_participate_seals_what_is_in_clear_and_looking_refuses(office: Office, tmp_path: pathlib.Path) -> None:
    home = tmp_path / "acme"
    join(office, home, office.invite("acme"))
    with pytest.raises(ConfigError) as refused:
        journal_key(home, WORD)
    assert code_of(refused) == ("key_not_sealed", 2)
    before, told = journal_key(home, None), []
    member = load_membership(home)
    with pytest.raises(ConfigError) as weak:
        participating._journal_key(member, Passphrase(b"short"), Entropy(3), lambda *_: None)
    assert code_of(weak) == ("weak_passphrase", 2)
    found = participating._journal_key(member, WORD, Entropy(3), lambda kind, facts: told.append((kind, facts)))
    assert found == before == journal_key(home, WORD)
    assert [(kind, facts["files"]) for kind, facts in told] == [("sealed", "journal.key,tls.key")]
    assert_sealed(home, WORD)
    participating._journal_key(member, WORD, Entropy(4), lambda *told: pytest.fail("twice"))
    with pytest.raises(SealedError):
        participating._journal_key(member, OTHER, Entropy(4), lambda *_: None)
    assert_sealed(home, WORD)


def test_a_join_that_trusts_nobody_leaves_no_file(office: Office, tmp_path: pathlib.Path) -> None:
    parsed = invites.parse_token(office.invite("acme"))
    for changed in (
        replace(parsed, address=f"127.0.0.1:{free_port()}"),
        replace(parsed, fingerprint=bytes(32)),
    ):
        with pytest.raises((PeerError, Unreachable)):
            join(office, tmp_path / "acme", invites.format_token(changed))
        assert not (tmp_path / "acme").exists()
    with pytest.raises(ConfigError) as weak:
        join(office, tmp_path / "acme", office.invite("acme"), passphrase=Passphrase(b"short"))
    assert code_of(weak) == ("weak_passphrase", 2)
    assert not (tmp_path / "acme").exists()


def test_a_refused_join_leaves_no_key_behind_and_the_next_one_works(office: Office, tmp_path: pathlib.Path) -> None:
    used, home = office.invite("acme"), tmp_path / "thief"
    join(office, tmp_path / "acme", used)
    with pytest.raises(PeerError) as refused:
        join(office, home, used, seed=3)
    assert refused.value.code == "token_used"
    assert not (home / "joining.key").exists()
    assert join(office, home, office.invite("borealis"), seed=4, passphrase=WORD)["org"] == "borealis"
    assert_sealed(home, WORD)


@pytest.mark.parametrize("left", [b"", b"{}", b"\xff\xfe", b'{"format":"fedveil/sealed-key/v1"}'])
@pytest.mark.parametrize("word", [None, WORD], ids=["clear", "sealed"])
def test_a_pending_key_in_another_form_is_replaced(
    office: Office, tmp_path: pathlib.Path, left: bytes, word: Passphrase | None
) -> None:
    home = tmp_path / "acme"
    home.mkdir(mode=0o700)
    (home / "joining.key").write_bytes(left)
    (home / "joining.key").chmod(0o600)
    if word is None and left.startswith(b'{"format"'):
        with pytest.raises(SealedError):  # it may hold keys that are enrolled
            join(office, home, office.invite("acme"))
        return
    assert join(office, home, office.invite("acme"), passphrase=word)["org"] == "acme"
    assert not (home / "joining.key").exists()


def test_a_pending_key_of_another_token_is_replaced(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "acme"
    with monkeypatch.context() as patch:
        patch.setattr(enrolment, "post_join", dead)
        with pytest.raises(Unreachable):
            join(office, home, office.invite("acme"))
    first = (home / "joining.key").read_bytes()
    assert join(office, home, office.invite("acme"), seed=6, passphrase=WORD)["org"] == "acme"
    assert json.loads(first)["tls_key"].encode() != load_membership(home).key_pem(WORD)


def test_a_token_for_another_name_does_not_overwrite_a_member(office: Office, tmp_path: pathlib.Path) -> None:
    home = tmp_path / "acme"
    join(office, home, office.invite("acme"))
    office.next_roster()
    kept = {path.name: path.read_bytes() for path in home.iterdir() if path.suffix in {".pem", ".key", ".json"}}
    token = office.invite("borealis")
    with pytest.raises(ConfigError) as refused:
        join(office, home, token, seed=5)
    assert code_of(refused) == ("home_is_another_member", 2)
    assert {name: (home / name).read_bytes() for name in kept} == kept
    store = open_store(home, journal_key(home, None), office.clock, Entropy(3))
    newest = office.store.records.latest_roster()
    assert newest is not None
    roster = verify_roster(newest[1], office.federation.trust.governance)
    assert roster.key_of(OrgId("acme")) == signing.public_key(store.protocol_key())
    store.close()
    # what the hint says: the keys that were enrolled serve in a home of their own
    other = tmp_path / "borealis"
    other.mkdir(mode=0o700)
    (home / "joining.key").rename(other / "joining.key")
    assert join(office, other, token, seed=7)["org"] == "borealis"
    # control: a re-key of the same name
    assert join(office, home, office.invite("acme", rekey=True), seed=8)["rekeyed"] is True


def test_until_a_rekey_is_listed_the_old_entry_is_no_alarm(office: Office, tmp_path: pathlib.Path) -> None:
    join(office, tmp_path / "acme", office.invite("acme"))
    office.next_roster()
    home = tmp_path / "again"
    join(office, home, office.invite("acme", rekey=True), seed=5)
    store = open_store(home, journal_key(home, None), office.clock, Entropy(3))
    key = signing.public_key(store.protocol_key())
    store.close()
    trust = office.federation.trust
    pinned = verify_roster(load_membership(home).signed_roster, trust.governance)
    assert pinned.key_of(OrgId("acme")) != key
    assert accept_roster(pinned, pinned, me=OrgId("acme"), my_key=key) is pinned
    join(office, tmp_path / "borealis", office.invite("borealis"), seed=6)
    office.next_roster()
    newest = office.store.records.latest_roster()
    assert newest is not None
    listed = verify_roster(newest[1], trust.governance)
    assert accept_roster(pinned, listed, me=OrgId("acme"), my_key=key).key_of(OrgId("acme")) == key
    for before in (None, listed):  # nobody pinned the old entry, or the new one is pinned: it is an alarm
        with pytest.raises(PeerError) as alarm:
            accept_roster(before, replace(pinned, version=9), me=OrgId("acme"), my_key=key)
        assert alarm.value.code == "roster_lists_other_key"


def test_after_a_rekey_participate_says_not_yet_listed(home: House) -> None:
    home.found()
    plan_hash = home.plan(plan_text())
    for name in NAMES:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
    home.run("run", "start", "plan.yaml", "--detach", "--governance-passphrase-file", "gov.txt")
    joined = home.run("join", "-", stdin=home.invite("acme", "--rekey"), home="again")
    assert joined.returncode == 0
    assert "telephone the operator" in joined.stderr
    assert "run start" in joined.stderr
    home.start("again", "participate", "--accept", plan_hash, home="again")
    home.until(lambda: "not_yet_listed" in home.err("again"), "the word")
    home.until(lambda: "connected" in home.err("again"), "the session")
    assert "alarm" not in home.err("again")
