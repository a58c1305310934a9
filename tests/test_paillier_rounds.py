"""Rounds under protection paillier: the production machines and drivers of both sides, a real key of real holders."""

import functools

import pytest
from federation import RUN, THREE, federation, plan_bytes, run
from fedveil_common.ids import OrgId
from fedveil_simulation.charter import Charter, make_charter
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.key_book import KeyBook, make_key

KEY = "{kind: paillier, key: sim-key"


@functools.cache
def charter_of(names: tuple[OrgId, ...]) -> Charter:
    return make_charter(names, 1)


@functools.cache
def book_of(names: tuple[OrgId, ...], holders: tuple[OrgId, ...], threshold: int, columns: int = 2) -> KeyBook:
    charter = charter_of(names)
    keys = {org: charter.member_keys[org] for org in holders}
    return make_key(charter.roster.federation_id, keys, threshold, 1, columns)


def paillier_plan(**settings: object) -> bytes:
    return plan_bytes(protection="paillier, key: sim-key", **settings)


def encrypted_federation(
    names: tuple[OrgId, ...] = THREE, holders: tuple[OrgId, ...] = THREE, threshold: int = 2, **settings: object
) -> tuple[Cluster, bytes]:
    plan = paillier_plan(**settings)
    book = book_of(names, holders, threshold)
    fresh = KeyBook(book.terms, book.held)
    return federation(names, plan=plan, charter=charter_of(names), book=fresh), plan


@pytest.mark.parametrize("threshold", [2, 3])
def test_a_run_ends_with_the_exact_sums(threshold: int) -> None:
    cluster, plan = encrypted_federation(threshold=threshold)
    assert run(cluster, plan) == "finished"
    assert (RUN, 1) in cluster.memory.sums
