"""Small federations for protocol tests: the production machines in one process, and what their members truly put in.

Every test that opens a sum compares it with `expected_sum`: the integer sum of the survivors' quantised inputs, taken
from what the PARTICIPANTS encoded and voted for, never from anything that the coordinator wrote.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from fedveil_common import plan as plans
from fedveil_common import wire
from fedveil_common.crypto import signing
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.messages import (
    BlobType,
    Body,
    CoordinatorMessage,
    Manifest,
    ParticipantMessage,
    SignedBlob,
)
from fedveil_common.noise_links import Coins
from fedveil_common.secret import PrivateKey, Seed
from fedveil_coordinator.run import RunState
from fedveil_participant.bench import TableBench
from fedveil_participant.events import Changes
from fedveil_participant.stages import Encoding, Encrypting, Stage
from fedveil_simulation.charter import Charter, make_charter
from fedveil_simulation.cluster import Cluster, Packet
from fedveil_simulation.journals import ParticipantMemory
from fedveil_simulation.key_book import KeyBook
from numpy.typing import NDArray

FIVE = tuple(OrgId(name) for name in ("acme", "borealis", "cygnus", "delta", "echo"))
THREE = FIVE[:3]
RUN = RunId("run-1")
SETTINGS = {
    "rounds": 1,
    "seed": 7,
    "standardise": "none",
    "max_corrupt": 1,
    "min_participants": 3,
    "every": 1,
    "update_norm": 5.0,
    "rate": 0.2,
    "wait_s": 600,
    "hard_limit_s": 120,
    "protection": "masked",
}
PLAN = """version: 1
name: small
kind: train
data:
  dataset: table
  features:
    f0: {{type: float, range: [0, 1]}}
    f1: {{type: float, range: [0, 1]}}
    f2: {{type: float, range: [0, 1]}}
    f3: {{type: float, range: [0, 1]}}
    f4: {{type: float, range: [0, 1]}}
  target: {{column: y, type: binary}}
  min_rows: 2
  standardise: {standardise}
model: {{kind: logistic, l2: 0.0}}
training: {{rounds: {rounds}, local_epochs: 1, batch_size: 4, learning_rate: {rate}, seed: {seed}, weight: rows,
  weight_cap: 400}}
strategy: {{kind: fedavg}}
evaluation: {{every: {every}, metrics: [loss, accuracy], holdout: 0.2}}
cohort: {{min_participants: {min_participants}, max_corrupt: {max_corrupt}, progress_s: 3, wait_s: {wait_s},
  hard_limit_s: {hard_limit_s}}}
protection: {{kind: {protection}, value_bits: 16, update_norm: {update_norm}}}
privacy: none
"""


def plan_bytes(**settings: object) -> bytes:
    """The canonical bytes of the small plan."""
    return plans.canonical(plans.parse_plan(PLAN.format(**{**SETTINGS, **settings}).encode(), "small.yaml"))


def table(index: int) -> dict[str, bytes]:
    """Member `index` has 12 * 2^index rows and its own feature set: no two sets of members sum to the same figures."""
    rows = 12 * 2**index
    lines = ["f0,f1,f2,f3,f4,y"]
    for row in range(rows):
        cells = ["1" if column == index else f"{(row * (column + 3)) % 7 / 14:.3f}" for column in range(5)]
        lines.append(",".join([*cells, str((row + index) % 2)]))
    return {"table": ("\n".join(lines) + "\n").encode()}


class RecordingMemory(ParticipantMemory):
    """A participant's journal that also keeps, for each attempt, the integers of its input before they were masked."""

    def __init__(self, name: OrgId = FIVE[0]) -> None:
        super().__init__()
        self.name = name
        self.encoded: dict[tuple[AttemptKey, bytes], NDArray[np.int64]] = {}
        self.stages: list[tuple[str, Stage]] = []
        self.on_save: Callable[[str, AttemptKey], None] = lambda kind, key: None

    def save(
        self, key: AttemptKey, stage: Stage, kind: str, trail: tuple[tuple[str, str], ...], changes: Changes
    ) -> None:
        super().save(key, stage, kind, trail, changes)
        self.stages.append((kind, stage))
        if isinstance(stage, Encoding | Encrypting):
            manifest = stage.frame.manifest
            plan = plans.parse_canonical(self.plans[manifest.key.run_id][1])
            bench = TableBench({}, Seed(bytes(32)))
            values = self.updates[stage.frame.update_key].values
            dealers = len(stage.peers if isinstance(stage, Encoding) else stage.members)
            coins = Coins(stage.rounding, stage.t2, self.name, dealers)
            made = bench.encode(plan, manifest, values, coins, 0)
            self.encoded[key, stage.t2] = made.astype(np.int64)
        self.on_save(kind, key)


