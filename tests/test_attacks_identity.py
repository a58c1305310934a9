"""Attacks on who said what and who may know it, by their numbers in FLSA/1 section 5: 37, 38, 40, 43, 44.

That a TLS peer speaks only for itself, and that expired and revoked certificates end at the handshake, is in
`test_edges`, `test_tls` and `test_checks_of_the_coordinator`; that no file of a journal holds a secret in clear, at any
time, in `test_participant_store`.
"""

import itertools
import os
import pickle
import signal
import traceback
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import structlog
from federation import FIVE, body_of, federation, journal, manifest_of, plan_bytes, run, signed
from fedveil_common import layout as layouts
from fedveil_common import plan as plans
from fedveil_common.crypto import agreement, signing
from fedveil_common.crypto.draws import Draws
from fedveil_common.database import FolderLock
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.masking import fixedpoint, masks
from fedveil_common.messages import Advert, BlobType, Offer, SignedBlob
from fedveil_common.secret import PrivateKey, Secret, Seed
from fedveil_participant import checks, protecting
from fedveil_participant import driver as participant
from fedveil_participant.events import ProtectUpdate
from fedveil_participant.stages import STAGES, Advertised, Idle, Stage
from small_attempts import begin

# --- 37, 38: one thing in the place of another ------------------------------------------------------------------------

KEY = PrivateKey(bytes(range(32)))
PUBLIC = signing.public_key(KEY)

ENCRYPTED = {"Announced", "Encrypting", "Submitted", "Decrypting"}
"""Stages that an attempt under masked does not have; none of them holds a secret of a dealer."""


def test_attack_37_no_signature_of_one_type_passes_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ordered pair of types. Stopped by the label under the signature, and by the type that is expected. With one
    label for all, a vote passes as an abort vote.
    """

    def passed() -> set[tuple[BlobType, BlobType]]:
        found = set()
        for made, shown in itertools.permutations(BlobType, 2):
            blob = signing.sign(KEY, FIVE[0], made, b"body")
            signing.verify(blob, PUBLIC, made)
            with pytest.raises(PeerError) as caught:
                signing.verify(blob, PUBLIC, shown)
            assert caught.value.code == "wrong_type"
            try:
                signing.verify(replace(blob, type=shown), PUBLIC, shown)
            except PeerError:
                continue
            found.add((made, shown))
        return found

    assert passed() == set()
    honest = signing.labelled
    monkeypatch.setattr(signing, "labelled", lambda label, *parts: honest("sig/any", *parts))
    assert len(passed()) == len(BlobType) * (len(BlobType) - 1)


def test_attack_37_nothing_of_one_federation_passes_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two federations with the very same keys. Stopped by `checks.manifest_roster`, and, where that is replaced, by T0,
    which holds the federation: an advert of the one is of another attempt in the other.
    """
    here, there = begin(3, 1), begin(3, 1)
    other = FederationId("elsewhere-0000000000000000")
    me, peer = there.orgs[:2]
    for org, state in there.states.items():
        there.states[org] = replace(state, roster=replace(state.roster, federation_id=other))
    before = there.states[me]
    with pytest.raises(FedveilError) as caught:
        there.tell(me, Offer(here.offered))
    assert caught.value.code == "wrong_federation"
    assert there.states[me] is before
    roster = there.states[me].roster
    theirs = replace(manifest_of(here.offered), federation_id=other, roster_hash=roster.hash)
    there.offered, there.body = signed(there.charter, COORDINATOR, BlobType.MANIFEST, theirs), theirs
    assert there.t0 != here.t0
    here.advertise()
    there.advertise()
    honest = there.adverts[peer]
    there.adverts[peer] = here.adverts[peer]
    signing.verify(here.adverts[peer], there.states[me].roster.key_of(peer), BlobType.ADVERT)
    with pytest.raises(PeerError) as caught:
        there.tell(me, there.keyset())
    assert caught.value.code == "wrong_transcript"
    there.adverts[peer] = honest
    there.deal()
    monkeypatch.setattr(checks, "manifest_roster", lambda *arguments: None)
    deceived = begin(3, 1)
    deceived.states[me] = before
    deceived.advertise((me,))
    assert isinstance(deceived.states[me].stage, Advertised), "without the check it takes part in the other's attempt"


