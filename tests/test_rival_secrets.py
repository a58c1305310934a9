"""R2 and R8 of the rivals: both secrets of one member, and the pair keys of survivors, are never in anyone's reach.

What an adversary has is collected from the wire and from the states of the members that help it; nothing is taken from
the honest members except to compare with.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from federation import (
    FIVE,
    RUN,
    Said,
    Tap,
    body_of,
    check_sums,
    die_after,
    federation,
    journal,
    parse,
    plan_bytes,
)
from fedveil_common import transcript
from fedveil_common.crypto import agreement, shamir
from fedveil_common.errors import PeerError
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.masking import masks, packing, ring
from fedveil_common.messages import (
    Advert,
    AdvertMessage,
    Openings,
    Reveal,
    RevealMessage,
    ShareOpening,
    ShareSet,
)
from fedveil_common.secret import PrivateKey, Seed
from fedveil_participant.stages import Advertised, Encoding, Idle, Stage, Voted
from fedveil_simulation.cluster import Cluster, Packet
from rogue import Rogue

from tests import whole_vectors

PEER = FIVE[3]
HELPERS = tuple(org for org in FIVE if org != PEER)

# --- what a collector has ---------------------------------------------------------------------------------------------


@dataclass
class Collected:
    """Shares by secret, dealer and x-coordinate: of mask keys ("key") and of self seeds ("self"), in one attempt."""

    t2: bytes
    threshold: int
    shares: dict[tuple[str, OrgId], dict[int, bytes]] = field(default_factory=dict)
    keys: dict[OrgId, PrivateKey] = field(default_factory=dict)
    public: dict[OrgId, bytes] = field(default_factory=dict)

    def add(self, kind: str, dealer: OrgId, holder: OrgId, share: bytes) -> None:
        self.shares.setdefault((kind, dealer), {})[FIVE.index(holder) + 1] = share

    def revealed(self, revealer: OrgId, body: Reveal) -> None:
        for dealer, share in body.self_shares:
            self.add("self", dealer, revealer, share)
        for dealer, share in body.key_shares:
            self.add("key", dealer, revealer, share)

    def secret(self, kind: str, dealer: OrgId) -> bytes | None:
        """The secret, if there are enough shares of it."""
        known = self.shares.get((kind, dealer), {})
        return shamir.reconstruct(known, self.threshold) if len(known) >= self.threshold else None

    def mask_key(self, org: OrgId) -> PrivateKey | None:
        """The private mask key of a member, whether it was told, or is rebuilt from shares."""
        if org in self.keys:
            return self.keys[org]
        rebuilt = self.secret("key", org)
        return None if rebuilt is None else PrivateKey(rebuilt)

    def pair_key(self, one: OrgId, other: OrgId) -> bytes | None:
        """The key of the stream between these two, if the mask key of either is known."""
        (lo, hi), public = sorted((one, other)), self.public
        for mine, theirs in ((lo, hi), (hi, lo)):
            private = self.mask_key(mine)
            if private is not None and agreement.public_key(private) == public[mine]:
                return masks.pair_key(self.t2, private, public[theirs], lo, hi, public[lo], public[hi])
        return None


def stages(cluster: Cluster, org: OrgId, kind: str, round: int = 1) -> Stage:
    """The stage that a member's journal held after `kind`."""
    found = [stage for said, stage in journal(cluster, org).stages if said == kind]
    return next(one for one in found if not isinstance(one, Idle) and one.frame.key.round == round)


def true_key(cluster: Cluster, org: OrgId) -> PrivateKey:
    """The mask key that a member really had: to compare with, and for members that help."""
    stage = stages(cluster, org, "advert")
    assert isinstance(stage, Advertised)
    return stage.mask_key


def true_pair_key(cluster: Cluster, t2: bytes, public: dict[OrgId, bytes], one: OrgId, other: OrgId) -> bytes:
    lo, hi = sorted((one, other))
    return masks.pair_key(t2, true_key(cluster, lo), public[hi], lo, hi, public[lo], public[hi])


# --- R2: both secrets of one member -----------------------------------------------------------------------------------


