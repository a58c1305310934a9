"""XNoise in whole rounds (attack 41): which noise is in the sum, which leaves it, and who can move that.

What counts as failure: a settled sum whose noise is below the plan's variance, or is not what the Result says; noise
that leaves although a dropout used it up; a model made of links that no survivor showed.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from encrypted_federation import KEY_ID, encrypted_federation
from federation import (
    FIVE,
    RUN,
    Said,
    Tap,
    body_of,
    check_sums,
    die_after,
    expected_sum,
    federation,
    journal,
    plan_bytes,
    resigned,
    run,
)
from fedveil_common import member_noise, noise_links, private_sum, published
from fedveil_common import plan as plans
from fedveil_common.crypto.labels import h
from fedveil_common.dp import gaussian, xnoise
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import Header, Manifest, Purpose, Removal, Result, Reveal, RevealMessage
from fedveil_coordinator import facts
from fedveil_coordinator import round as rounds
from fedveil_participant import lineage as lineages
from fedveil_participant.checking import SumDownload
from fedveil_participant.stages import Voted
from fedveil_simulation.cluster import Cluster, Packet
from numpy.typing import NDArray
from private_federation import private_plan, said_of, settled_sum

QUORUM, CORRUPT = 4, 1
PLAN = private_plan(noise="noise_multiplier: 30.0", most=1000.0, rounds=2, model="{kind: mlp, hidden: [64]}", rate=1e-9)
VARIANCE = private_sum.grid(PLAN, PLAN.privacy).variance if PLAN.privacy else 0


def played(cluster: Cluster, plan: plans.Plan = PLAN) -> str:
    cluster.start_run(RUN, plans.canonical(plan))
    cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", 400_000.0)
    return cluster.memory.runs[RUN][2]


def settled(cluster: Cluster, number: int) -> NDArray[np.float64]:
    return settled_sum(cluster, PLAN, number).astype(np.float64)


def squares(values: NDArray[np.float64]) -> float:
    """The mean square as a multiple of the plan's variance; gradients are below a thousandth of it."""
    return float((values**2).mean()) / VARIANCE


def test_where_nobody_drops_out_what_is_left_is_the_variance_for_the_quorum() -> None:
    cluster = federation(plan=plans.canonical(PLAN))
    assert played(cluster) == "finished"
    assert check_sums(cluster) == 2
    raw = np.concatenate([cluster.memory.read_sum(RUN, number).astype(np.float64) for number in (1, 2)])
    clean = np.concatenate([settled(cluster, number) for number in (1, 2)])
    assert abs(squares(raw) / (5 / 3) - 1) < 0.2, "898 squares: one standard deviation is 0.047"
    assert abs(squares(clean) / (4 / 3) - 1) < 0.2
    for number in (1, 2):
        _, result = said_of(cluster, number)
        assert [org for org, _ in result.removal[0].links] == list(FIVE)
        assert 0 <= result.noise_left - VARIANCE * 4 / 3 < 10
    assert len({link for number in (1, 2) for _, link in said_of(cluster, number)[1].removal[0].links}) == 10


@pytest.mark.parametrize(("phase", "dealers"), [("dealers", [5]), ("ack", [5]), ("advert", [])])
def test_what_a_dropout_used_up_stays(phase: str, dealers: list[int]) -> None:
    """Lost after it dealt: D = 1, and the survivors' one component stays. Lost before: it is not in U2, where n0 = q
    leaves nobody to drop out, so there are no components.
    """
    cluster = federation(plan=plans.canonical(PLAN))
    die_after(cluster, FIVE[2], phase, 1)
    assert played(cluster) == "finished"
    manifest, result = said_of(cluster, 1)
    assert result.survivors == 4
    assert sum(len(one.links) for one in result.removal) == 0
    assert [one.dealers for one in result.removal] == dealers
    assert 0 <= result.noise_left - VARIANCE * 4 / 3 < 10
    assert abs(squares(settled(cluster, 1)) / (4 / 3) - 1) < 0.3, "449 squares: one standard deviation is 0.067"
    assert np.array_equal(settled(cluster, 1), cluster.memory.read_sum(RUN, 1))
    levels = private_sum.shares(PLAN, dealers[0] if dealers else 4, manifest.quorum, manifest.corrupt)
    assert levels is not None
    assert result.noise_left == levels.total(1 if dealers else 0)
    for one in result.removal:  # said to leave where nothing may: it could not be settled
        bent = replace(result, removal=(replace(one, links=((FIVE[0], bytes(32)),)),))
        with pytest.raises(PeerError) as caught:
            member_noise.check_settling(PLAN, manifest, bent)
        assert caught.value.code == "bad_removal"