def test_attack_38_the_coordinators_key_makes_no_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator signs an advert as itself, and as a member. Stopped by `checks.member_signature`."""
    attempt = begin(4, 1)
    attempt.advertise()
    me, victim = attempt.orgs[0], attempt.orgs[3]
    honest = attempt.adverts[victim]
    draws = Draws(Seed(bytes(32)))
    body = body_of(honest)
    assert isinstance(body, Advert)
    keys = {name: Draws(Seed(bytes([index]) * 32)).private_key("x") for index, name in enumerate(("mask", "channel"))}
    forged = replace(
        body,
        mask_key=agreement.public_key(keys["mask"]),
        channel_key=agreement.public_key(keys["channel"]),
        nonce=draws.bytes("nonce", 32),
    )
    as_itself = signed(attempt.charter, COORDINATOR, BlobType.ADVERT, replace(forged, org_id=COORDINATOR))
    as_member = replace(signed(attempt.charter, COORDINATOR, BlobType.ADVERT, forged), signer_id=victim)

    def told(blob: SignedBlob) -> str:
        kept = {org: one for org, one in attempt.adverts.items() if org != victim}
        attempt.adverts = {**kept, blob.signer_id: blob}
        before = attempt.states[me]
        with pytest.raises(PeerError) as caught:
            attempt.tell(me, attempt.keyset())
        assert attempt.states[me] is before
        attempt.adverts = {**kept, victim: honest}
        return caught.value.code

    assert told(as_itself) == "not_a_member"
    assert told(as_member) == "bad_signature"
    assert COORDINATOR not in attempt.charter.roster.participants
    before = attempt.states[me]
    attempt.tell(me, attempt.keyset())
    attempt.states[me] = before
    monkeypatch.setattr(checks, "member_signature", lambda *arguments: None)
    attempt.adverts[victim] = as_member
    (said,) = attempt.tell(me, attempt.keyset())
    assert said, "without the check it deals shares to keys that the coordinator made"


# --- 40: two coordinators ---------------------------------------------------------------------------------------------


def test_attack_40_a_coordinator_that_only_sleeps_keeps_the_folder_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    """Stopped by the lock of the folder (`database.FolderLock`): a stale process that comes back cannot meet a new one,
    so there is never a second writer of the log. That `serve` takes it is in `test_five_commands`. Without the lock
    (another folder, standing for its check) the second one begins.
    """
    ready, stopped = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with FolderLock(tmp_path):
                os.write(stopped, b"x")
                os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)
    try:
        assert os.read(ready, 1) == b"x"
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        with pytest.raises(FedveilError) as caught:
            FolderLock(tmp_path).__enter__()
        assert caught.value.code == "data_folder_in_use"
        assert str(pid) in caught.value.what
        (tmp_path / "another").mkdir()
        with FolderLock(tmp_path / "another"):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with FolderLock(tmp_path):
        pass


# --- 43: a poisoned norm ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 1e6, 1e300])
def test_attack_43_an_update_of_any_size_moves_the_sum_by_its_norm_at_most(
    size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice: by `fixedpoint.clip_l2` in the honest program, and by `Block.limit`, which clamps each integer.
    With the first replaced one coordinate moves by the largest value at most. That a dishonest program's sum is noticed
    by its size, and the model before it stays, is in `test_endings`.
    """
    plan = plans.parse_canonical(plan_bytes())
    block = layouts.layout_for(plan, layouts.Purpose.TRAIN, 0).blocks[0]
    norm, largest = plan.protection.update_norm, plan.protection.max_value
    update = np.full(block.length, size * norm)
    clipped = fixedpoint.clip_l2(update, norm)
    assert np.linalg.norm(clipped) <= norm * (1 + 1e-12)
    integers, _ = fixedpoint.quantise(clipped, block.scale, block.limit, bytes(32), 0)
    assert np.linalg.norm(integers) <= largest + np.sqrt(block.length)
    monkeypatch.setattr(fixedpoint, "clip_l2", lambda values, bound: values)
    integers, clamps = fixedpoint.quantise(fixedpoint.clip_l2(update, norm), block.scale, block.limit, bytes(32), 0)
    assert np.abs(integers).max() <= largest, "one coordinate of one member, at the very most"
    assert (clamps == block.length) == (size > 1.0)


