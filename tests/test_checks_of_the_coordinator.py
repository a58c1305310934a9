"""What the coordinator takes from a member, check by check, over the in-memory federation; and how an attempt is lost.

One federation waits for one message of BAD; the run machine, which is a pure function, is asked about the honest one,
which becomes a fact, and about those that differ in one point, which are refused with their code. Whole runs show that
the others go on without BAD, with exact sums. What is journaled is the measure: a fact counts, all else does not.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

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
    plan_bytes,
    resigned,
    run,
    signed,
    state,
)
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId
from fedveil_common.masking import quorum
from fedveil_common.messages import (
    AbortVote,
    AckMessage,
    Advert,
    AdvertMessage,
    BlobType,
    Openings,
    ParticipantMessage,
    RevealMessage,
    ShareMsg,
    Shares,
    SignedBlob,
    VoteMessage,
)
from fedveil_common.secret import Seed
from fedveil_coordinator import attempt as attempts
from fedveil_coordinator import events, facts, round
from fedveil_coordinator import run as runs
from fedveil_simulation.cluster import Cluster, Packet

BAD, PEER, LOST = FIVE[2], FIVE[1], FIVE[4]
HONEST = tuple(org for org in FIVE if org != BAD)
ELSE = b"\x07" * 32
"""Some other hash."""

# --- the run machine, asked -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waiting:
    """A federation that waits for one message of BAD, and the honest one, which was held back."""

    cluster: Cluster
    tap: Tap

    def from_(self, org: OrgId, kind: type[ParticipantMessage]) -> ParticipantMessage:
        """What a member sent, as an honest process says it."""
        found = [said for packet, said in self.tap.seen if packet.org_id == org and type(said) is kind]
        assert found
        return found[-1]  # type: ignore[return-value]

    def refused(self, message: ParticipantMessage, code: str, org: OrgId = BAD) -> None:
        """The message moves nothing: no fact, a closed code."""
        with pytest.raises(FedveilError) as caught:
            taken(self.cluster, org, message)
        assert caught.value.code == code


def taken(cluster: Cluster, org: OrgId, message: ParticipantMessage) -> list[facts.Fact]:
    """The facts that this message becomes, if it comes now on the session of `org`."""
    active = cluster.coordinator.active
    assert active is not None
    event = events.Received(org, message, cluster.clock.monotonic_s(), Seed(bytes(32)))
    return recorded(runs.step(active, event)[1])


def recorded(actions: Iterable[object]) -> list[facts.Fact]:
    return [action.fact for action in actions if isinstance(action, events.Persist)]


def first_of(made: list[facts.Fact], kind: type[facts.Fact]) -> None:
    assert [type(fact) for fact in made][:1] == [kind], made


@functools.cache
def waiting(kind: type[ParticipantMessage], lost: str = "") -> Waiting:
    """Nobody but BAD is awaited, for a message of this kind. With `lost`, LOST dies once its trail says so."""
    cluster = federation()
    silent = (BAD, LOST) if kind is VoteMessage else (BAD,)  # four votes of five would do
    tap = Tap(lambda packet, said: [] if packet.org_id in silent and type(said) is kind else [said])
    cluster.route = tap
    if lost:
        die_after(cluster, LOST, lost, 1)
    cluster.start_run(RUN, plan_bytes())
    here = Waiting(cluster, tap)
    cluster.play(lambda: any(type(said) is kind and packet.org_id == BAD for packet, said in tap.seen), 60)
    assert here.from_(BAD, kind)
    return here


def of_run(cluster: Cluster, kind: type[facts.Fact]) -> list[facts.Fact]:
    """The facts of this kind in the journal."""
    found = [facts.decode(name, body) for name, body in cluster.memory.facts(RUN)]
    return [fact for fact in found if isinstance(fact, kind)]


def blamed(cluster: Cluster) -> set[tuple[OrgId, str]]:
    return {(fact.org_id, fact.code) for fact in of_run(cluster, facts.Excluded) if isinstance(fact, facts.Excluded)}


def lying(change: Callable[[Packet, Said], Iterable[Said]]) -> Cluster:
    """A run in which BAD's messages pass through `change`: it finishes with exact sums all the same."""
    cluster = federation()
    cluster.route = Tap(lambda packet, said: [said] if packet.outward or packet.org_id != BAD else change(packet, said))
    assert run(cluster) == "finished"
    assert {record.attempt for record in state(cluster).records} == {1}
    return cluster


