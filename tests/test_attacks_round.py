"""Attacks of a coordinator (and members who help it) on an open attempt: 9 to 13, 17, 18, 22, 23 of FLSA/1 section 5.

Each is run three times: with an honest message, which passes; as an attack, which the one named check stops; and again
with exactly that check replaced, where the attack must succeed. `rogue` plays the coordinator and holds its key.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from federation import FIVE, body_of, journal, signed
from fedveil_common import transcript, wire
from fedveil_common.crypto import agreement, shamir
from fedveil_common.errors import PeerError
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.masking import masks
from fedveil_common.masking import shares as sealing
from fedveil_common.masking.ring import zeros
from fedveil_common.messages import (
    AckMessage,
    Advert,
    BlobType,
    CoordinatorMessage,
    KeySet,
    Offer,
    Proposal,
    ShareAck,
    ShareMsg,
    Shares,
    SignedBlob,
)
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey, Seed, Share
from fedveil_participant import checks
from fedveil_participant.stages import Acked, Advertised, Encoding, Held, PeerKeys, Shared, Stage
from numpy.typing import NDArray
from rogue import Outcome, Rogue

from tests import whole_vectors

VICTIM, PEER, OTHER = FIVE[2], FIVE[3], FIVE[4]
MINE = PrivateKey(b"\x11" * 32)
"""The attacker's own key."""


def nothing(*arguments: object) -> None:
    """A check that is not there."""


def unchecked_advert(blob: SignedBlob, frame: object) -> Advert:
    body = body_of(blob)
    assert isinstance(body, Advert)
    return body


Message = Callable[[Rogue], CoordinatorMessage]


def attack(
    stage: str,
    forge: Message,
    code: str,
    check: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    honest: Message,
    instead: Callable[..., object] = nothing,
) -> tuple[Rogue, Outcome]:
    """The three runs at one member; returns the last. `kind`: the trail entry that shows that it went on."""
    rogue = Rogue().reach(stage)
    rogue.say(VICTIM, forge(rogue)).refused(code)
    rogue.say(VICTIM, honest(rogue)).accepted(kind)
    rogue = Rogue().reach(stage)
    message = forge(rogue)
    monkeypatch.setattr(checks, check, instead)
    outcome = rogue.say(VICTIM, message)
    outcome.accepted(kind)
    return rogue, outcome


def tampered(blob: SignedBlob, **changes: object) -> SignedBlob:
    """Another body under the old signature: what one does who has no key."""
    return replace(blob, body=wire.encode_body(replace(body_of(blob), **changes)))  # type: ignore[arg-type]


def stage_of(rogue: Rogue, org: OrgId, kind: str) -> Stage:
    """The stage that a member's journal held after `kind`."""
    return next(stage for said, stage in journal(rogue.cluster, org).stages if said == kind)


# --- 9, 10, 11: the key set -------------------------------------------------------------------------------------------


def in_the_middle(rogue: Rogue) -> KeySet:
    """The channel key of every other member is one of the attacker's own."""
    made = {
        org: tampered(rogue.advert(org), channel_key=agreement.public_key(PrivateKey(bytes([index + 1]) * 32)))
        for index, org in enumerate(FIVE)
        if org != VICTIM
    }
    return rogue.keyset(replaced=made)


def test_attack_09_and_rival_R4_channel_key_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.advert_signature`. Without it the coordinator opens every share that the victim deals, and has
    both of its secrets before anyone has voted.
    """
    rogue, outcome = attack(
        "advert", in_the_middle, "bad_signature", "advert_signature", monkeypatch, "shares", lambda r: r.keyset()
    )
    (message,) = [one for one in outcome.said if isinstance(one, Shares)]
    own = unchecked_advert(rogue.advert(VICTIM), None)
    keys: dict[int, bytes] = {}
    seeds: dict[int, bytes] = {}
    for blob in message.shares:
        stolen = body_of(blob)
        assert isinstance(stolen, ShareMsg)
        x = FIVE.index(stolen.recipient) + 1
        mine = PrivateKey(bytes([x]) * 32)
        read = sealing.open_share(stolen, x, mine, own.channel_key, own.kappa_commit, rogue.t0)
        keys[x], seeds[x] = read.key_share.expose(), read.self_share.expose()
    stage = stage_of(rogue, VICTIM, "shares")
    assert isinstance(stage, Shared)
    assert shamir.reconstruct(keys, rogue.body.threshold) == stage.mask_key.expose()
    assert shamir.reconstruct(seeds, rogue.body.threshold) == stage.self_seed.expose()


def test_attack_09_and_rival_R4_mask_key_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.advert_signature`. Without it the victim masks with a stream whose key the attacker has."""
    rogue, _ = attack(
        "advert",
        lambda r: r.keyset(replaced={PEER: tampered(r.advert(PEER), mask_key=agreement.public_key(MINE))}),
        "bad_signature",
        "advert_signature",
        monkeypatch,
        "shares",
        lambda r: r.keyset(),
    )
    stage = stage_of(rogue, VICTIM, "shares")
    assert isinstance(stage, Shared)
    public = {one.org_id: one.mask_key for one in stage.peers}
    t2 = transcript.t2(stage.t1, FIVE)
    streams = masks.mask_keys(t2, VICTIM, stage.mask_key, stage.self_seed, public)
    assert VICTIM < PEER
    known = masks.pair_key(t2, MINE, public[VICTIM], VICTIM, PEER, public[VICTIM], agreement.public_key(MINE))
    assert Seed(known) in [one.key for one in streams]


def test_attack_09_own_advert_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.own_advert`: secrets would be dealt in a key set without the victim's keys."""
    others = tuple(org for org in FIVE if org != VICTIM)
    attack(
        "advert",
        lambda r: r.keyset(others),
        "own_advert_altered",
        "own_advert",
        monkeypatch,
        "shares",
        lambda r: r.keyset(),
    )


