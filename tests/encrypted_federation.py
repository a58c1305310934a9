"""Federations under protection paillier for protocol tests: a real key of real holders, made once for each shape."""

import functools
from collections.abc import Sequence

from federation import PLAN, SETTINGS, THREE, federation, plan_bytes
from fedveil_common import plan as plans
from fedveil_common.ids import OrgId
from fedveil_simulation.charter import Charter, make_charter
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.key_book import KeyBook, make_key

KEY_ID = "sim-key"


@functools.cache
def charter_of(names: tuple[OrgId, ...]) -> Charter:
    """The federation of these members."""
    return make_charter(names, 1)


@functools.cache
def _made(names: tuple[OrgId, ...], holders: tuple[OrgId, ...], threshold: int, columns: int) -> KeyBook:
    charter = charter_of(names)
    keys = {org: charter.member_keys[org] for org in holders}
    return make_key(charter.roster.federation_id, keys, threshold, 1, columns, KEY_ID)


def book_of(names: Sequence[OrgId], holders: Sequence[OrgId], threshold: int, columns: int = 2) -> KeyBook:
    """The key of these holders; nobody has used it."""
    made = _made(tuple(names), tuple(holders), threshold, columns)
    return KeyBook(made.terms, made.held)


def encrypted_plan(**settings: object) -> bytes:
    """The small plan under paillier."""
    return plan_bytes(protection=f"paillier, key: {KEY_ID}", **settings)


def wide_plan(**settings: object) -> bytes:
    """A plan whose sums take three plaintexts: under a key of one column three blocks, whose lifts are checked."""
    text = PLAN.format(**{**SETTINGS, "protection": f"paillier, key: {KEY_ID}", **settings})
    for before, now in (("kind: logistic", "kind: mlp, hidden: [16]"), ("value_bits: 16", "value_bits: 32")):
        assert before in text
        text = text.replace(before, now)
    return plans.canonical(plans.parse_plan(text.encode(), "wide.yaml"))


def encrypted_federation(
    names: Sequence[OrgId] = THREE,
    holders: Sequence[OrgId] = THREE,
    threshold: int = 2,
    *,
    plan: bytes | None = None,
    cls: type[Cluster] = Cluster,
    columns: int = 2,
) -> Cluster:
    """A cluster of these members; `threshold` of the holders open a sum."""
    canonical = encrypted_plan() if plan is None else plan
    book = book_of(names, holders, threshold, columns)
    return federation(names, plan=canonical, charter=charter_of(tuple(names)), book=book, cls=cls)