# --- who signed -------------------------------------------------------------------------------------------------------

SIGNED: dict[str, tuple[type[ParticipantMessage], str, type[facts.Fact]]] = {
    "advert": (AdvertMessage, "advert", facts.AdvertAccepted),
    "ack": (AckMessage, "ack", facts.AckAccepted),
    "vote": (VoteMessage, "vote", facts.VoteAccepted),
    "reveal": (RevealMessage, "reveal", facts.RevealAccepted),
}


@pytest.mark.parametrize(("kind", "field", "fact"), SIGNED.values(), ids=SIGNED)
def test_a_message_of_another_on_ones_own_session(
    kind: type[ParticipantMessage], field: str, fact: type[facts.Fact]
) -> None:
    """Who signed must be whose session it is: else one member speaks for two, and a late one is spoken for."""
    here = waiting(kind)
    honest = here.from_(BAD, kind)
    first_of(taken(here.cluster, BAD, honest), fact)
    here.refused(honest, "wrong_signer", org=PEER)
    here.refused(here.from_(PEER, kind), "wrong_signer")
    blob = getattr(honest, field)
    here.refused(replace(honest, **{field: replace(blob, sig=bytes(64))}), "bad_signature")  # type: ignore[arg-type]
    relabelled = signed(here.cluster.charter, BAD, BlobType.ABORT, AbortVote(ELSE, 1))
    here.refused(replace(honest, **{field: relabelled}), "wrong_type")  # type: ignore[arg-type]


def test_votes_of_others_do_not_make_a_quorum() -> None:
    """BAD says the votes of two that never voted, without their keys and under its own: neither is a vote of theirs."""
    silent = FIVE[3:]
    cluster = federation()

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if packet.outward or not isinstance(said, VoteMessage):
            return [said]
        if packet.org_id in silent:
            return []
        if packet.org_id == BAD:
            return [said, *(VoteMessage(replace(said.vote, signer_id=org)) for org in silent)]
        return [said]

    cluster.route = Tap(change)
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    voters = {
        fact.vote.signer_id for fact in of_run(cluster, facts.VoteAccepted) if isinstance(fact, facts.VoteAccepted)
    }
    assert voters == set(FIVE[:3])
    assert not of_run(cluster, facts.Certified)


@pytest.mark.parametrize("change", [{"t0": ELSE}, {"org_id": PEER}], ids=["another attempt", "another's name"])
def test_an_advert_that_is_not_ones_own_for_this_attempt(change: dict[str, object]) -> None:
    here = waiting(AdvertMessage)
    honest = here.from_(BAD, AdvertMessage)
    assert isinstance(honest, AdvertMessage)
    here.refused(AdvertMessage(resigned(here.cluster.charter, honest.advert, **change)), "wrong_transcript")


# --- keys -------------------------------------------------------------------------------------------------------------


def keys_of(here: Waiting, org: OrgId) -> Advert:
    said = here.from_(org, AdvertMessage)
    assert isinstance(said, AdvertMessage)
    body = body_of(said.advert)
    assert isinstance(body, Advert)
    return body


REUSED: dict[str, tuple[Callable[[Waiting], dict[str, object]], str]] = {
    "mask key of another as mask key": (lambda h: {"mask_key": keys_of(h, PEER).mask_key}, "key_reused"),
    "mask key of another as channel key": (lambda h: {"channel_key": keys_of(h, PEER).mask_key}, "key_reused"),
    "channel key of another as mask key": (lambda h: {"mask_key": keys_of(h, PEER).channel_key}, "key_reused"),
    "channel key of another as channel key": (lambda h: {"channel_key": keys_of(h, PEER).channel_key}, "key_reused"),
    "one key for both": (lambda h: {"mask_key": keys_of(h, BAD).channel_key}, "key_reused"),
    "mask key of low order": (lambda h: {"mask_key": bytes(32)}, "bad_public_key"),
    "channel key of low order": (lambda h: {"channel_key": bytes(32)}, "bad_public_key"),
    "channel key not canonical": (
        lambda h: {"channel_key": (2**255 - 19 + 9).to_bytes(32, "little")},
        "bad_public_key",
    ),
}


