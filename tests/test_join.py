"""Enrolment end to end over real HTTPS: what a joiner sends, to whom, and what it believes of the answer."""

import base64
import contextlib
import http.client
import http.server
import json
import pathlib
import pickle
import ssl
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from berths import free_port
from enrolment_office import CA, GOV, Entropy, Office, join, open_office
from fedveil_cli import identity_commands
from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError, PolicyRefusal, SealedError, Unreachable
from fedveil_common.ids import OrgId
from fedveil_common.pki import certificates, invites
from fedveil_common.pki.governance import Signed
from fedveil_common.pki.invites import Role
from fedveil_common.pki.joining import MAX_REQUEST, JoinRequest
from fedveil_common.roster import verify_roster
from fedveil_common.secret import Passphrase, PrivateKey
from fedveil_coordinator import enrollment, founding, membership
from fedveil_participant.membership import load_membership
from fedveil_participant.store import journal_key, open_store
from patience import LIMIT_S


@pytest.fixture
def office(tmp_path: pathlib.Path) -> Iterator[Office]:
    with open_office(tmp_path) as made:
        yield made


def request_of(office: Office, token_text: str, seed: int = 9) -> JoinRequest:
    """A request as an honest joiner would make it."""
    token, entropy = invites.parse_token(token_text), Entropy(seed)
    tls, key = certificates.new_key(entropy), PrivateKey(entropy.take(32))
    csr, federation_id = certificates.make_request(tls), office.federation.federation_id
    proof = invites.make_proof(federation_id, token.token_id, csr, token.invite_key, key)
    return JoinRequest(federation_id, token.token_id, csr, signing.public_key(key), proof)


def office_of(office: Office) -> enrollment.Enrolment:
    return enrollment.Enrolment(
        lambda: office.federation.trust,
        office.authority,
        office.store.members,
        office.clock,
        office.entropy,
        lambda: (office.store.records.latest_roster() or (0, b""))[1],
        lambda org, certificate, rekey: office.allowed.add(certificate),
    )


# --- the good way -----------------------------------------------------------------------------------------------------


def test_three_join_and_the_next_roster_lists_them(office: Office, tmp_path: pathlib.Path) -> None:
    for number, org in enumerate(("acme", "borealis", "cygnus")):
        report = join(office, tmp_path / org, office.invite(org), seed=10 + number)
        assert report["org"] == org
        assert report["in_roster"] is False
        assert len(str(report["check_words"]).split()) == 6
        member = load_membership(tmp_path / org)
        member.check_certificate(office.clock.now)
        assert office.allowed.identify(member.certificate_pem, office.clock.now).org_id == org
    published = office.next_roster()
    assert published["version"] == 2
    assert published["participants"] == ["acme", "borealis", "cygnus"]
    newest = office.store.records.latest_roster()
    assert newest is not None
    roster = verify_roster(newest[1], office.federation.trust.governance)
    store = open_store(tmp_path / "acme", journal_key(tmp_path / "acme", None), office.clock, Entropy(3))
    assert roster.key_of(OrgId("acme")) == signing.public_key(store.protocol_key())
    assert [sent.kind for sent in store.outbox()] == ["Join"]
    store.close()
    assert office.next_roster()["version"] == 2  # nothing changed: no new version


def test_private_keys_stay_and_their_files_are_the_owners(office: Office, tmp_path: pathlib.Path) -> None:
    home = tmp_path / "acme"
    join(office, home, office.invite("acme"))
    assert not (home / "joining.key").exists()
    for path in [*home.rglob("*"), *office.home.rglob("*")]:
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    key = (home / "tls.key").read_bytes()
    assert b"PRIVATE KEY" in key
    for path in office.home.rglob("*"):
        assert not path.is_file() or key.splitlines()[1] not in path.read_bytes()