def hush(cluster: Cluster, org: OrgId) -> None:
    """`org` never answers a certificate."""

    def change(packet: Packet, message: Said) -> Iterable[Said]:
        return [] if packet.org_id == org and isinstance(message, RevealMessage) else [message]

    cluster.route = Tap(change)


def test_attack_41_a_survivor_absent_at_reveal_leaves_more_noise() -> None:
    cluster = federation(plan=plans.canonical(PLAN))
    hush(cluster, FIVE[1])
    assert played(cluster) == "finished"
    _, result = said_of(cluster, 1)
    assert [org for org, _ in result.removal[0].links] == [org for org in FIVE if org != FIVE[1]]
    levels = private_sum.shares(PLAN, 5, QUORUM, CORRUPT)
    assert levels is not None
    assert result.noise_left == levels.total(0, absent=1) == levels.total(0) + levels.components[0]
    opened = cluster.memory.read_sum(RUN, 1).astype(np.float64)
    assert not np.array_equal(opened, settled(cluster, 1))


def test_attack_41_a_link_says_nothing_of_the_base_nor_of_what_stays() -> None:
    """With five of seven survivors (D = 2 of T = 3) two components stay: the link shown leads to the third alone."""
    secret, t2, org = noise_links.Seed(bytes(32)), bytes(range(32)), FIVE[0]
    manifest = replace(told_manifest(), quorum=4, corrupt=0, cohort=tuple(OrgId(f"m{i}") for i in range(7)))
    links = noise_links.chain(manifest, noise_links.Coins(secret, t2, org, 7))
    assert len(links) == 4
    shown = noise_links.shown(manifest, links, 7, 5)
    assert shown == links[2].expose()
    reached, link = {shown}, shown
    for _ in range(8):
        link = h("xnoise/chain", t2, org.encode(), link)
        reached.add(link)
    assert links[3].expose() in reached
    assert not reached & {links[0].expose(), links[1].expose()}
    pieces = member_noise.pieces(PLAN, manifest, noise_links.Coins(secret, t2, org, 7))
    assert len({piece.seed.expose() for piece in pieces}) == 4
    assert pieces[0].seed.expose() not in reached


@pytest.mark.parametrize("survivors", range(4, 8))
def test_attack_41_no_link_leads_to_the_base_whatever_may_leave(survivors: int) -> None:
    """Where nobody dropped out the first link is shown: from it follows every component, and never the base."""
    manifest = replace(told_manifest(), quorum=4, corrupt=0, cohort=tuple(OrgId(f"m{i}") for i in range(7)))
    coins = noise_links.Coins(noise_links.Seed(bytes(32)), bytes(range(32)), FIVE[0], 7)
    links = noise_links.chain(manifest, coins)
    pieces = member_noise.pieces(PLAN, manifest, coins)
    base, stay = pieces[0].seed.expose(), 7 - survivors
    known = noise_links.shown(manifest, links, 7, survivors)
    reached = {known} - {b""}
    for k in range(stay + 1, 4):
        reached |= {known, xnoise.component_seed(noise_links.Seed(known), coins.t2, coins.org_id, k).expose()}
        known = h("xnoise/chain", coins.t2, coins.org_id.encode(), known)
    assert {piece.seed.expose() for piece in pieces[1 + stay :]} <= reached
    assert not reached & {base, *(piece.seed.expose() for piece in pieces[1 : 1 + stay])}
    assert base != coins.secret.expose() not in reached