def public_keys(rogue: Rogue) -> dict[OrgId, bytes]:
    found = {}
    for org in FIVE:
        body = body_of(rogue.advert(org))
        assert isinstance(body, Advert)
        found[org] = body.mask_key
    return found


def collect_reveals(rogue: Rogue) -> Collected:
    """Everything that the helpers revealed, whatever they revealed it for."""
    made = Collected(rogue.t2, rogue.body.threshold, public=public_keys(rogue))
    for org in HELPERS:
        for message in rogue.said(org, RevealMessage):
            assert isinstance(message, RevealMessage)
            body = body_of(message.reveal)
            assert isinstance(body, Reveal)
            made.revealed(org, body)
    return made


def asked_again(rogue: Rogue) -> tuple[str, ...]:
    """The coordinator names PEER as dropped after it named it as a survivor: what the helpers refuse it with."""
    second = rogue.proposal(HELPERS)
    return tuple({code for org in HELPERS for code in rogue.say(org, second).codes})


def test_rival_R2_no_member_ever_reveals_both_secrets_of_another() -> None:
    """Stopped by the stage `Voted`: the second vote is refused and the refusal is journaled, also after a restart;
    after the reveal it is late.
    """
    rogue = Rogue().reach("vote")
    assert asked_again(rogue) == ("second_vote",)
    for org in HELPERS:
        kind, told = journal(rogue.cluster, org).notes[-1]
        assert (kind, dict(told)["code"]) == ("refused", "second_vote")
        rogue.cluster.kill_member(org)
        rogue.cluster.start_member(org)
    rogue.cluster.settle()
    assert asked_again(rogue) == ("second_vote",), "the vote is in the journal"
    assert [trail.count("vote") for trail in map(kinds, [rogue] * 4, HELPERS)] == [1] * 4
    certificate = rogue.certificate()
    for org in HELPERS:
        rogue.say(org, certificate).accepted("reveal")
    assert asked_again(rogue) == ()
    other = replace(certificate, t3=transcript.t3(rogue.t2, {org: rogue.header(org).body for org in HELPERS}))
    assert {rogue.say(org, other).codes for org in HELPERS} == {("wrong_transcript",)}
    had = collect_reveals(rogue)
    assert had.secret("self", PEER) is not None
    assert ("key", PEER) not in had.shares


def kinds(rogue: Rogue, org: OrgId) -> list[str]:
    return [kind for kind, _, _ in journal(rogue.cluster, org).trail]


def test_rival_R2_both_secrets_of_one_member_are_its_update() -> None:
    """The control: members that forget their vote (as in attack 18) reveal both, and PEER's input is read."""
    rogue = Rogue().reach("reveal")
    for org in HELPERS:
        driver = rogue.cluster.members[org].driver
        assert driver is not None
        driver.state = replace(driver.state, stage=stages(rogue.cluster, org, "input"))  # as from an old disk
        rogue.say(org, rogue.proposal(HELPERS)).accepted("vote")
    for org in HELPERS:
        rogue.say(org, rogue.certificate(HELPERS, rogue.t3(HELPERS))).accepted("reveal")
    had = collect_reveals(rogue)
    key, seed = had.secret("key", PEER), had.secret("self", PEER)
    assert key is not None
    assert seed is not None
    read = rogue.masked(PEER)
    for one in masks.mask_keys(rogue.t2, PEER, PrivateKey(key), Seed(seed), had.public):
        whole_vectors.apply(read, [replace(one, subtract=not one.subtract)])
    np.testing.assert_array_equal(rogue.read(read), rogue.truth(PEER))


@pytest.mark.parametrize("dies", ["dealers", "input", "vote"])
def test_rival_R2_in_whole_runs_no_reveal_holds_both(dies: str) -> None:
    """Whenever a member drops, every reveal on the wire names each member under one of its two secrets at most."""
    cluster = federation()
    die_after(cluster, PEER, dies, 1)
    cluster.start_run(RUN, plan_bytes())
    cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", 2_000)
    assert check_sums(cluster) == 2
    asked: dict[tuple[bytes, OrgId], set[str]] = {}
    for packet in cluster.sent:
        message = None if packet.outward else parse(packet)
        if isinstance(message, RevealMessage):
            body = body_of(message.reveal)
            assert isinstance(body, Reveal)
            for dealer, _ in body.self_shares:
                asked.setdefault((body.t3, dealer), set()).add("self")
            for dealer, _ in body.key_shares:
                asked.setdefault((body.t3, dealer), set()).add("key")
    assert {len(kinds) for kinds in asked.values()} == {1}
    assert any(kinds == {"key"} for kinds in asked.values()) == (dies in {"dealers", "input"}), (
        "it dies before its input is sent"
    )