# --- 44: secrets ------------------------------------------------------------------------------------------------------


def secrets_in(value: object) -> list[bytes]:
    """Every secret inside a value, by walking through it."""
    if isinstance(value, Secret):
        return [value.expose()]
    if is_dataclass(value):
        return [one for field in fields(value) for one in secrets_in(getattr(value, field.name))]
    if isinstance(value, tuple | list):
        return [one for item in value for one in secrets_in(item)]
    if isinstance(value, dict):
        return [one for item in value.values() for one in secrets_in(item)]
    return []


def shows(text: str, secret: bytes) -> bool:
    """Whether a text holds a secret: in hex, as Python writes bytes, or as the number it is."""
    number = str(int.from_bytes(secret, "big"))
    return any(form in text for form in (secret.hex(), secret.hex().upper(), repr(secret)[2:-1], number))


def stages_of(cluster: object) -> list[Stage]:
    """Every stage that any member's journal ever held."""
    return [stage for org in FIVE for _, stage in journal(cluster, org).stages]  # type: ignore[arg-type]


def test_attack_44_no_stage_state_or_action_shows_or_pickles_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole run: everything that holds a secret, its text and its pickle; and all that was logged meanwhile. Stopped
    by `Secret.__repr__` and `Secret.__reduce__`; with those of plain bytes every secret shows.
    """
    cluster = federation()
    asked: list[ProtectUpdate] = []
    honest = participant.Driver._protect
    monkeypatch.setattr(
        participant.Driver, "_protect", lambda self, action: (asked.append(action), honest(self, action))[1]
    )
    assert run(cluster) == "finished"
    logged = capsys.readouterr()
    stages = [stage for stage in stages_of(cluster) if not isinstance(stage, Idle)]
    assert {type(stage).__name__ for stage in stages} >= set(STAGES) - {"AbortVoted", *ENCRYPTED}
    holders = [one for one in (*stages, *asked) if secrets_in(one)]
    assert len(asked) == 2 * len(FIVE)
    secrets = {secret for one in holders for secret in secrets_in(one)}
    assert len(secrets) > 100
    for one in holders:
        text = repr(one) + str(one) + f"{one}"
        assert not [secret for secret in secrets_in(one) if shows(text, secret)]
        with pytest.raises(TypeError):
            pickle.dumps(one)
    for secret in secrets:
        assert not shows(logged.out + logged.err, secret)
    for member in cluster.members.values():
        assert member.memory.stage is None, "the journal's stage is erased after the end"
        assert member.driver is not None
        assert not secrets_in(member.driver.state.stage)
    monkeypatch.setattr(Secret, "__repr__", lambda self: repr(self.expose()))
    monkeypatch.setattr(Secret, "__reduce__", lambda self: (bytes, (self.expose(),)))
    assert all(shows(repr(one), secrets_in(one)[0]) for one in holders)
    assert pickle.dumps(holders[0])


def test_attack_44_a_defect_amid_the_secrets_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception from the innermost place where secrets are in use: its message and its traceback, as printed."""
    draws = Draws(Seed(b"\x5a" * 32))
    private, seed = draws.private_key("mask"), draws.seed("self")
    me = OrgId("acme")

    def broken(start: int, count: int) -> np.ndarray:
        raise ZeroDivisionError("a defect")

    keys = masks.mask_keys(bytes(32), me, private, seed, {me: agreement.public_key(private)})
    with pytest.raises(ZeroDivisionError) as caught:
        protecting.protect(5, 20, broken, keys, bytes(32), me, lambda index, leaf: None, None)
    text = "".join(traceback.format_exception(caught.value))
    said = {"event": "defect", "what": str(keys), "state": repr((private, seed))}
    text += structlog.dev.ConsoleRenderer(colors=False)(None, "error", said)
    text += "".join(capsys.readouterr())
    assert "a defect" in text
    assert "redacted" in text
    for secret in (private.expose(), seed.expose(), *secrets_in(keys)):
        assert not shows(text, secret)