def test_a_lost_answer_is_repeated_with_the_same_keys_and_certificate(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedveil_participant import enrolment

    home, token = tmp_path / "acme", office.invite("acme")
    real = enrolment.post_join
    answers: list[bytes] = []

    def lossy(*args: object) -> object:
        answers.append(real(*args).certificate)  # type: ignore[arg-type]
        raise Unreachable("coordinator_unreachable", "the line broke")

    monkeypatch.setattr(enrolment, "post_join", lossy)
    with pytest.raises(Unreachable):
        join(office, home, token)
    monkeypatch.setattr(enrolment, "post_join", real)
    office.clock.now += 2 * membership.INVITE_S  # expiry does not end a retry
    join(office, home, token, seed=77)
    assert load_membership(home).certificate_pem == answers[0]
    assert len(office.store.members.certificates()) == 2  # the operator's and this one


def test_rekey_replaces_key_certificate_and_roster_entry(office: Office, tmp_path: pathlib.Path) -> None:
    join(office, tmp_path / "acme", office.invite("acme"))
    office.next_roster()
    old = load_membership(tmp_path / "acme").certificate_pem
    with pytest.raises(ConfigError) as refused:
        office.invite("acme")
    assert refused.value.code == "already_member"
    report = join(office, tmp_path / "acme-again", office.invite("acme", rekey=True), seed=5)
    assert report["rekeyed"] is True
    assert office.ended == ["acme"]
    with pytest.raises(PolicyRefusal) as gone:
        office.allowed.identify(old, office.clock.now)
    assert gone.value.code == "certificate_revoked"
    published = office.next_roster()
    assert (published["version"], published["added"]) == (3, ["acme"])
    again = join(office, tmp_path / "third", office.invite("acme", rekey=True), seed=6)  # over a listed key
    assert again["in_roster"] is False


def test_a_rekey_into_the_old_folder_keeps_the_ledger_and_marks_it(office: Office, tmp_path: pathlib.Path) -> None:
    home = tmp_path / "acme"
    join(office, home, office.invite("acme"))
    office.next_roster()
    join(office, home, office.invite("acme", rekey=True), seed=5)
    store = open_store(home, journal_key(home, None), office.clock, Entropy(3))
    with pytest.raises(PolicyRefusal) as refused:
        store.admit_version("table", b"v" * 32)
    assert refused.value.code == "version_presumed_spent"
    store.close()


def test_a_journal_passphrase_also_seals_the_keys_of_an_unfinished_join(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedveil_participant import enrolment

    home, token, word = tmp_path / "acme", office.invite("acme"), Passphrase(b"journal passphrase")

    def dead(*_: object) -> object:
        raise Unreachable("coordinator_unreachable", "the line broke")

    monkeypatch.setattr(enrolment, "post_join", dead)
    with pytest.raises(Unreachable):
        join(office, home, token, passphrase=word)
    assert b"PRIVATE" not in (home / "joining.key").read_bytes()
    monkeypatch.undo()
    with pytest.raises(SealedError):
        join(office, home, token)
    assert join(office, home, token, passphrase=word)["org"] == "acme"


def test_revoke_ends_calls_and_membership(office: Office, tmp_path: pathlib.Path) -> None:
    for number, org in enumerate(("acme", "borealis")):
        join(office, tmp_path / org, office.invite(org), seed=10 + number)
    office.next_roster()
    report = identity_commands.run_revoke(office.home, "acme", "left", GOV, office)
    assert (report["ended"], report["roster_version"]) == (1, 3)
    assert office.ended == ["acme"]
    with pytest.raises(PolicyRefusal) as gone:
        office.allowed.identify(load_membership(tmp_path / "acme").certificate_pem, office.clock.now)
    assert gone.value.code == "certificate_revoked"
    newest = office.store.records.latest_roster()
    assert newest is not None
    assert verify_roster(newest[1], office.federation.trust.governance).participants == ("borealis",)


def test_revoke_without_the_governance_passphrase_says_what_is_left(office: Office, tmp_path: pathlib.Path) -> None:
    join(office, tmp_path / "acme", office.invite("acme"))
    office.next_roster()
    report = identity_commands.run_revoke(office.home, "acme", "left", None, office)
    assert report["warning"] == "roster still lists acme"
    assert office.ended == ["acme"]


def test_revoke_with_a_wrong_passphrase_does_nothing(office: Office, tmp_path: pathlib.Path) -> None:
    join(office, tmp_path / "acme", office.invite("acme"))
    with pytest.raises(SealedError) as refused:
        identity_commands.run_revoke(office.home, "acme", "left", CA, office)
    assert (refused.value.code, refused.value.exit_code) == ("passphrase_wrong", 3)
    assert office.ended == []


# --- tokens used wrongly ----------------------------------------------------------------------------------------------


def test_a_used_token_with_another_key_is_refused(office: Office, tmp_path: pathlib.Path) -> None:
    token = office.invite("acme")
    join(office, tmp_path / "acme", token)
    with pytest.raises(PeerError) as refused:
        join(office, tmp_path / "thief", token, seed=66)
    assert refused.value.code == "token_used"
    assert not (tmp_path / "thief" / "participant.json").exists()
    office.next_roster()
    with pytest.raises(PeerError) as listed:  # void once listed
        join(office, tmp_path / "thief", token, seed=67)
    assert listed.value.code == "token_used"
    alarms = [row.detail["code"] for row in office.store.records.audit_rows() if row.what == "join_refused"]
    assert alarms == ["token_used", "token_used"]


def test_who_lacks_the_invites_key_raises_no_alarm(office: Office, tmp_path: pathlib.Path) -> None:
    """Token ids stand in the roster, so every member knows them; only the invite's key makes a refusal an alarm."""
    text = office.invite("acme")
    join(office, tmp_path / "acme", text)
    stolen = request_of(office, text)
    forged = replace(stolen, proof=replace(stolen.proof, invite_sig=bytes(64)))
    status, answer = ask(office, "POST", "/join", forged.encode())
    assert (status, json.loads(answer)["code"]) == (403, "bad_join_proof")
    assert not [row for row in office.store.records.audit_rows() if row.what == "join_refused"]
    assert json.loads(ask(office, "POST", "/join", stolen.encode())[1])["code"] == "token_used"
    assert [row.who for row in office.store.records.audit_rows() if row.what == "join_refused"] == ["acme"]


def test_an_expired_token_is_refused(office: Office, tmp_path: pathlib.Path) -> None:
    token = office.invite("acme")
    office.clock.now += membership.INVITE_S
    with pytest.raises(PeerError) as refused:
        join(office, tmp_path / "acme", token)
    assert refused.value.code == "token_expired"
    assert office.store.members.members() == []


def test_an_unknown_token_is_refused(office: Office, tmp_path: pathlib.Path) -> None:
    key = office.federation.governance_key(GOV)
    made = membership.make_invite(
        office.federation.trust, office.federation.address, "acme", [key], office.clock, office.entropy
    )
    with pytest.raises(PeerError) as refused:  # the coordinator was never told of it
        join(office, tmp_path / "acme", made.token)
    assert refused.value.code == "token_unknown"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda r: replace(r, federation_id="other-0000000000000000"), "wrong_federation"),
        (lambda r: replace(r, token_id=bytes(16)), "token_unknown"),
        (lambda r: replace(r, protocol_key=bytes(range(32))), "bad_join_proof"),
        (lambda r: replace(r, csr=certificates.make_request(certificates.new_key(Entropy(5)))), "bad_join_proof"),
        (lambda r: replace(r, proof=replace(r.proof, invite_sig=bytes(64))), "bad_join_proof"),
        (lambda r: replace(r, proof=replace(r.proof, key_sig=r.proof.invite_sig)), "bad_join_proof"),
    ],
)
def test_an_altered_request_is_refused_and_leaves_the_invite_open(office: Office, spoil: object, code: str) -> None:
    request = request_of(office, office.invite("acme"))
    with pytest.raises(PeerError) as refused:
        office_of(office).join(spoil(request))  # type: ignore[operator]
    assert refused.value.code == code
    assert office.store.members.members() == []
    office_of(office).join(request)  # control: the honest request passes