def told_manifest() -> Manifest:
    cluster = federation(plan=plans.canonical(PLAN))
    played(cluster)
    return said_of(cluster, 1)[0]


def test_attack_41_a_false_chain_value_is_blamed_and_counts_for_nothing() -> None:
    def change(packet: Packet, message: Said) -> Iterable[Said]:
        if packet.org_id == FIVE[3] and isinstance(message, RevealMessage):
            body = body_of(message.reveal)
            assert isinstance(body, Reveal)
            wrong = bytes([body.noise_link[0] ^ 1]) + body.noise_link[1:]
            return [RevealMessage(resigned(cluster.charter, message.reveal, noise_link=wrong))]
        return [message]

    cluster = federation(plan=plans.canonical(PLAN))
    cluster.route = Tap(change)
    assert played(cluster) == "finished"
    blames = [one for one in facts_of(cluster) if isinstance(one, facts.Excluded)]
    assert {(one.org_id, one.code) for one in blames} == {(FIVE[3], "noise_chain_broken")}
    _, result = said_of(cluster, 1)
    assert FIVE[3] not in dict(result.removal[0].links)
    assert np.array_equal(cluster.memory.read_sum(RUN, 1), expected_sum(cluster, 1))


def test_attack_41_the_end_of_a_chain_is_no_link() -> None:
    """D = T: everything stays, and the end of the chain, which leads to itself, would pass for what was shown. Then it
    would stand in the Result, which the coordinator could not settle and every member would refuse.
    """
    cluster = federation(plan=plans.canonical(PLAN))
    die_after(cluster, FIVE[2], "dealers", 1)
    told: list[bytes] = []

    def change(packet: Packet, message: Said) -> Iterable[Said]:
        if packet.org_id == FIVE[3] and isinstance(message, RevealMessage):
            voted = [stage for _, stage in journal(cluster, FIVE[3]).stages if isinstance(stage, Voted)][-1]
            told.append(voted.noise[-1].expose())
            return [RevealMessage(resigned(cluster.charter, message.reveal, noise_link=told[-1]))]
        return [message]

    cluster.route = Tap(change)
    played(cluster)
    assert told
    blames = [one for one in facts_of(cluster) if isinstance(one, facts.Excluded)]
    assert {(one.org_id, one.code) for one in blames} == {(FIVE[3], "noise_chain_broken")}


@pytest.mark.parametrize(("survivors", "due"), [(7, True), (5, True), (4, False)])
def test_a_link_is_shown_exactly_where_noise_is_to_go(survivors: int, due: bool) -> None:
    manifest = replace(told_manifest(), quorum=4, corrupt=0, cohort=tuple(OrgId(f"m{i}") for i in range(7)))
    secret, t2, org = noise_links.Seed(bytes(32)), bytes(range(32)), FIVE[0]
    links = noise_links.chain(manifest, noise_links.Coins(secret, t2, org, 7))
    right = noise_links.shown(manifest, links, 7, survivors)
    assert bool(right) == due
    end = links[-1].expose()
    noise_links.check_shown(manifest, t2, org, 7, survivors, right, end)
    for link in {b"", end} - {right}:
        with pytest.raises(PeerError) as caught:
            noise_links.check_shown(manifest, t2, org, 7, survivors, link, end)
        assert caught.value.code == "noise_chain_broken"
    chosen = bytes(32)  # a chain of the member's own making, whose first link nobody would miss
    for _ in range(3 - (7 - survivors)):
        chosen = h("xnoise/chain", t2, org.encode(), chosen)
    with pytest.raises(PeerError):
        noise_links.check_shown(manifest, t2, org, 7, survivors, b"" if due else bytes(32), chosen)