def federation(
    names: Sequence[OrgId] = FIVE,
    *,
    seed: int = 1,
    plan: bytes | None = None,
    charter: Charter | None = None,
    start: bool = True,
    cls: type[Cluster] = Cluster,
    book: KeyBook | None = None,
) -> Cluster:
    """A cluster of these members with their data; each is started and knows of no run yet."""
    canonical = plan_bytes() if plan is None else plan
    data = {name: table(FIVE.index(name)) for name in names}
    cluster = cls(charter or make_charter(names, seed), seed, data, canonical, book=book)
    for name, member in cluster.members.items():
        member.memory = RecordingMemory(name)
        if start:
            cluster.start_member(member.org_id)
    if start:
        cluster.settle()
    return cluster


def run(cluster: Cluster, plan: bytes | None = None, run_id: RunId = RUN, limit_s: float = 200_000.0) -> str:
    """Order a run, play it to its end, check every sum it opened; the code with which it ended."""
    cluster.start_run(run_id, plan_bytes() if plan is None else plan)
    cluster.play(lambda: cluster.ended(run_id), limit_s)
    check_sums(cluster, run_id)
    return cluster.memory.runs[run_id][2] if cluster.memory.runs[run_id][1] == "ended" else "waiting"


def journal(cluster: Cluster, org: OrgId) -> RecordingMemory:
    """The journal of a member."""
    memory = cluster.members[org].memory
    assert isinstance(memory, RecordingMemory)
    return memory


def trail(cluster: Cluster, org: OrgId, round: int | None = None) -> list[str]:
    """The kinds in a member's trail, of one round or of all."""
    return [kind for kind, key, _ in journal(cluster, org).trail if round is None or key.round == round]


def voted(cluster: Cluster, run_id: RunId, round: int) -> dict[tuple[AttemptKey, str], tuple[OrgId, ...]]:
    """(attempt, T3 in hex) -> survivors, for every vote in any member's journal for this round."""
    found = {}
    for member in cluster.members.values():
        for kind, key, facts in member.memory.trail:
            if kind == "vote" and (key.run_id, key.round) == (run_id, round):
                told = dict(facts)
                found[key, told["t3"]] = tuple(OrgId(org) for org in told["survivors"].split(","))
    return found


def revealed(cluster: Cluster, run_id: RunId, round: int) -> set[AttemptKey]:
    """The attempts of this round for which any member revealed."""
    return {
        key
        for member in cluster.members.values()
        for kind, key, _ in member.memory.trail
        if kind == "reveal" and (key.run_id, key.round) == (run_id, round)
    }


def expected_sum(cluster: Cluster, round: int, run_id: RunId = RUN) -> NDArray[np.int64]:
    """The sum of the survivors' quantised inputs, from the participants' own journals alone."""
    (opened,) = revealed(cluster, run_id, round)
    (survivors,) = {orgs for (key, _), orgs in voted(cluster, run_id, round).items() if key == opened}
    found = [vector for org in survivors for (key, _), vector in journal(cluster, org).encoded.items() if key == opened]
    assert len(found) == len(survivors)
    return np.asarray(np.sum(np.stack(found), axis=0))


def check_sums(cluster: Cluster, run_id: RunId = RUN) -> int:
    """Every sum that the coordinator holds of this run is the exact sum of its survivors; how many there are."""
    rounds = [number for run, number in cluster.memory.sums if run == run_id]
    for number in rounds:
        opened = cluster.memory.read_sum(run_id, number)
        np.testing.assert_array_equal(opened, expected_sum(cluster, number, run_id))
    return len(rounds)