def test_a_request_that_does_not_hold_its_tls_key_is_refused(office: Office) -> None:
    text = office.invite("acme")
    token, entropy = invites.parse_token(text), Entropy(4)
    honest = certificates.make_request(certificates.new_key(entropy))
    csr = honest[:-1] + bytes([honest[-1] ^ 1])
    key = PrivateKey(entropy.take(32))
    proof = invites.make_proof(office.federation.federation_id, token.token_id, csr, token.invite_key, key)
    request = JoinRequest(office.federation.federation_id, token.token_id, csr, signing.public_key(key), proof)
    with pytest.raises(PeerError) as refused:
        office_of(office).join(request)
    assert refused.value.code == "bad_csr"


def test_one_protocol_key_is_one_entry(office: Office) -> None:
    first, second = office.invite("acme"), office.invite("borealis")
    request = request_of(office, first)
    office_of(office).join(request)
    entropy = Entropy(9)
    tls = certificates.new_key(entropy)
    key = PrivateKey(entropy.take(32))
    token = invites.parse_token(second)
    csr = certificates.make_request(tls)
    proof = invites.make_proof(office.federation.federation_id, token.token_id, csr, token.invite_key, key)
    twin = JoinRequest(office.federation.federation_id, token.token_id, csr, signing.public_key(key), proof)
    assert twin.protocol_key == request.protocol_key
    with pytest.raises(PeerError) as refused:
        office_of(office).join(twin)
    assert refused.value.code == "key_in_use"