def test_attack_09_own_advert_altered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped twice: `checks.advert_signature` and, without it, `checks.own_advert`."""

    def forge(rogue: Rogue) -> KeySet:
        return rogue.keyset(replaced={VICTIM: tampered(rogue.advert(VICTIM), mask_key=agreement.public_key(MINE))})

    rogue = Rogue().reach("advert")
    rogue.say(VICTIM, forge(rogue)).refused("bad_signature")
    monkeypatch.setattr(checks, "advert_signature", nothing)
    rogue.say(VICTIM, forge(rogue)).refused("own_advert_altered")
    monkeypatch.setattr(checks, "own_advert", nothing)
    rogue.say(VICTIM, forge(rogue)).accepted("shares")


def test_attack_10_advert_of_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.advert_of`: T0 binds an advert to its attempt; without it old keys are dealt to again."""

    def scene() -> tuple[Rogue, KeySet]:
        rogue = Rogue().reach("advert")
        old = rogue.advert(PEER)
        before = rogue.earlier(1)
        rogue.offered = rogue.manifest(key=AttemptKey(rogue.body.key.run_id, 1, 2), abort_certificates=before)
        rogue.everyone(lambda org: Offer(rogue.offered))
        return rogue, rogue.keyset(replaced={PEER: old})

    rogue, replay = scene()
    rogue.say(VICTIM, replay).refused("wrong_transcript")
    rogue.say(VICTIM, rogue.keyset()).accepted("shares")
    rogue, replay = scene()
    old = stage_of(rogue, PEER, "advert")
    assert isinstance(old, Advertised)
    assert old.frame.key.attempt == 1
    monkeypatch.setattr(checks, "advert_of", unchecked_advert)
    outcome = rogue.say(VICTIM, replay)
    outcome.accepted("shares")
    (message,) = [one for one in outcome.said if isinstance(one, Shares)]
    own = unchecked_advert(rogue.advert(VICTIM), None)
    (dealt,) = [body for one in message.shares if isinstance(body := body_of(one), ShareMsg) and body.recipient == PEER]
    read = sealing.open_share(dealt, FIVE.index(PEER) + 1, old.channel_key, own.channel_key, own.kappa_commit, rogue.t0)
    assert read.key_share.expose() != bytes(33), "opened with a key of the attempt before"