# --- R8: pair keys of survivors ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Played:
    """The first sum of a run, in which PEER dealt and dropped; CORRUPT helped the coordinator."""

    cluster: Cluster
    key: AttemptKey
    t1: bytes
    t2: bytes
    public: dict[OrgId, bytes]
    survivors: tuple[OrgId, ...]
    reveals: dict[OrgId, Reveal]


CORRUPT = FIVE[0]
COMPLAINER = FIVE[1]


@functools.cache
def played() -> Played:
    """The coordinator spoils one share on its way, so that one opening is in public too."""
    cluster = federation()

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if not packet.outward or type(said).__name__ != "ShareDelivery" or packet.org_id != COMPLAINER:
            return [said]
        shares = tuple(
            replace(blob, sig=bytes(64)) if blob.signer_id == FIVE[2] else blob
            for blob in said.shares  # type: ignore[union-attr]
        )
        return [replace(said, shares=shares)]  # type: ignore[call-arg]

    cluster.route = Tap(change)
    die_after(cluster, PEER, "dealers", 1)
    cluster.start_run(RUN, plan_bytes())
    cluster.play(lambda: (RUN, 1) in cluster.memory.sums, 2_000)
    assert check_sums(cluster)
    stage, later = stages(cluster, CORRUPT, "dealers"), stages(cluster, CORRUPT, "vote")
    assert isinstance(stage, Encoding)
    assert isinstance(later, Voted)
    public, reveals = {}, {}
    for org, message in received(cluster):
        if isinstance(message, AdvertMessage) and org not in public:
            body = body_of(message.advert)
            assert isinstance(body, Advert)
            public[org] = body.mask_key
        if isinstance(message, RevealMessage) and org not in reveals:
            revealed = body_of(message.reveal)
            assert isinstance(revealed, Reveal)
            assert revealed.t3 == later.t3
            reveals[org] = revealed
    return Played(cluster, stage.frame.key, stage.t1, stage.t2, public, later.survivors, reveals)


def received(cluster: Cluster) -> list[tuple[OrgId, object]]:
    """Everything that members ever sent to the coordinator."""
    return [(packet.org_id, parse(packet)) for packet in cluster.sent if not packet.outward]


def collected(run: Played) -> Collected:
    """From all that the coordinator received, and from all that CORRUPT ever held."""
    made = Collected(run.t2, 4, public=run.public)
    for org, reveal in run.reveals.items():
        made.revealed(org, reveal)
    for _, message in received(run.cluster):
        if isinstance(message, Openings) and message.t1 == run.t1:
            for blob in message.openings:
                opening = body_of(blob)
                assert isinstance(opening, ShareOpening)
                made.add("key", opening.dealer, opening.recipient, opening.key_share)
                made.add("self", opening.dealer, opening.recipient, opening.self_share)
    made.keys[CORRUPT] = true_key(run.cluster, CORRUPT)
    held = stages(run.cluster, CORRUPT, "dealers")
    assert isinstance(held, Encoding)
    for one in held.held:
        made.add("key", one.dealer, CORRUPT, one.key_share.expose())
        made.add("self", one.dealer, CORRUPT, one.self_share.expose())
    return made