@pytest.mark.parametrize(("changes", "code"), REUSED.values(), ids=REUSED)
def test_an_advert_with_a_key_that_is_not_fresh(changes: Callable[[Waiting], dict[str, object]], code: str) -> None:
    """It is evidence against its sender, and in no key set: every other member would refuse that set."""
    here = waiting(AdvertMessage)
    honest = here.from_(BAD, AdvertMessage)
    assert isinstance(honest, AdvertMessage)
    blob = resigned(here.cluster.charter, honest.advert, **changes(here))
    made = taken(here.cluster, BAD, AdvertMessage(blob))
    assert made[0] == facts.Excluded(BAD, code, (blob,))
    assert facts.KeySetFrozen(HONEST) in made
    assert not any(isinstance(fact, facts.AdvertAccepted) for fact in made)


def test_a_reused_key_stops_nobody_but_its_owner() -> None:
    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if not isinstance(said, AdvertMessage):
            return [said]
        body = body_of(said.advert)
        assert isinstance(body, Advert)
        return [AdvertMessage(resigned(cluster.charter, said.advert, mask_key=body.channel_key))]

    cluster = federation()
    cluster.route = Tap(lambda packet, said: [said] if packet.outward or packet.org_id != BAD else change(packet, said))
    assert run(cluster) == "finished"
    assert blamed(cluster) == {(BAD, "key_reused")}
    assert all(BAD not in record.survivors for record in state(cluster).records)


# --- shares -----------------------------------------------------------------------------------------------------------


def shares_of(here: Waiting, org: OrgId = BAD) -> dict[OrgId, SignedBlob]:
    said = here.from_(org, Shares)
    assert isinstance(said, Shares)
    found = {}
    for blob in said.shares:
        body = body_of(blob)
        assert isinstance(body, ShareMsg)
        found[body.recipient] = blob
    return found


def again(here: Waiting, blob: SignedBlob, **changes: object) -> SignedBlob:
    return resigned(here.cluster.charter, blob, **changes)


BAD_SETS: dict[str, tuple[Callable[[Waiting, dict[OrgId, SignedBlob]], dict[OrgId, SignedBlob]], str]] = {
    "one left out": (lambda h, s: {org: s[org] for org in HONEST[1:]}, "incomplete_shares"),
    "one twice instead of another": (lambda h, s: {**s, PEER: s[LOST]}, "incomplete_shares"),
    "one more": (lambda h, s: {**s, BAD: again(h, s[PEER], recipient=BAD)}, "incomplete_shares"),
    "one for itself instead of another": (
        lambda h, s: {**s, PEER: again(h, s[PEER], recipient=BAD)},
        "incomplete_shares",
    ),
    "one for a stranger": (lambda h, s: {**s, PEER: again(h, s[PEER], recipient=OrgId("zeta"))}, "incomplete_shares"),
    "one by another": (lambda h, s: {**s, LOST: shares_of(h, PEER)[LOST]}, "wrong_signer"),
    "one in the name of another": (lambda h, s: {**s, LOST: again(h, s[LOST], dealer=PEER)}, "wrong_signer"),
    "one under another T1": (lambda h, s: {**s, LOST: again(h, s[LOST], t1=ELSE)}, "wrong_signer"),
    "one unsigned": (lambda h, s: {**s, LOST: replace(s[LOST], sig=bytes(64))}, "bad_signature"),
}