def facts_of(cluster: Cluster) -> list[facts.Fact]:
    return [facts.decode(kind, body) for kind, body in cluster.memory.facts(RUN)]


def test_attack_41_a_header_without_its_chain_end_is_no_input() -> None:
    cluster = federation(plan=plans.canonical(PLAN))
    assert played(cluster) == "finished"
    record, manifest = cluster.published(RUN, 1), said_of(cluster, 1)[0]
    for blob in record.headers:
        body = body_of(blob)
        assert isinstance(body, Header)
        assert noise_links.check_chain_end(manifest, 5, body.noise_chain)
    assert not noise_links.check_chain_end(manifest, 5, b"")
    assert not noise_links.check_chain_end(manifest, 4, bytes(32)), "with n0 = q nobody may drop out"
    first = resigned(cluster.charter, record.headers[0], noise_chain=b"")
    with pytest.raises(PeerError) as caught:
        published.verify(replace(record, headers=(first, *record.headers[1:])), cluster.charter.roster)
    assert caught.value.code == "round_not_proved"


# --- a coordinator that lies about it ---------------------------------------------------------------------------------


def links_lie(manifest: Manifest, removal: tuple[Removal, ...], how: str) -> tuple[Removal, ...]:
    (one,) = removal
    (org, link), *rest = one.links
    match how:
        case "another link":  # one further along: it would take other noise out, and the model would be of its choosing
            return (replace(one, links=((org, h("xnoise/chain", one.t2, org.encode(), link)), *rest)),)
        case "fewer links":
            return (replace(one, links=tuple(rest)),)
        case "another t2":
            return (replace(one, t2=bytes(32)),)
        case _:
            return ()


