"""Vectors of every length around the borders of leaves, rings of every kind, cohorts from the smallest to the largest.

The arithmetic is the product's (`test_rings.Sum`: protect, absorb, open, with drops); a cohort end to end is the whole
federation in memory: adverts, shares, votes, reveals of every member, and an exact sum over those who stayed. Its time
grows with the square of the cohort; one of 64 takes half a minute and the largest, 256, four minutes: both with
FEDVEIL_SWEEP=1 (`make sweep`). The arithmetic of the largest is in `test_rings`, too.
"""

import os
from collections.abc import Callable

import pytest
import structlog
from federation import RUN, Killed, RecordingMemory, check_sums, federation, journal, plan_bytes, revealed, table, voted
from fedveil_common import wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.masking import packing, quorum
from fedveil_common.messages import BlobType, Header
from fedveil_coordinator import driver as coordinator
from fedveil_participant import driver as participant
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster
from small_attempts import begin
from test_rings import BITS, LEAF, Sum

LENGTHS = (1, 2, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF - 1, 2 * LEAF, 2 * LEAF + 1)
COHORTS = (3, 4, 20, *((64, 256) if os.environ.get("FEDVEIL_SWEEP") else ()))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_sum_is_exact_at_every_border_of_a_leaf(bits: int, length: int) -> None:
    Sum(3, length, bits).check()
    Sum(4, length, bits, dropped=1).check()


@pytest.mark.parametrize("bits", BITS)
def test_a_sum_at_the_ends_of_the_ring_is_exact(bits: int) -> None:
    """All at the largest value, then all at the smallest: the sum stays inside, by one member's value per bit."""
    for sign in (1, -1):
        made = Sum(4, LEAF + 1, bits, dropped=1)
        most = (2 ** (bits - 1) - 1) // 4
        for vector in made.vectors.values():
            vector[:] = sign * most
        made.check()


def test_a_vector_of_no_coordinates_does_not_exist() -> None:
    """Refused at the door, in a manifest and in a header; one coordinate passes."""
    attempt = begin(3, 1)
    header = Header(bytes(32), attempt.orgs[0], 1, 20, 1, bytes(32), False, b"")
    assert wire.parse_body(BlobType.HEADER, wire.encode_body(header)) == header
    for type_, body in ((BlobType.HEADER, header), (BlobType.MANIFEST, attempt.body)):
        data = wire.encode_body(body)
        empty = type(body)(**{**{name: getattr(body, name) for name in body.__slots__}, "length": 0})
        assert wire.parse_body(type_, data) == body
        with pytest.raises(wire.MalformedError) as caught:
            wire.parse_body(type_, wire.encode_body(empty))
        assert caught.value.path == f"{type_.value}.length"
    assert packing.size_bytes(1, 8) == 1


def test_a_cohort_of_two_is_refused_and_of_three_is_not() -> None:
    for n in (3, 4, 256):
        c = quorum.corrupt_bound(1, n)
        q = quorum.quorum(n, c)
        quorum.check_parameters(n, c, q, q, max(q, 3), c)
    with pytest.raises(PeerError) as caught:
        quorum.check_parameters(2, 1, 2, 2, 2, 1)
    assert caught.value.code == "cohort_too_small"
    with pytest.raises(PeerError) as caught:
        quorum.check_parameters(257, 51, 155, 155, 155, 51)
    assert caught.value.code == "cohort_too_large"


@pytest.mark.parametrize("n", COHORTS)
def test_a_whole_cohort_with_as_many_lost_as_may_be(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """N - q members die for good, half of them after their ack, half after their vote; the sum is exact."""
    silent = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))
    monkeypatch.setattr(participant, "log", silent)
    monkeypatch.setattr(coordinator, "log", silent)
    names = tuple(OrgId(f"member-{index:03}") for index in range(n))
    data = {name: table(index % 3) for index, name in enumerate(names)}
    plan = plan_bytes()
    cluster = Cluster(make_charter(names, 1), 1, data, plan)
    for member in cluster.members.values():
        member.memory = RecordingMemory()
        cluster.start_member(member.org_id)
    cluster.settle()
    most = n - quorum.quorum(n, quorum.corrupt_bound(1, n))
    lost = dict(zip(names, ["vote", "ack"] * most, strict=False)) if most else {}
    lost = dict([*lost.items()][:most])
    for org, kind in lost.items():
        journal(cluster, org).on_save = dies(org, kind)
    cluster.start_run(RUN, plan)
    while (RUN, 1) not in cluster.memory.sums:
        try:
            assert cluster._once() or cluster.pass_time(), "nothing can happen any more"
        except Killed as killed:
            cluster.kill_member(killed.org)
    assert check_sums(cluster) == 1
    (survivors,) = voted(cluster, RUN, 1).values()
    assert survivors == tuple(org for org in names if lost.get(org) != "ack")
    assert {key.attempt for key in revealed(cluster, RUN, 1)} == {1}
    assert sum(member.driver is None for member in cluster.members.values()) == most


def dies(org: OrgId, kind: str) -> Callable[[str, AttemptKey], None]:
    """For `RecordingMemory.on_save`: the process is gone once this is durable."""

    def saved(said: str, key: AttemptKey) -> None:
        if said == kind:
            raise Killed(org)

    return saved


@pytest.mark.parametrize("bits", [32, 33, 40, 48])
def test_a_whole_round_of_values_wider_than_a_word(bits: int) -> None:
    plan = plan_bytes().replace(b'"value_bits":16', b'"value_bits":%d' % bits)
    cluster = federation(plan=plan)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 2_000.0)
    assert cluster.memory.runs[RUN][2] == "finished"
    assert check_sums(cluster) >= 1