def state(cluster: Cluster, run_id: RunId = RUN) -> RunState:
    """The run as the coordinator knows it."""
    return cluster.coordinator.state_of(run_id)


# --- messages ---------------------------------------------------------------------------------------------------------


def parse(packet: Packet) -> CoordinatorMessage | ParticipantMessage:
    """What a packet says."""
    return wire.parse_coordinator(packet.data) if packet.outward else wire.parse_participant(packet.data)


def rebuilt(packet: Packet, message: CoordinatorMessage | ParticipantMessage) -> Packet:
    """The packet with another message in it."""
    data = wire.encode_coordinator(message) if packet.outward else wire.encode_participant(message)  # type: ignore[arg-type]
    return replace(packet, data=data)


def key_of(charter: Charter, signer: OrgId) -> PrivateKey:
    """Anyone's signing key: the charter holds all."""
    return charter.coordinator_key if signer == COORDINATOR else charter.member_keys[signer]


def signed(charter: Charter, signer: OrgId, type: BlobType, body: Body) -> SignedBlob:
    """A blob as `signer` would sign it."""
    return signing.sign(key_of(charter, signer), signer, type, wire.encode_body(body))


def resigned(charter: Charter, blob: SignedBlob, **changes: object) -> SignedBlob:
    """The blob with changes to its body, signed again by its signer."""
    return signed(charter, blob.signer_id, blob.type, replace(body_of(blob), **changes))  # type: ignore[arg-type]


def body_of(blob: SignedBlob) -> Body:
    """The parsed body of a blob."""
    return wire.parse_body(blob.type, blob.body)


def manifest_of(blob: SignedBlob) -> Manifest:
    """The parsed manifest."""
    body = body_of(blob)
    assert isinstance(body, Manifest)
    return body


Said = CoordinatorMessage | ParticipantMessage


@dataclass
class Tap:
    """A route that lets a test drop, change or repeat messages: `change(packet, message)` gives what goes on."""

    change: Callable[[Packet, Said], Iterable[Said]]
    seen: list[tuple[Packet, Said]] = field(default_factory=list)

    def __call__(self, packet: Packet) -> Iterable[Packet]:
        message = parse(packet)
        self.seen.append((packet, message))
        return [rebuilt(packet, one) if one is not message else packet for one in self.change(packet, message)]


def silence(cluster: Cluster, orgs: Iterable[OrgId], kind: str, round: int) -> None:
    """Each of `orgs` dies for good once its trail says `kind` in `round`, before anything that follows is sent."""
    for org in orgs:
        die_after(cluster, org, kind, round)


def die_after(cluster: Cluster, org: OrgId, kind: str, round: int, then: Callable[[], None] | None = None) -> list[int]:
    """`org` is killed the moment its journal holds `kind` of `round`; the list gets one entry once that happened."""
    died: list[int] = []

    def saved(said: str, key: AttemptKey) -> None:
        if said == kind and key.round == round and not died:
            died.append(1)
            raise Killed(org)

    journal(cluster, org).on_save = saved
    once = cluster._once

    def guarded() -> bool:
        try:
            return once()
        except Killed as killed:
            if killed.org != org:
                raise
            cluster.kill_member(org)
            if then is not None:
                then()
            return True

    cluster._once = guarded  # type: ignore[method-assign]
    return died


class Killed(Exception):
    """The process of `org` is gone: nothing after the durable write happened."""

    def __init__(self, org: OrgId) -> None:
        super().__init__(org)
        self.org = org


def after(cluster: Cluster, seconds: float, action: Callable[[], None]) -> None:
    """Do something once this much simulated time has passed."""
    done: list[int] = []
    due, passing = cluster.clock.monotonic_s() + seconds, cluster.pass_time

    def passed() -> bool:
        moved = passing()
        if not done and (cluster.clock.monotonic_s() >= due or not moved):
            done.append(1)
            cluster.clock.advance_to(due)
            action()
            return True
        return moved

    cluster.pass_time = passed  # type: ignore[method-assign]