def test_rival_R8_pair_keys_of_survivors_are_never_in_reach() -> None:
    """From everything the coordinator received and everything c members held, no key of a pair of honest survivors can
    be rebuilt; the same collector rebuilds the key of the dropped member, every pair key of that one and of CORRUPT.
    """
    run = played()
    assert run.survivors == tuple(org for org in FIVE if org != PEER)
    had = collected(run)
    assert any(isinstance(message, Openings) for _, message in received(run.cluster)), "one share is in public"
    honest = [org for org in run.survivors if org != CORRUPT]
    pairs = [(one, other) for one in honest for other in honest if one < other]
    assert len(pairs) == 3
    for one, other in pairs:
        assert had.pair_key(one, other) is None
    for org in honest:
        known = had.shares["key", org]
        assert len(known) < had.threshold
        assert set(known) <= {FIVE.index(CORRUPT) + 1, FIVE.index(COMPLAINER) + 1}, "its own word, or opened in public"
        assert run.reveals[org].self_seed, "its own mask is off, so the pair masks are all that covers its update"
    dropped = had.secret("key", PEER)
    assert dropped == true_key(run.cluster, PEER).expose()
    for org in run.survivors:
        assert had.pair_key(org, PEER) == true_pair_key(run.cluster, run.t2, run.public, org, PEER)
    for org in honest:
        assert had.pair_key(org, CORRUPT) == true_pair_key(run.cluster, run.t2, run.public, org, CORRUPT)
    assert had.secret("self", PEER) is None, "and the self seed of the dropped one stays its own"


def test_rival_R8_one_share_fewer_than_the_threshold_gives_nothing() -> None:
    """The collector itself: with t - 1 shares even the dropped member's key is not had."""
    run = played()
    had = collected(run)
    known = had.shares["key", PEER]
    assert len(known) == had.threshold
    had.shares["key", PEER] = dict(list(known.items())[: had.threshold - 1])
    assert had.mask_key(PEER) is None
    honest = [org for org in run.survivors if org != CORRUPT]
    assert all(had.pair_key(org, PEER) is None for org in honest)
    padded = {**had.shares["key", PEER], 5: bytes(33)}
    guessed = shamir.reconstruct(padded, had.threshold)
    assert guessed != true_key(run.cluster, PEER).expose()
    with pytest.raises(PeerError) as caught:
        masks.residual_keys(run.t2, PEER, PrivateKey(guessed), {honest[0]: run.public[honest[0]]}, run.public[PEER])
    assert caught.value.code == "wrong_secret_dealt"


def test_rival_R8_survivors_that_revealed_key_shares_would_give_every_pair_key() -> None:
    """What T3 prevents, shown with shares that the members really hold: were they asked for the key shares of a
    survivor, each of its pair keys would be had, and with its self seed its update.
    """
    run = played()
    had = collected(run)
    victim = FIVE[2]
    for org in FIVE:
        stage = stages(run.cluster, org, "dealers")
        assert isinstance(stage, Encoding)
        for one in stage.held:
            if one.dealer == victim:
                had.add("key", victim, org, one.key_share.expose())
    key = had.mask_key(victim)
    assert key is not None
    for org in FIVE:
        if org != victim:
            assert had.pair_key(victim, org) == true_pair_key(run.cluster, run.t2, run.public, victim, org)
    seed = run.reveals[victim].self_seed
    (upload,) = [data for org, _, data in run.cluster.uploads if org == victim][:1]
    truth = journal(run.cluster, victim).encoded[run.key, run.t2]
    bits = ring.smallest(len(FIVE), 16)
    read = packing.unpack(upload, len(truth), bits)
    for one in masks.mask_keys(run.t2, victim, key, Seed(seed), run.public):
        whole_vectors.apply(read, [replace(one, subtract=not one.subtract)])
    np.testing.assert_array_equal(ring.signed(read, bits), truth)


def test_rival_R8_shares_travel_sealed() -> None:
    """No share that a member holds stands in anything that passed through the coordinator before reveal and opening."""
    run = played()
    told = [(packet.data, parse(packet)) for packet in run.cluster.sent]
    before = b"".join(data for data, said in told if not isinstance(said, (RevealMessage, Openings, ShareSet)))
    seen = 0
    for org in run.survivors:
        stage = stages(run.cluster, org, "dealers")
        assert isinstance(stage, Encoding)
        for one in stage.held:
            for share in (one.key_share.expose(), one.self_share.expose()):
                seen += 1
                assert share not in before
    assert seen == 2 * 4 * len(run.survivors)
    opened = run.reveals[FIVE[1]].self_shares[0][1]
    assert any(opened in data for data, said in told if isinstance(said, RevealMessage)), "the search finds a share"