def test_attack_11_one_key_for_masks_and_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.fresh_keys`. Without it, once PEER has dropped, the mask key that its shares give is the key
    of the channel, too, and whoever rebuilt it opens what the victim dealt to PEER.
    """

    def forge(rogue: Rogue) -> KeySet:
        channel = unchecked_advert(rogue.advert(PEER), None).channel_key
        return rogue.keyset(replaced={PEER: rogue.again(rogue.advert(PEER), mask_key=channel)})

    rogue, outcome = attack("advert", forge, "key_reused", "fresh_keys", monkeypatch, "shares", lambda r: r.keyset())
    stage = stage_of(rogue, PEER, "advert")
    assert isinstance(stage, Advertised)
    rebuilt = stage.channel_key  # what PEER would have dealt as its mask key
    (message,) = [one for one in outcome.said if isinstance(one, Shares)]
    (dealt,) = [body for one in message.shares if isinstance(body := body_of(one), ShareMsg) and body.recipient == PEER]
    own = unchecked_advert(rogue.advert(VICTIM), None)
    read = sealing.open_share(dealt, FIVE.index(PEER) + 1, rebuilt, own.channel_key, own.kappa_commit, rogue.t0)
    mine = stage_of(rogue, VICTIM, "shares")
    assert isinstance(mine, Shared)
    assert read.self_share == next(one.self_share for one in mine.dealt if one.recipient == PEER)


def test_attack_10_advert_relabelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrupt member signs an advert in the name of another. Stopped by `checks.advert_of`."""
    attack(
        "advert",
        lambda r: r.keyset(replaced={PEER: r.again(r.advert(PEER), org_id=OTHER)}),
        "wrong_signer",
        "advert_of",
        monkeypatch,
        "shares",
        lambda r: r.keyset(),
        unchecked_advert,
    )


LOW_ORDER = bytes(32)
NOT_CANONICAL = (2**255 - 19 + 9).to_bytes(32, "little")
BAD_KEYS: dict[str, tuple[Callable[[Rogue], dict[str, object]], str]] = {
    "mask key of another": (lambda r: {"mask_key": unchecked_advert(r.advert(OTHER), None).mask_key}, "key_reused"),
    "mask key of mine": (lambda r: {"mask_key": unchecked_advert(r.advert(VICTIM), None).mask_key}, "key_reused"),
    "mask key is its channel key": (
        lambda r: {"mask_key": unchecked_advert(r.advert(PEER), None).channel_key},
        "key_reused",
    ),
    "low order": (lambda r: {"mask_key": LOW_ORDER}, "bad_public_key"),
    "not canonical": (lambda r: {"mask_key": NOT_CANONICAL}, "bad_public_key"),
}


@pytest.mark.parametrize(("changes", "code"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_attack_11_keys_that_are_not_fresh(
    changes: Callable[[Rogue], dict[str, object]], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.fresh_keys`. A corrupt member signs the advert itself."""
    attack(
        "advert",
        lambda r: r.keyset(replaced={PEER: r.again(r.advert(PEER), **changes(r))}),
        code,
        "fresh_keys",
        monkeypatch,
        "shares",
        lambda r: r.keyset(),
    )


# --- 12, 13: shares ---------------------------------------------------------------------------------------------------


def bad_dealers(outcome: Outcome) -> tuple[OrgId, ...]:
    """About whom the member complains in its ack."""
    (message,) = [one for one in outcome.said if isinstance(one, AckMessage)]
    body = body_of(message.ack)
    assert isinstance(body, ShareAck)
    return body.bad_dealers


def trusting(
    blob: SignedBlob, t1: bytes, t0: bytes, me: OrgId, x: int, channel_key: PrivateKey, dealer: PeerKeys, roster: Roster
) -> Held:
    """A recipient that keeps whatever it gets."""
    try:
        message = body_of(blob)
        assert isinstance(message, ShareMsg)
        opened = sealing.open_share(message, x, channel_key, dealer.channel_key, dealer.kappa_commit, t0)
    except PeerError:
        return Held(dealer.org_id, Share(bytes(33)), Share(bytes(33)))
    return Held(dealer.org_id, opened.key_share, opened.self_share, (opened.kappa,))


def kept(rogue: Rogue) -> set[OrgId]:
    """Whose shares the victim keeps after its ack."""
    stage = stage_of(rogue, VICTIM, "ack")
    assert isinstance(stage, Acked)
    return {one.dealer for one in stage.held}


def test_attack_12_split_key_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The victim is told a key set without one member, the others the whole. Stopped by `checks.received_share`: every
    share is under another T1. It says so in public, nothing is kept; a second key set is called what it is.
    """
    some = tuple(org for org in FIVE if org != OTHER)

    def scene() -> tuple[Rogue, Outcome]:
        rogue = Rogue().reach("advert")
        for org in FIVE:
            rogue.say(org, rogue.keyset(some if org == VICTIM else None)).accepted("shares")
        theirs = rogue.delivery(VICTIM)
        lie = replace(
            theirs,
            t1=transcript.t1(rogue.t0, {org: rogue.advert(org).body for org in some}),
            shares=tuple(blob for blob in theirs.shares if blob.signer_id != OTHER),
        )
        rogue.say(VICTIM, theirs).refused("wrong_transcript")
        rogue.say(VICTIM, rogue.keyset()).refused("equivocation")
        return rogue, rogue.say(VICTIM, lie)

    rogue, outcome = scene()
    outcome.accepted("ack")
    assert bad_dealers(outcome) == (FIVE[0], FIVE[1], PEER)
    assert kept(rogue) == set()
    monkeypatch.setattr(checks, "received_share", trusting)
    rogue, outcome = scene()
    assert bad_dealers(outcome) == ()
    assert kept(rogue) == {FIVE[0], FIVE[1], PEER}, "shares of one view kept in another"