@pytest.mark.parametrize(("forge", "code"), BAD_SETS.values(), ids=BAD_SETS)
def test_a_set_of_shares_that_is_not_complete(
    forge: Callable[[Waiting, dict[OrgId, SignedBlob]], dict[OrgId, SignedBlob]], code: str
) -> None:
    """Exactly one for every other member, of the dealer's own: else somebody would lack a share of a dealer in U2."""
    here = waiting(Shares)
    honest = here.from_(BAD, Shares)
    assert isinstance(honest, Shares)
    first_of(taken(here.cluster, BAD, honest), facts.SharesAccepted)
    here.refused(Shares(honest.t1, tuple(forge(here, shares_of(here)).values())), code)
    here.refused(replace(honest, shares=(*honest.shares, honest.shares[0])), "incomplete_shares")
    here.refused(replace(honest, t1=ELSE), "wrong_transcript")


def test_an_incomplete_set_leaves_its_dealer_out() -> None:
    cluster = lying(lambda packet, said: [Shares(said.t1, said.shares[1:])] if isinstance(said, Shares) else [said])
    dealers = [fact.dealers for fact in of_run(cluster, facts.DealersFrozen) if isinstance(fact, facts.DealersFrozen)]
    assert set(dealers) == {HONEST}


# --- acks and openings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"bad_dealers": (BAD,)}, "not_a_member"),
        ({"bad_dealers": (OrgId("zeta"),)}, "not_a_member"),
        ({"bad_dealers": (PEER, OrgId("zeta"))}, "not_a_member"),
        ({"t1": ELSE}, "wrong_transcript"),
        ({"org_id": PEER}, "wrong_transcript"),
    ],
    ids=["about itself", "about a stranger", "about a member and a stranger", "another T1", "another's name"],
)
def test_an_ack_about_one_who_did_not_deal(changes: dict[str, object], code: str) -> None:
    here = waiting(AckMessage)
    honest = here.from_(BAD, AckMessage)
    assert isinstance(honest, AckMessage)
    first_of(taken(here.cluster, BAD, honest), facts.AckAccepted)
    here.refused(AckMessage(again(here, honest.ack, **changes)), code)


def test_an_ack_about_a_member_whose_shares_never_came() -> None:
    """LOST is in the key set and dealt nothing: there is nothing to complain about."""
    here = waiting(AckMessage, "shares")
    honest = here.from_(BAD, AckMessage)
    assert isinstance(honest, AckMessage)
    frozen = [fact.members for fact in of_run(here.cluster, facts.KeySetFrozen) if isinstance(fact, facts.KeySetFrozen)]
    assert frozen == [FIVE]
    first_of(taken(here.cluster, BAD, AckMessage(again(here, honest.ack, bad_dealers=(PEER,)))), facts.AckAccepted)
    here.refused(AckMessage(again(here, honest.ack, bad_dealers=(LOST,))), "not_a_member")


def spoiled(cluster: Cluster, said: Shares, victims: tuple[OrgId, ...]) -> Shares:
    """The shares; those for the victims with a ciphertext that does not open."""
    made = []
    for blob in said.shares:
        body = body_of(blob)
        assert isinstance(body, ShareMsg)
        bad = body.recipient in victims
        made.append(resigned(cluster.charter, blob, ciphertext=bytes(len(body.ciphertext))) if bad else blob)
    return Shares(said.t1, tuple(made))


@functools.cache
def complaining() -> Waiting:
    """PEER complains about BAD, which has not answered yet."""
    cluster = federation()

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if packet.outward or packet.org_id != BAD:
            return [said]
        if isinstance(said, Shares):
            return [spoiled(cluster, said, (PEER,))]
        return [] if isinstance(said, Openings) else [said]

    tap = Tap(change)
    cluster.route = tap
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    return Waiting(cluster, tap)


BAD_ANSWERS: dict[str, tuple[dict[str, object], str]] = {
    "for one who did not complain": ({"recipient": LOST}, "wrong_transcript"),
    "for itself": ({"recipient": BAD}, "wrong_transcript"),
    "in another's name": ({"dealer": PEER}, "wrong_transcript"),
    "under another T1": ({"t1": ELSE}, "wrong_transcript"),
    "another key share": ({"key_share": bytes(33)}, "bad_opening"),
    "another self share": ({"self_share": bytes(33)}, "bad_opening"),
}