@pytest.mark.parametrize("how", ["another link", "fewer links", "another t2", "no removal"])
def test_attack_41_a_result_with_other_links_than_were_shown_is_no_proof(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `published._removal`, and where the variance no longer fits by `member_noise.check_settling`: no
    participant makes a model of it. Without both the run goes on.
    """
    honest = rounds._removal
    monkeypatch.setattr(rounds, "_removal", lambda manifest, stage: links_lie(manifest, honest(manifest, stage), how))
    cluster = federation(plan=plans.canonical(PLAN))
    assert played(cluster) != "finished"
    assert not any(end[2] for member in cluster.members.values() for end in member.memory.ends.values())
    monkeypatch.setattr(published, "_removal", lambda manifest, t2, dealers, ends, links: told_by[0])
    monkeypatch.setattr(lineages.member_noise, "check_settling", lambda *arguments: None)
    told_by: list[tuple[Removal, ...]] = []
    real = published.certified

    def note(record: object, manifest: Manifest, result: Result, *rest: object) -> bytes:
        told_by[:] = [result.removal]
        return real(record, manifest, result, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(published, "certified", note)
    cluster = federation(plan=plans.canonical(PLAN))
    assert played(cluster) == "finished", "without the checks the members take it"


@pytest.mark.parametrize(
    "change",
    [
        {"dealers": 6},
        {"dealers": 4},
        {"links": ((OrgId("stranger"), bytes(32)),)},
        {"links": tuple((org, bytes(32)) for org in (*FIVE[:4], OrgId("stranger")))},
        {"links": tuple((org, bytes(32)) for org in (*FIVE, OrgId("zz")))},
    ],
)
def test_a_removal_that_cannot_be_is_refused_before_it_is_used(change: dict[str, object]) -> None:
    cluster = federation(plan=plans.canonical(PLAN))
    assert played(cluster) == "finished"
    manifest, result = said_of(cluster, 1)
    member_noise.check_settling(PLAN, manifest, result)
    bent = replace(result, removal=(replace(result.removal[0], **change),))  # type: ignore[arg-type]
    with pytest.raises(PeerError) as caught:
        member_noise.check_settling(PLAN, manifest, bent)
    assert caught.value.code == "bad_removal"
    for wrong in (0.0, result.noise_left - 1):
        with pytest.raises(PeerError):
            member_noise.check_settling(PLAN, manifest, replace(result, noise_left=wrong))


@pytest.mark.parametrize("change", [{"quorum": 6}, {"corrupt": 4}, {"quorum": 1, "corrupt": 1}, {"cohort": FIVE[:2]}])
def test_a_manifest_of_a_cohort_that_cannot_stand_is_refused_as_such(change: dict[str, object]) -> None:
    """Nobody's noise has a variance there: a lie is told apart from a defect of the software."""
    cluster = federation(plan=plans.canonical(PLAN))
    assert played(cluster) == "finished"

    def lying(run_id: RunId, number: int) -> SumDownload:
        honest = cluster.download(run_id, number)
        return replace(honest, manifest=resigned(cluster.charter, honest.manifest, **change))

    basis = lineages.Basis(cluster.charter.roster, frozenset())
    lineages.fetch(cluster.download, RUN, 1, lineages.Expected.of(PLAN, Purpose.TRAIN, 0), basis)
    with pytest.raises(PeerError) as caught:
        lineages.fetch(lying, RUN, 1, lineages.Expected.of(PLAN, Purpose.TRAIN, 0), basis)
    assert caught.value.code in {"wrong_quorum", "cohort_too_small"}


def test_a_sum_without_members_noise_has_no_removal() -> None:
    exact = federation()
    assert run(exact) == "finished"
    manifest, result = said_of(exact, 1)
    plan = plans.parse_canonical(plan_bytes())
    assert (result.removal, result.noise_left) == ((), 0.0)
    member_noise.check_settling(plan, manifest, result)
    bent = replace(result, removal=(Removal(bytes(32), 5, ()),))
    with pytest.raises(PeerError):
        member_noise.check_settling(plan, manifest, bent)
    assert noise_links.components(manifest, 5) == 0


@pytest.mark.parametrize("by", ["participants", "coordinator"])
def test_under_encryption_the_result_says_what_is_in_the_sum(by: str) -> None:
    plan = private_plan(kind=f"paillier, key: {KEY_ID}", by=by, rounds=1)
    cluster = encrypted_federation(plan=plans.canonical(plan))
    assert played(cluster, plan) == "finished"
    manifest, result = said_of(cluster, 1)
    assert plan.privacy is not None
    whole = private_sum.grid(plan, plan.privacy).variance
    share = -(-whole // (manifest.quorum - manifest.corrupt))
    assert result.noise_left == (whole if by == "coordinator" else 3 * share)
    assert result.removal == ()
    member_noise.check_settling(plan, manifest, result)
    wider = replace(manifest, cohort=(*manifest.cohort, OrgId("x"), OrgId("y")))
    member_noise.check_settling(plan, wider, result)
    with pytest.raises(PeerError) as caught:
        member_noise.check_settling(plan, wider, replace(result, removal=(Removal(bytes(32), 5, ()),)))
    assert caught.value.code == "bad_removal"


def test_components_are_as_many_as_may_drop_out() -> None:
    manifest = told_manifest()
    assert noise_links.components(manifest, 5) == len(xnoise.cuts(1)) == 1
    assert noise_links.components(manifest, 4) == 0


SIZES = [(7, 4, 1, dropped) for dropped in range(4)] + [(24, 12, 2, dropped) for dropped in (0, 1, 2, 3, 7, 12)]


@pytest.mark.parametrize(("dealers", "quorum", "corrupt", "dropped"), SIZES)
def test_attack_41_what_leaves_is_what_was_drawn_for_it_coordinate_by_coordinate(
    dealers: int, quorum: int, corrupt: int, dropped: int
) -> None:
    """Of several leaves, with every count of drop-outs and with groups of them: the settled sum is the base and the
    components that stay, of every survivor, exactly; the opened one is as it was.
    """
    length, t2 = 2 * 16_384 + 5, bytes(range(32))
    cohort = tuple(OrgId(f"m{index:02}") for index in range(dealers))
    manifest = replace(told_manifest(), cohort=cohort, quorum=quorum, corrupt=corrupt, length=length)
    levels = private_sum.shares(PLAN, dealers, quorum, corrupt)
    assert levels is not None
    stay = xnoise.staying(dropped, dealers - quorum)
    raw, kept, links = np.zeros(length, np.int64), np.zeros(length, np.int64), []
    for org in cohort[dropped:]:
        coins = noise_links.Coins(noise_links.Seed(h("test/secret", org.encode())), t2, org, dealers)
        pieces = member_noise.pieces(PLAN, manifest, coins)
        assert len(pieces) == 1 + len(levels.components) == 1 + min(8, dealers - quorum)
        drawn = [np.zeros(length, np.int64) for _ in pieces]
        for piece, values in zip(pieces, drawn, strict=True):
            piece.add_to(values, 0)
        raw += sum(drawn)
        kept += sum(drawn[: 1 + stay])
        links.append((org, noise_links.shown(manifest, noise_links.chain(manifest, coins), dealers, dealers - dropped)))
        bound = private_sum.share_cap(PLAN, dealers, quorum, corrupt)
        assert np.abs(np.sum(drawn, axis=0)).max() <= bound
    removal = noise_links.removal(manifest, t2, dealers, links)
    left = member_noise.left(PLAN, manifest, dealers, dealers - dropped, 0 if removal[0].links else dealers - dropped)
    result = Result(bytes(32), dealers - dropped, length, bytes(32), b"", left, removal=removal)
    member_noise.check_settling(PLAN, manifest, result)
    for wrong in (left + 1, left - 1, 2 * left):
        with pytest.raises(PeerError):
            member_noise.check_settling(PLAN, manifest, replace(result, noise_left=wrong))
    opened = raw.astype(np.int32)
    assert np.array_equal(opened, raw)
    assert np.array_equal(member_noise.settled(PLAN, manifest, result, opened), kept)
    with ThreadPoolExecutor(2) as pool:
        assert np.array_equal(member_noise.settled(PLAN, manifest, result, opened, pool), kept), "stretch by stretch"
    assert np.array_equal(opened, raw), "what was signed stays what it is"
    assert (dropped == dealers - quorum) is np.array_equal(kept, raw)


@pytest.mark.parametrize(("members", "quorum", "corrupt"), [(5, 4, 1), (24, 12, 2), (40, 25, 8)])
def test_the_width_of_an_input_provides_for_every_number_of_dealers(members: int, quorum: int, corrupt: int) -> None:
    sums = []
    for dealers in range(quorum, members + 1):
        levels = private_sum.shares(PLAN, dealers, quorum, corrupt)
        assert levels is not None
        sums.append(sum(gaussian.table(one).bound for one in (levels.base, *levels.components)))
    cap = private_sum.share_cap(PLAN, members, quorum, corrupt)
    assert max(sums) <= cap < 1.08 * max(sums) + 30
    assert len(set(sums)) == len(sums)


def test_a_download_whose_result_says_less_noise_than_there_is_is_refused() -> None:
    """Also where no round is looked at: by the figure alone. Stopped in `lineage.fetch`."""
    cluster = federation(plan=plans.canonical(PLAN))
    assert played(cluster) == "finished"
    honest = cluster.download(RUN, 1)

    def lying(run_id: RunId, number: int) -> SumDownload:
        told = cluster.download(run_id, number)
        return replace(told, result=resigned(cluster.charter, told.result, noise_left=1.0))

    basis, expected = lineages.Basis(cluster.charter.roster, frozenset()), lineages.Expected.of(PLAN, Purpose.TRAIN, 0)
    downloaded, _ = lineages.fetch(cluster.download, RUN, 1, expected, basis)
    assert downloaded.result_blob == honest.result
    with pytest.raises(PeerError) as caught:
        lineages.fetch(lying, RUN, 1, expected, basis)
    assert caught.value.code == "bad_removal"