def resealed(rogue: Rogue, x: int) -> SignedBlob:
    """The peer's share for the victim, sealed for another x-coordinate by the peer itself."""
    keys, shared = stage_of(rogue, PEER, "advert"), stage_of(rogue, PEER, "shares")
    assert isinstance(keys, Advertised)
    assert isinstance(shared, Shared)
    dealt = next(one for one in shared.dealt if one.recipient == VICTIM)
    to = unchecked_advert(rogue.advert(VICTIM), None).channel_key
    body = sealing.seal_share(
        rogue.t1, PEER, VICTIM, x, keys.channel_key, to, dealt.key_share, dealt.self_share, keys.kappa, bytes(12)
    )
    return signed(rogue.charter, PEER, BlobType.SHARE, body)


def cipher(rogue: Rogue) -> bytes:
    body = body_of(rogue.shares(PEER)[VICTIM])
    assert isinstance(body, ShareMsg)
    return body.ciphertext


BAD_SHARES: dict[str, Callable[[Rogue], SignedBlob]] = {
    "meant for another": lambda r: r.shares(PEER)[OTHER],
    "bit flipped, signed again": lambda r: r.again(
        r.shares(PEER)[VICTIM], ciphertext=cipher(r)[:-1] + bytes([cipher(r)[-1] ^ 1])
    ),
    "bit flipped on the way": lambda r: tampered(r.shares(PEER)[VICTIM], nonce=b"\x01" * 12),
    "cut short": lambda r: r.again(r.shares(PEER)[VICTIM], ciphertext=cipher(r)[:-1]),
    "nothing in it": lambda r: r.again(r.shares(PEER)[VICTIM], ciphertext=b""),
    "another commitment": lambda r: r.again(r.shares(PEER)[VICTIM], self_share_commit=b"\x02" * 32),
    "wrong x": lambda r: resealed(r, 1),
    "another T1": lambda r: r.again(r.shares(PEER)[VICTIM], t1=b"\x03" * 32),
}


@pytest.mark.parametrize("forge", BAD_SHARES.values(), ids=BAD_SHARES)
def test_attack_13_unusable_share(forge: Callable[[Rogue], SignedBlob], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.received_share`: the dealer is named in the signed ack, no exception escapes, the shares of
    the others are kept. A recipient that keeps it could not help to open, and would blame nobody.
    """
    honest = Rogue().reach("shares")
    assert bad_dealers(honest.say(VICTIM, honest.delivery(VICTIM))) == ()
    rogue = Rogue().reach("shares")
    outcome = rogue.say(VICTIM, rogue.delivery(VICTIM, replaced={PEER: forge(rogue)}))
    outcome.accepted("ack")
    assert bad_dealers(outcome) == (PEER,)
    assert kept(rogue) == set(FIVE) - {VICTIM, PEER}
    rogue = Rogue().reach("shares")
    message = rogue.delivery(VICTIM, replaced={PEER: forge(rogue)})
    monkeypatch.setattr(checks, "received_share", trusting)
    assert bad_dealers(rogue.say(VICTIM, message)) == ()


# --- 17: split dealers ------------------------------------------------------------------------------------------------


def self_masks(rogue: Rogue, orgs: tuple[OrgId, ...]) -> list[bytes]:
    """The self masks of these, as if everyone had revealed its seed."""
    made = []
    for org in orgs:
        stage = stage_of(rogue, org, "dealers")
        assert isinstance(stage, Encoding)
        made.append(masks.self_key(stage.t2, stage.self_seed, org))
    return made


def test_attack_17_split_dealers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The victim is told other dealers than the rest. Stopped by `checks.header_of`: other headers have another T2.

    With it replaced the victim votes; but masks derived under two T2s do not cancel: even with every self seed in hand
    the total is noise.
    """
    four = tuple(org for org in FIVE if org != OTHER)

    def scene(split: bool) -> Rogue:
        rogue = Rogue().reach("ack")
        for org in FIVE:
            dealers = four if split and org == VICTIM else FIVE
            rogue.say(org, rogue.share_set(dealers)).accepted("input")
        return rogue

    def total(rogue: Rogue) -> NDArray[np.int64]:
        acc = zeros(rogue.body.length, rogue.body.ring_bits)
        for org in FIVE:
            acc += rogue.masked(org)
        whole_vectors.unmask(acc, self_masks(rogue, FIVE), ())
        return rogue.read(acc)

    honest = scene(split=False)
    honest.say(VICTIM, honest.proposal()).accepted("vote")
    truth = sum((honest.truth(org) for org in FIVE), np.zeros(honest.body.length, dtype=np.int64))
    np.testing.assert_array_equal(total(honest), truth)
    rogue = scene(split=True)
    rogue.say(VICTIM, rogue.proposal()).refused("wrong_transcript")
    t2 = transcript.t2(rogue.t1, four)
    lie = Proposal(t2, rogue.proposal(four).headers)
    rogue.say(VICTIM, lie).refused("wrong_transcript")
    monkeypatch.setattr(checks, "header_of", nothing)
    rogue.say(VICTIM, lie).accepted("vote")
    assert not np.any(total(rogue) == truth), "no coordinate of the truth appears"