@pytest.mark.parametrize(("changes", "code"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_an_opening_that_nobody_asked_for_or_that_answers_nothing(changes: dict[str, object], code: str) -> None:
    here = complaining()
    honest = here.from_(BAD, Openings)
    assert isinstance(honest, Openings)
    first_of(taken(here.cluster, BAD, honest), facts.OpeningsAccepted)
    here.refused(replace(honest, openings=(again(here, honest.openings[0], **changes),)), code)
    here.refused(replace(honest, t1=ELSE), "wrong_transcript")
    here.refused(replace(honest, openings=(replace(honest.openings[0], sig=bytes(64)),)), "bad_signature")
    here.refused(honest, "too_many_openings", org=PEER)


@pytest.mark.parametrize("answers", [True, False], ids=["answered", "unanswered"])
def test_a_dealer_that_does_not_answer_a_complaint_is_left_out(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`attempt.convicted`, the half about unanswered complaints. With nobody ever convicted the complainer refuses the
    dealer set, for it holds no usable share of BAD.
    """

    def play() -> Cluster:
        cluster = federation()

        def change(packet: Packet, said: Said) -> Iterable[Said]:
            if packet.outward or packet.org_id != BAD:
                return [said]
            if isinstance(said, Shares):
                return [spoiled(cluster, said, (PEER,))]
            return [said] if answers or not isinstance(said, Openings) else []

        cluster.route = Tap(change)
        cluster.start_run(RUN, plan_bytes())
        cluster.play(lambda: bool(of_run(cluster, facts.Proposed)), 120)
        return cluster

    cluster = play()
    frozen = of_run(cluster, facts.DealersFrozen)[0]
    assert frozen == facts.DealersFrozen(FIVE if answers else HONEST)
    assert blamed(cluster) == set(), "an answered complaint blames nobody"
    cluster.play(lambda: cluster.ended(RUN))
    assert check_sums(cluster) == 2
    if answers:
        return
    monkeypatch.setattr(round, "convicted", lambda *arguments: set())
    cluster = play()
    frozen = of_run(cluster, facts.DealersFrozen)[0]
    assert frozen == facts.DealersFrozen(FIVE)
    codes = {dict(told)["code"] for _, told in journal(cluster, PEER).notes}
    assert codes == {"share_missing"}


def test_more_complaints_than_may_be_answered_convict_whatever_was_opened() -> None:
    """`attempt.convicted`, the half about `quorum.opening_bound`: N = 5 and c = 1 allow one opening. Here both stand
    answered in the journal, as if an older coordinator had let them in.
    """
    here = complaining()
    active = here.cluster.coordinator.active
    assert active is not None
    assert active.attempt is not None
    manifest, stage = active.attempt.frame.manifest, active.attempt.stage
    assert isinstance(stage, attempts.Acking)
    assert quorum.opening_bound(5, 1) == 1
    honest = here.from_(BAD, Openings)
    assert isinstance(honest, Openings)
    other = again(here, honest.openings[0], recipient=LOST)
    answered = replace(stage, openings={BAD: honest.openings})
    assert attempts.convicted(stage, manifest) == {BAD}
    assert attempts.convicted(answered, manifest) == set()
    second = again(here, stage.acks[LOST], bad_dealers=(BAD,))
    both = replace(answered, acks={**stage.acks, LOST: second}, openings={BAD: (*honest.openings, other)})
    assert attempts.convicted(both, manifest) == {BAD}
    assert attempts.convicted(both, replace(manifest, cohort=(*FIVE, *map(OrgId, "xyz")), corrupt=2)) == set()


def test_a_second_complaint_beyond_the_bound_ends_the_dealers_part() -> None:
    """Both complain; the dealer is asked once, answers once, and is no dealer of this attempt."""
    cluster = federation()

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        bad = not packet.outward and packet.org_id == BAD and isinstance(said, Shares)
        return [spoiled(cluster, said, FIVE[:2])] if bad and isinstance(said, Shares) else [said]

    cluster.route = Tap(change)
    assert run(cluster) == "finished"
    frozen = {fact.dealers for fact in of_run(cluster, facts.DealersFrozen) if isinstance(fact, facts.DealersFrozen)}
    assert frozen == {HONEST}
