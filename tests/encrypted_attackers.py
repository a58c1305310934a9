"""Members that cheat in a round under paillier, in an otherwise honest federation: what they encrypt, answer and send.

The coordinator and all other members are the production drivers. A cheat knows its own secrets and proves what it can.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from federation import RUN, check_sums, state
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.paillier.encryption import Block
from fedveil_common.paillier.public_key import PublicKey
from fedveil_coordinator import facts
from fedveil_coordinator.attempt import Attempt
from fedveil_participant import answering, encrypting, home_cipher
from fedveil_simulation.cluster import Cluster

ChangeBlocks = Callable[[PublicKey, list[Block]], list[Block]]
Rows = list[list[int]]
ChangeRows = Callable[[PublicKey, Rows], Rows]


def bend_input(patch: pytest.MonkeyPatch, org: OrgId, change: ChangeBlocks) -> None:
    """What `org` encrypts is changed before it proves and signs it."""
    made, honest = encrypting._blocks, encrypting.encrypted_input

    def bent(key: PublicKey, masks: Any, shape: Any, t0: bytes, t2: bytes, me: OrgId, *rest: Any) -> Any:
        if me != org:
            return honest(key, masks, shape, t0, t2, me, *rest)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(encrypting, "_blocks", lambda *parts: change(key, made(*parts)))
            return honest(key, masks, shape, t0, t2, me, *rest)

    patch.setattr(home_cipher, "encrypted_input", bent)


def bend_answer(patch: pytest.MonkeyPatch, org: OrgId, change: ChangeRows) -> list[int]:
    """What `org` answers as a holder is changed before it proves and signs it; the list gets one entry each time."""
    honest, rows, bent_times = home_cipher.answer, answering.partial.rows, []

    def bent(key: PublicKey, holder: Any, *rest: Any) -> Any:
        if key.terms.holders[holder.index] != org:
            return honest(key, holder, *rest)
        bent_times.append(1)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(answering.partial, "rows", lambda *parts: iter(change(key, list(rows(*parts)))))
            return honest(key, holder, *rest)

    patch.setattr(home_cipher, "answer", bent)
    return bent_times


@dataclass
class Told:
    """What the coordinator announced."""

    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, str]]:
        return [facts_ for name, facts_ in self.seen if name == kind]

    @property
    def blamed(self) -> dict[str, str]:
        return {one["org"]: one["code"] for one in self.of("blamed")}


def listen(cluster: Cluster) -> Told:
    told = Told()
    cluster.coordinator.listeners.append(lambda run_id, seen: told.seen.append((seen.kind, dict(seen.facts))))
    return told


def facts_of(cluster: Cluster) -> list[facts.Fact]:
    return [facts.decode(kind, body) for kind, body in cluster.memory.facts(RUN)]


def facts_called(cluster: Cluster, kind: type[facts.Fact]) -> list[Any]:
    return [fact for fact in facts_of(cluster) if isinstance(fact, kind)]


def quorums(cluster: Cluster) -> list[tuple[int, ...]]:
    return [fact.quorum for fact in facts_called(cluster, facts.QuorumCalled)]


def happened(cluster: Cluster, *kinds: str) -> bool:
    """Whether the coordinator has journaled a fact of one of these kinds."""
    return any(kind in kinds for kind, _ in cluster.memory.facts(RUN))


def play(cluster: Cluster, until: Callable[[], bool], limit_s: float = 5_000.0) -> None:
    """One thing after the other until `until()` holds: unlike `Cluster.play`, nothing more happens at that instant."""
    end = cluster.clock.monotonic_s() + limit_s
    while not until() and cluster.clock.monotonic_s() < end:
        if not cluster._once() and not cluster.pass_time():
            return


def play_until(cluster: Cluster, *kinds: str) -> None:
    play(cluster, lambda: happened(cluster, *kinds))
    assert happened(cluster, *kinds)


def first_round(cluster: Cluster, plan: bytes, limit_s: float = 5_000.0) -> tuple[OrgId, ...]:
    """Order a run and play its first round to the end, no further: the survivors of its exact sum, () if it died."""
    cluster.start_run(RUN, plan)
    return play_first_round(cluster, limit_s)


def play_first_round(cluster: Cluster, limit_s: float = 5_000.0) -> tuple[OrgId, ...]:
    play(cluster, lambda: happened(cluster, "SumOpened", "AttemptDied", "AbortCertified"), limit_s)
    if not happened(cluster, "SumOpened"):
        return ()
    assert check_sums(cluster) == 1
    (proposed,) = facts_called(cluster, facts.Proposed)
    return tuple(proposed.survivors)


def attempt_of(cluster: Cluster) -> Attempt:
    attempt = state(cluster).attempt
    assert attempt is not None
    return attempt


def key_of(cluster: Cluster) -> AttemptKey:
    return attempt_of(cluster).key


def turned(key: PublicKey, blocks: Sequence[Block], what: str) -> list[Block]:
    """The blocks with one sign turned: of the first header, its lift or its first body."""
    first, n, cipher = blocks[0], key.group.n, key.group.cipher
    bent = {
        "header": replace(first, header=n - first.header),
        "lift": replace(first, lift=cipher - first.lift),
        "body": replace(first, bodies=(cipher - first.bodies[0], *first.bodies[1:])),
    }[what]
    return [bent, *blocks[1:]]
