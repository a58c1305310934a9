"""Failures that were found, each as a test of its own that stays.

Each says what went wrong before it was mended.
"""

from dataclasses import replace

import numpy as np
from federation import FIVE, RUN, body_of, journal, parse
from fedveil_common.crypto import shamir
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks
from fedveil_common.messages import (
    Advert,
    OpeningRequest,
    Openings,
    ResultNotice,
    ShareOpening,
    SignedBlob,
    VoteMessage,
)
from fedveil_common.secret import PrivateKey, Seed
from fedveil_participant.stages import Acked, Idle
from fedveil_simulation.cluster import Packet
from ledger import HARD_LIMIT_S, LedgerCluster, observed, story_plan
from numpy.typing import NDArray
from rogue import Rogue

from tests import whole_vectors


def unsigned(blob: SignedBlob) -> SignedBlob:
    """The blob with a signature that does not verify."""
    return replace(blob, sig=bytes([blob.sig[0] ^ 1]) + blob.sig[1:])


def test_openings_and_corrupt_members_together_stay_below_the_threshold() -> None:
    """Five members, c = 2, so q = t = 4 and A1 holds. The coordinator works together with two members.

    It damages the shares that the victim dealt to the two honest others; both complain in good faith, and the victim
    opens both sets of shares in public (2 <= c). With the two corrupt members' shares that is t of either secret of the
    victim: its masked input was opened alone, without any vote.
    """
    *corrupt, first, second, victim = FIVE
    rogue = Rogue(FIVE, max_corrupt=2, min_participants=5)
    assert (rogue.body.corrupt, rogue.body.threshold) == (2, 4)
    rogue.reach("shares")
    for org in (first, second):
        rogue.whisper(org, rogue.delivery(org, {victim: unsigned(rogue.shares(victim)[org])}))
    for org in (*corrupt, victim):
        rogue.whisper(org, rogue.delivery(org))
    rogue.cluster.settle()
    known: dict[int, tuple[bytes, bytes]] = {}
    for org in corrupt:
        stage = journal(rogue.cluster, org).load()
        assert isinstance(stage, Acked)
        (held,) = [one for one in stage.held if one.dealer == victim]
        known[x_of(org)] = held.key_share.expose(), held.self_share.expose()
    rogue.say(victim, OpeningRequest(rogue.t1, (rogue.ack(first), rogue.ack(second))))
    for message in rogue.said(victim, Openings):
        assert isinstance(message, Openings)
        for blob in message.openings:
            body = body_of(blob)
            assert isinstance(body, ShareOpening)
            known[x_of(body.recipient)] = body.key_share, body.self_share
    rogue.say(victim, rogue.share_set())
    assert len(known) < rogue.body.threshold or not np.array_equal(opened(rogue, victim, known), rogue.truth(victim))


def x_of(org: OrgId) -> int:
    """The x-coordinate of a member of the five."""
    return 1 + FIVE.index(org)


def opened(rogue: Rogue, victim: OrgId, known: dict[int, tuple[bytes, bytes]]) -> NDArray[np.int64]:
    """The victim's masked input without its masks, from t shares of both of its secrets."""
    threshold = rogue.body.threshold
    key, seed = (shamir.reconstruct({x: two[part] for x, two in known.items()}, threshold) for part in (0, 1))
    adverts = {org: body_of(rogue.advert(org)) for org in rogue.names}
    public = {org: advert.mask_key for org, advert in adverts.items() if isinstance(advert, Advert)}
    ring = rogue.masked(victim)
    for mask in masks.mask_keys(rogue.t2, victim, PrivateKey(key), Seed(seed), public):
        whole_vectors.apply(ring, (replace(mask, subtract=not mask.subtract),))
    return rogue.read(ring)


def test_a_deadline_that_has_passed_for_nothing_is_not_named_again() -> None:
    """A member is at work and does not vote (here its vote is lost), and q is not reached without it.

    Once the hard limit of the stage had passed, `round.deadline` went on naming it, since somebody was pending, and the
    tick did nothing: the coordinator's loop turned without a pause, and simulated time stood still.
    """
    cluster, lost = observed(3), []

    def lose(packet: Packet) -> list[Packet]:
        if isinstance(parse(packet), VoteMessage) and not lost:
            lost.append(packet)
            return []
        return [packet]

    cluster.route = lose
    for _ in range(12 * HARD_LIMIT_S):
        cluster.settle()
        cluster.pass_time()
    assert lost
    assert cluster.ended(RUN) or cluster.clock.monotonic_s() > 2 * HARD_LIMIT_S


def test_the_end_of_a_run_that_comes_while_the_plan_is_still_read() -> None:
    """A member that consented connects as the run ends: the end overtakes the reading of its table.

    The end was refused (`plan_not_accepted`) and the plan accepted right after; over that session the member was never
    told again, so it stored no model and the coordinator went on owing it the end.
    """
    cluster, late = LedgerCluster(FIVE[:4], story_plan()), FIVE[3]
    for org in FIVE[:3]:
        cluster.start_member(org)
    cluster.start_run(RUN, story_plan())
    while (RUN, 2) not in cluster.memory.sums:
        assert cluster._once() or cluster.pass_time()
    cluster.start_member(late)
    cluster.end(4_000.0)
    assert cluster.members[late].memory.plans, "it accepted the plan"
    assert cluster.members[late].memory.has_end(RUN)
    assert not cluster.memory.debts


def test_who_was_away_for_the_whole_run_is_not_owed_its_end_for_ever() -> None:
    """It consented, but the plan was never offered to it: it refused the end at every session."""
    cluster, late = LedgerCluster(FIVE[:4], story_plan()), FIVE[3]
    for org in FIVE[:3]:
        cluster.start_member(org)
    cluster.start_run(RUN, story_plan())
    cluster.play(lambda: cluster.ended(RUN))
    assert cluster.memory.debts == {(RUN, late)}
    cluster.start_member(late)
    cluster.settle()
    assert cluster.members[late].memory.ends[RUN][2] == b"", "there is no model for who could not derive it"
    assert not cluster.memory.debts


def test_who_missed_the_last_result_is_done_when_the_run_is() -> None:
    """It went on revealing, and saying so every second, for seven days after it had stored the run's end."""
    cluster = observed(3)

    def lose(packet: Packet) -> list[Packet]:
        return [] if isinstance(parse(packet), ResultNotice) and packet.org_id == FIVE[0] else [packet]

    cluster.route = lose
    cluster.play(lambda: cluster.ended(RUN))
    cluster.settle()
    assert cluster.members[FIVE[0]].memory.ends[RUN][2]
    assert isinstance(cluster.members[FIVE[0]].memory.load(), Idle)