def test_a_retry_after_revocation_gets_nothing(office: Office) -> None:
    request = request_of(office, office.invite("acme"))
    office_of(office).join(request)
    office.revoke("acme", "left")
    with pytest.raises(PeerError) as refused:
        office_of(office).join(request)
    assert refused.value.code == "member_revoked"


def test_an_invite_of_the_coordinators_own_making_is_not_registered(office: Office) -> None:
    invite = invites.Invite(
        office.federation.federation_id, bytes(16), OrgId("mallory"), Role.PARTICIPANT, bytes(32), 2**40, b""
    )
    for key in (office.federation.protocol_key(), PrivateKey(bytes(32))):
        with pytest.raises(PeerError) as refused:
            office.register_invite(invites.sign_invite(invite, [key]).encode())
        assert refused.value.code == "invite_not_governance"
    with pytest.raises(PeerError) as bare:
        office.register_invite(invites.sign_invite(invite, []).encode())
    assert bare.value.code == "invite_not_governance"
    with pytest.raises(PeerError) as typed:
        office.register_invite(invite.body)
    assert typed.value.code == "bad_document"


@pytest.mark.parametrize("name", ["coordinator", "governance", "operator"])
def test_reserved_names_cannot_be_invited(office: Office, name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        office.invite(name)
    assert refused.value.code == "reserved_name"


def test_a_lying_draft_is_not_signed(office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator's process swaps a joined key for its own, or brings back a member that was removed."""
    join(office, tmp_path / "acme", office.invite("acme"))
    honest = office.roster_draft()
    rows = json.loads(honest[2])
    forged = [{**rows[0], "protocol_key": signing.public_key(PrivateKey(bytes(32))).hex()}]
    monkeypatch.setattr(office, "roster_draft", lambda: (honest[0], honest[1], json.dumps(forged), []))
    with pytest.raises(PeerError) as refused:
        office.next_roster()
    assert refused.value.code == "bad_join_proof"
    monkeypatch.undo()
    office.next_roster()
    monkeypatch.setattr(office, "roster_draft", lambda: (honest[0], honest[1], json.dumps(forged), []))
    with pytest.raises(PeerError) as swapped:
        office.next_roster()
    assert swapped.value.code == "rekey_mismatch"
    monkeypatch.undo()
    identity_commands.run_revoke(office.home, "acme", "left", GOV, office)
    newest = office.roster_draft()[0]
    monkeypatch.setattr(office, "roster_draft", lambda: (newest, honest[1], honest[2], []))
    with pytest.raises(PeerError) as revived:
        office.next_roster()
    assert revived.value.code == "invite_void"


def test_an_old_roster_shown_to_the_operator_does_not_fork_the_membership(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = office.roster_draft()[0]
    join(office, tmp_path / "acme", office.invite("acme"))
    office.next_roster()
    joined = office.roster_draft()[2]
    published: list[bytes] = []
    monkeypatch.setattr(office, "roster_draft", lambda: (first, b"", joined, []))
    monkeypatch.setattr(office, "publish_roster", lambda signed: published.append(signed) or 2)
    assert office.next_roster()["version"] == 2
    assert published == [office.federation.last_roster()]


# --- strangers --------------------------------------------------------------------------------------------------------


class Recorder(http.server.BaseHTTPRequestHandler):
    """Answers what it was told to and keeps what it was sent."""

    pages: dict[str, bytes] = {}  # noqa: RUF012
    seen: list[bytes] = []  # noqa: RUF012

    def log_message(self, *_: object) -> None: ...

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append(f"{self.command} {self.path}\n{self.headers}".encode() + body)
        page = self.pages.get(self.path)
        self.send_response(404 if page is None else 200)
        self.send_header("content-length", str(len(page or b"")))
        self.end_headers()
        self.wfile.write(page or b"")

    do_GET = do_POST = _take


@contextlib.contextmanager
def stranger(
    pages: dict[str, bytes], certificate: pathlib.Path, key: pathlib.Path
) -> Iterator[tuple[int, list[bytes]]]:
    handler = type("Stranger", (Recorder,), {"pages": pages, "seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], handler.seen  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def redirected(token: str, port: int) -> str:
    """The same token, leading to another address."""
    return invites.format_token(replace(invites.parse_token(token), address=f"127.0.0.1:{port - 1}"))


def test_a_wrong_fingerprint_ends_the_join_before_anything_secret_is_sent(
    office: Office, tmp_path: pathlib.Path
) -> None:
    founding.init(tmp_path / "evil", "hospitals", "127.0.0.1:7443", CA, GOV, None, Entropy(31), office.clock)
    evil = founding.load_federation(tmp_path / "evil")
    pages = {"/trust": evil.trust_chain, "/ca.pem": evil.authority_pem, "/join": b"{}"}
    token = office.invite("acme")
    with (
        stranger(pages, evil.server_certificate_file, evil.server_key_file) as (port, seen),
        pytest.raises(PeerError) as refused,
    ):
        join(office, tmp_path / "acme", redirected(token, port))
    assert (refused.value.code, refused.value.exit_code) == ("fingerprint_mismatch", 5)
    assert [line.split(b"\n")[0] for line in seen] == [b"GET /trust"]
    parsed = invites.parse_token(token)
    for secret in (parsed.token_id, parsed.invite_key.expose()):
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:20]):
            assert not any(form in request for request in seen)
    assert not (tmp_path / "acme" / "joining.key").exists()


def test_an_authority_that_the_chain_does_not_name_ends_the_join(office: Office, tmp_path: pathlib.Path) -> None:
    founding.init(tmp_path / "evil", "hospitals", "127.0.0.1:7443", CA, GOV, None, Entropy(31), office.clock)
    evil = founding.load_federation(tmp_path / "evil")
    pages = {"/trust": office.federation.trust_chain, "/ca.pem": evil.authority_pem, "/join": b"{}"}
    with (
        stranger(pages, evil.server_certificate_file, evil.server_key_file) as (port, seen),
        pytest.raises(PeerError) as refused,
    ):
        join(office, tmp_path / "acme", redirected(office.invite("acme"), port))
    assert refused.value.code == "authority_mismatch"
    assert [line.split(b" ")[0] for line in seen] == [b"GET", b"GET"]


def test_a_relay_of_the_true_trust_chain_gets_no_request(office: Office, tmp_path: pathlib.Path) -> None:
    """It can show the public documents, but has no server certificate of the authority."""
    founding.init(tmp_path / "evil", "hospitals", "127.0.0.1:7443", CA, GOV, None, Entropy(31), office.clock)
    evil = founding.load_federation(tmp_path / "evil")
    pages = {"/trust": office.federation.trust_chain, "/ca.pem": office.federation.authority_pem, "/join": b"{}"}
    with (
        stranger(pages, evil.server_certificate_file, evil.server_key_file) as (port, seen),
        pytest.raises(PeerError) as refused,
    ):
        join(office, tmp_path / "acme", redirected(office.invite("acme"), port))
    assert refused.value.code == "server_not_trusted"
    assert not any(line.startswith(b"POST") for line in seen)


def test_a_participant_posing_as_the_coordinator_gets_no_request(office: Office, tmp_path: pathlib.Path) -> None:
    """Its certificate is the authority's, but for clients only."""
    join(office, tmp_path / "mallory", office.invite("mallory"), seed=40)
    home = tmp_path / "mallory"
    pages = {"/trust": office.federation.trust_chain, "/ca.pem": office.federation.authority_pem, "/join": b"{}"}
    with (
        stranger(pages, home / "certificate.pem", home / "tls.key") as (port, seen),
        pytest.raises(PeerError) as refused,
    ):
        join(office, tmp_path / "acme", redirected(office.invite("acme"), port))
    assert refused.value.code == "server_not_trusted"
    assert not any(line.startswith(b"POST") for line in seen)


def test_nobody_there_is_unreachable(office: Office, tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unreachable) as refused:
        join(office, tmp_path / "acme", redirected(office.invite("acme"), free_port()))
    assert (refused.value.code, refused.value.exit_code) == ("coordinator_unreachable", 69)


def test_a_coordinator_cannot_rename_the_joiner(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers with another (genuine) invite, or with a certificate for another name."""
    from fedveil_participant import enrolment

    real, other = enrolment.post_join, office.invite("borealis")
    other_row = office.store.members.invite(invites.parse_token(other).token_id)
    assert other_row is not None
    swapped = Signed.decode(other_row.signed)
    monkeypatch.setattr(enrolment, "post_join", lambda *args: replace(real(*args), invite=swapped))
    with pytest.raises(PeerError) as refused:
        join(office, tmp_path / "acme", office.invite("acme"))
    assert refused.value.code == "wrong_invite"
    operator = (office.home / "operator" / "client.pem").read_bytes()
    monkeypatch.setattr(enrolment, "post_join", lambda *args: replace(real(*args), certificate=operator))
    with pytest.raises(PolicyRefusal) as role:
        join(office, tmp_path / "cygnus", office.invite("cygnus"), seed=50)
    assert role.value.code == "wrong_role"


# --- the listener -----------------------------------------------------------------------------------------------------


def ask(office: Office, method: str, path: str, body: bytes | Iterator[bytes] = b"") -> tuple[int, bytes]:
    context = ssl.create_default_context(cadata=office.federation.authority_pem.decode())
    connection = http.client.HTTPSConnection(
        "127.0.0.1", office.federation.listen[1] + 1, context=context, timeout=LIMIT_S
    )
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_listener_serves_what_is_public(office: Office) -> None:
    assert ask(office, "GET", "/ca.pem") == (200, office.federation.authority_pem)
    assert ask(office, "GET", "/trust") == (200, office.federation.trust_chain)
    assert jcs.loads(ask(office, "GET", "/time")[1]) == {"seconds": office.clock.now}
    assert ask(office, "GET", "/healthz")[0] == 200
    assert ask(office, "GET", "/join")[0] == 405
    assert ask(office, "GET", "/coordinator.db")[0] == 404


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"\xff", b'{"csr":1}', b"[" * 5000, b'{"a":1,"a":1}'])
def test_junk_is_a_typed_refusal(office: Office, body: bytes) -> None:
    status, answer = ask(office, "POST", "/join", body)
    assert status == 403
    assert json.loads(answer)["code"] == "bad_document"


def test_a_body_beyond_the_limit_is_not_read(office: Office) -> None:
    status, answer = ask(office, "POST", "/join", iter([b"x" * 1024] * (MAX_REQUEST // 1024 + 2)))
    assert (status, json.loads(answer)["code"]) == (413, "too_large")
    status, answer = ask(office, "POST", "/join", b"x" * (MAX_REQUEST + 1))
    assert (status, json.loads(answer)["code"]) == (413, "too_large")


# --- secrets do not show ----------------------------------------------------------------------------------------------


def test_no_secret_in_repr(office: Office) -> None:
    key = office.federation.governance_key(GOV)
    made = membership.make_invite(
        office.federation.trust, office.federation.address, "acme", [key], office.clock, office.entropy
    )
    token = invites.parse_token(made.token)
    shown = " ".join(map(repr, (made, token, key, office.federation, office.federation.authority(CA), GOV)))
    for secret in (token.invite_key, key, GOV):
        assert secret.expose().hex() not in shown
        assert repr(secret.expose())[2:-1] not in shown
    assert made.token not in shown
    with pytest.raises(TypeError):
        pickle.dumps(token)


def test_the_coordinators_store_holds_no_invite_key(office: Office, tmp_path: pathlib.Path) -> None:
    text = office.invite("acme")
    key = invites.parse_token(text).invite_key.expose()
    join(office, tmp_path / "acme", text)
    for path in office.home.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert key not in data
            assert key.hex().encode() not in data
            assert text.encode() not in data
