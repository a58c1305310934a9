"""Rounds as text, for a reviewer: `rounds/*.txt` hold a command, `----`, and all that both sides said and stored.

`pytest --rewrite` writes them anew; commit the difference only if you can explain each line. A line is

    WHO stored RECORD             a durable record, with the stage that follows from it
    WHO -> WHOM  Message ...      a message on a session, with its size; `=>` an upload or a download
    (3.0 s)                       time that passed, since nothing else could happen

Equal lines that follow each other are one line. A hash is shown by its first digits, and only in the first round: the
seed fixes it there. What the members put into the sums is made up (`ledger.MarkedBench`), so nothing is trained here.
"""

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from federation import FIVE, RUN, body_of, parse, rebuilt
from fedveil_common import wire
from fedveil_common.ids import COORDINATOR, OrgId, RunId
from fedveil_common.messages import (
    AbortNotice,
    AbortOrder,
    AckMessage,
    Certificate,
    CoordinatorMessage,
    Header,
    KeySet,
    Manifest,
    Offer,
    OpeningRequest,
    Openings,
    ParticipantMessage,
    PlanAnswer,
    Progress,
    Proposal,
    Receipt,
    ReceiptNotice,
    Refusal,
    Result,
    ResultNotice,
    Reveal,
    RevealMessage,
    RunEnded,
    ShareAck,
    ShareDelivery,
    Shares,
    ShareSet,
    SignedBlob,
)
from fedveil_coordinator import facts
from fedveil_participant.checking import SumDownload
from fedveil_participant.events import Changes
from fedveil_participant.stages import Stage
from fedveil_simulation.cluster import Packet
from ledger import CrashError, LedgerCluster, LedgerMemory, story_plan
from lies import unsigned

ROUNDS = Path(__file__).with_name("rounds")
AGAIN = RunId("run-2")


# --- what a line says -------------------------------------------------------------------------------------------------


def names(orgs: Iterable[OrgId]) -> str:
    """Members, sorted; `nobody` if there are none."""
    return " ".join(sorted(orgs)) or "nobody"


def signers(blobs: Iterable[SignedBlob]) -> str:
    """Who signed these."""
    return names(blob.signer_id for blob in blobs)


def manifest_said(blob: SignedBlob) -> str:
    """What an attempt is about."""
    body = body_of(blob)
    assert isinstance(body, Manifest)
    proofs = f", {len(body.abort_certificates)} abort certificate(s)" if body.abort_certificates else ""
    return f"round {body.key.round} attempt {body.key.attempt} {body.purpose} of {names(body.cohort)}{proofs}"


def said(message: CoordinatorMessage | ParticipantMessage) -> str:
    """The fields of a message that matter to its reader."""
    match message:
        case Offer(manifest=blob):
            return manifest_said(blob)
        case KeySet(adverts=blobs) | ShareDelivery(shares=blobs) | OpeningRequest(complaints=blobs):
            return f"by {signers(blobs)}"
        case Proposal(headers=blobs) | Certificate(votes=blobs):
            return f"by {signers(blobs)}"
        case Shares(shares=blobs) | Openings(openings=blobs):
            return f"for {names(body_of(blob).recipient for blob in blobs)}"  # type: ignore[union-attr]
        case AckMessage(ack=blob):
            body = body_of(blob)
            assert isinstance(body, ShareAck)
            return f"unusable: {names(body.bad_dealers)}"
        case ShareSet():
            openings = f", opened by {signers(message.openings)}" if message.openings else ""
            return f"dealers {names(message.dealers)}{openings}"
        case RevealMessage(reveal=blob):
            body = body_of(blob)
            assert isinstance(body, Reveal)
            own = "own self seed, " if body.self_seed else ""
            shares = f"self shares of {names(org for org, _ in body.self_shares)}"
            return f"{own}{shares}, key shares of {names(org for org, _ in body.key_shares)}"
        case AbortOrder(request=blob):
            return str(body_of(blob).reason)  # type: ignore[union-attr]
        case AbortNotice(certificate=certificate):
            return f"votes of {signers(certificate.votes)}"
        case ResultNotice(result=blob):
            body = body_of(blob)
            assert isinstance(body, Result)
            return f"round {message.key.round}: {body.survivors} survivors, {body.length} coordinates"
        case ReceiptNotice(receipt=blob):
            body = body_of(blob)
            assert isinstance(body, Receipt)
            return str(body.kind)
        case Progress():
            return str(message.phase)
        case PlanAnswer():
            return message.code or "accepted"
        case Refusal():
            return message.code
        case RunEnded():
            return f"{message.run_id}: {message.code}, {'a model' if message.model else 'no model'}"
        case _:
            return ""


def stored(fact: facts.Fact) -> str:
    """The fields of a coordinator's record that matter."""
    match fact:
        case facts.Offered(manifest=blob):
            return manifest_said(blob)
        case facts.AdvertAccepted(advert=blob) | facts.AckAccepted(ack=blob) | facts.InputAccepted(header=blob):
            return blob.signer_id
        case facts.VoteAccepted(vote=blob) | facts.RevealAccepted(reveal=blob) | facts.AbortVoteAccepted(vote=blob):
            return blob.signer_id
        case facts.SharesAccepted(dealer=org) | facts.OpeningsAccepted(dealer=org):
            return org
        case facts.KeySetFrozen(members=orgs) | facts.SharesDelivered(dealers=orgs) | facts.DealersFrozen(dealers=orgs):
            return names(orgs)
        case facts.Proposed(survivors=orgs) | facts.Certified(voters=orgs) | facts.AbortCertified(voters=orgs):
            return names(orgs)
        case facts.OpeningStarted(revealers=orgs):
            return names(orgs)
        case facts.AbortStarted():
            return f"{fact.reason}, missing {names(fact.missing)}"
        case facts.AttemptDied():
            return fact.reason
        case facts.Excluded():
            return f"{fact.org_id}: {fact.code}"
        case facts.SumApplied():
            return f"rejected: {fact.rejected}" if fact.rejected else "model" if fact.model_hash else "measured"
        case facts.Ended():
            return fact.code
        case _:
            return ""


# --- who writes it down -----------------------------------------------------------------------------------------------


class Scribe:
    """The lines of a story, in order; equal lines of several parties, one after the other, become one."""

    def __init__(self) -> None:
        self.on = True
        self._lines: list[tuple[list[str], str, list[str], str]] = []

    def write(self, who: str, verb: str, whom: str, text: str) -> None:
        """One thing that happened."""
        if not self.on:
            return
        if self._lines:
            senders, last_verb, recipients, last_text = self._lines[-1]
            if (last_verb, last_text) == (verb, text):
                if senders == [who] and whom not in recipients:
                    recipients.append(whom)
                    return
                if recipients == [whom] and who not in senders:
                    senders.append(who)
                    return
        self._lines.append(([who], verb, [whom], text))

    def text(self) -> str:
        """The story so far."""
        made = []
        for senders, verb, recipients, text in self._lines:
            whom = " ".join(one for one in recipients if one)
            parts = [" ".join(senders), verb, f"{whom} " if whom else "", text]
            made.append(" ".join(part for part in parts if part).rstrip())
        return "\n".join(made) + "\n"


class ScribeMemory(LedgerMemory):
    """A participant's journal whose records are written down."""

    def __init__(self, cluster: "ScribeCluster", org: OrgId) -> None:
        super().__init__(cluster.ledger, org)
        self.cluster = cluster

    def save(self, key, stage: Stage, kind: str, trail: tuple[tuple[str, str], ...], changes: Changes) -> None:  # type: ignore[no-untyped-def]
        told = dict(trail)
        shown = [f"{name.upper()} {told[name][:8]}" for name in ("t0", "t1", "t2") if name in told and key.round == 1]
        spent = [word for word, keys in (("spent", changes.spend), ("free again", changes.free)) if keys]
        extra = "".join(f", {one}" for one in (*shown, *spent))
        self.cluster.scribe.write(self.org, "stored", "", f"{kind}: {type(stage).__name__}{extra}")
        super().save(key, stage, kind, trail, changes)

    def save_end(self, run_id: RunId, plan_hash: bytes, code: str, model_file: bytes, answers: bytes = b"") -> None:
        super().save_end(run_id, plan_hash, code, model_file, answers)
        self.cluster.scribe.write(self.org, "stored", "", f"end of {run_id}: {code}")


class ScribeCluster(LedgerCluster):
    """A federation that writes down what happens in it."""

    def __init__(self, count: int, *, sessions: bool = False) -> None:
        self.scribe = Scribe()
        self.scribe.on = sessions
        self.plan = story_plan()
        self.stops: set[str] = set()
        super().__init__(FIVE[:count], self.plan)
        append, advance_to = self.spool.append, self.clock.advance_to
        self._stage = ""

        def advanced(instant: float) -> None:
            if instant > self.clock.monotonic_s():
                self.scribe.write(f"({instant - self.clock.monotonic_s():.1f} s)", "", "", "")
            advance_to(instant)

        def recorded(run_id: RunId, records: list[tuple[str, bytes]]) -> None:
            active = self.coordinator.active
            attempt = None if active is None else active.attempt
            stage = "" if attempt is None else type(attempt.stage).__name__
            for kind, body in records:
                last = (kind, body) == records[-1] and stage not in {"", self._stage}
                becomes = f", then {stage}" if last else ""
                told = f"{kind} {stored(facts.decode(kind, body))}".rstrip()
                self.scribe.write(COORDINATOR, "stored", "", f"{told}{becomes}")
                self.scribe.on = self.scribe.on and kind not in self.stops
            self._stage = stage
            append(run_id, records)

        self.clock.advance_to = advanced  # type: ignore[method-assign]
        self.spool.append = recorded  # type: ignore[method-assign]
        for org, member in self.members.items():
            member.memory = ScribeMemory(self, org)
            self.start_member(org)
        self.settle()

    def dispatch(self, packet: Packet) -> None:
        message = parse(packet)
        ends = (COORDINATOR, packet.org_id) if packet.outward else (packet.org_id, COORDINATOR)
        name = type(message).__name__
        self.scribe.write(ends[0], "->", ends[1], f"{name} {said(message)}".rstrip() + f" ({len(packet.data)} B)")
        super().dispatch(packet)

    def upload(
        self,
        org_id: OrgId,
        header: bytes,
        leaf_hashes: tuple[bytes, ...],
        leaves: Iterable[tuple[int, bytes | bytearray]],
    ) -> SignedBlob:
        body = body_of(wire.parse_blob(header))
        assert isinstance(body, Header)
        self.scribe.write(org_id, "=>", COORDINATOR, f"header and {body.leaf_count} leaf of {body.length} coordinates")
        return super().upload(org_id, header, leaf_hashes, leaves)

    def download(self, run_id: RunId, round: int) -> SumDownload:
        self.scribe.write(COORDINATOR, "=>", "who asks", f"the sum of round {round}")
        return super().download(run_id, round)

    def start_member(self, org_id: OrgId) -> None:
        if self.members[org_id].lives:
            self.scribe.write(org_id, "starts", "", "again")
        super().start_member(org_id)

    def kill_member(self, org_id: OrgId) -> None:
        self.scribe.write(org_id, "is lost", "", "")
        super().kill_member(org_id)

    def restart_coordinator(self) -> None:
        self.scribe.write(COORDINATOR, "is lost,", "", "and starts again")
        super().restart_coordinator()

    def order(self, run_id: RunId = RUN) -> None:
        """The operator orders a run."""
        self.scribe.on = True
        self.start_run(run_id, self.plan)

    def go(self, until: Callable[[], bool]) -> None:
        """On, until `until` holds."""
        while not until():
            assert self._once() or self.pass_time(), "nothing can happen any more"

    def has(self, org: OrgId, kind: str) -> Callable[[], bool]:
        """Whether a member has stored this."""
        return lambda: (org, kind) in self.ledger.kinds

    def recorded(self, kind: str, run_id: RunId = RUN) -> Callable[[], bool]:
        """Whether the coordinator has stored this."""
        return lambda: any(name == kind for name, _ in self.memory.facts(run_id))


def to_the_end(cluster: ScribeCluster, run_id: RunId = RUN) -> str:
    """Play the run out; the code with which it ended."""
    cluster.go(lambda: cluster.ended(run_id))
    cluster.settle()
    cluster.ledger.check()
    return cluster.memory.runs[run_id][2]


def first_sum(cluster: ScribeCluster) -> str:
    """Play until the first sum has become a model, write down no more, and play the run out."""
    cluster.stops = {"SumApplied"}
    return to_the_end(cluster)


# --- the stories ------------------------------------------------------------------------------------------------------


def all_present() -> ScribeCluster:
    """Three members, from their first word to the end of the run; the second sum, which only measures, is left out."""
    cluster = ScribeCluster(3, sessions=True)
    cluster.order()
    cluster.stops = {"SumApplied"}
    cluster.go(lambda: [kind for kind, _ in cluster.memory.facts(RUN)].count("SumOpened") == 2)
    cluster.scribe.on, cluster.stops = True, set()
    cluster.scribe.write("...", "", "", "")
    assert to_the_end(cluster) == "finished"
    return cluster


def lost_at(kind: str) -> ScribeCluster:
    cluster, org = ScribeCluster(4), FIVE[3]
    cluster.order()
    cluster.go(cluster.has(org, kind))
    if kind == "input":
        cluster.go(lambda: any(name == org for name, _, _ in cluster.uploads))
    cluster.kill_member(org)
    assert first_sum(cluster) == "finished"
    return cluster


def one_dropped_before_input() -> ScribeCluster:
    """Four members, q = 3. delta is lost once it has dealt: its mask key is put together from shares."""
    return lost_at("ack")


def one_dropped_after_header() -> ScribeCluster:
    """Four members, q = 3. delta is lost once its input is in: it counts, its self seed is put together from shares."""
    return lost_at("input")


def complaint_answered() -> ScribeCluster:
    """Three members. What acme dealt to borealis arrives damaged: it is opened in public, and nobody is to blame."""
    cluster, once = ScribeCluster(3), []

    def damage(packet: Packet) -> list[Packet]:
        message = parse(packet)
        if packet.org_id != FIVE[1] or not isinstance(message, ShareDelivery) or once:
            return [packet]
        once.append(packet)
        first, *others = message.shares
        assert first.signer_id == FIVE[0]
        return [rebuilt(packet, ShareDelivery(message.t1, (*unsigned(first), *others)))]

    cluster.route = damage
    cluster.order()
    assert first_sum(cluster) == "finished"
    return cluster


def abort_and_second_attempt() -> ScribeCluster:
    """Three members, q = 3. cygnus is lost before its input; the two others prove that attempt 1 will never open."""
    cluster, org = ScribeCluster(3), FIVE[2]
    cluster.order()
    cluster.go(cluster.has(org, "ack"))
    cluster.kill_member(org)
    cluster.go(cluster.recorded("AbortCertified"))
    cluster.start_member(org)
    assert first_sum(cluster) == "finished"
    return cluster


def coordinator_restarted() -> ScribeCluster:
    """Three members. The coordinator is lost once the set of inputs is on disk: it proposes the very same set."""
    cluster, once = ScribeCluster(3), []

    def crash(kind: str) -> None:
        if kind == "Proposed" and not once:
            once.append(kind)
            raise CrashError(COORDINATOR)

    cluster.spool.on_append = crash
    cluster.order()
    assert first_sum(cluster) == "finished"
    return cluster


def too_few() -> ScribeCluster:
    """Three members, the plan asks for three. cygnus is lost and never comes back: the run waits, and ends."""
    cluster, org = ScribeCluster(3), FIVE[2]
    cluster.order()
    cluster.go(cluster.has(org, "advert"))
    cluster.kill_member(org)
    assert to_the_end(cluster) == "not_enough_participants"
    return cluster


def second_run_refused() -> ScribeCluster:
    """Three members whose run is over. The same plan once more would sum the same data for the same model."""
    cluster = ScribeCluster(3)
    cluster.order()
    cluster.scribe.on = False
    assert to_the_end(cluster) == "finished"
    cluster.order(AGAIN)
    assert to_the_end(cluster, AGAIN) == "model_spent"
    return cluster


STORIES = (
    all_present,
    one_dropped_before_input,
    one_dropped_after_header,
    complaint_answered,
    abort_and_second_attempt,
    coordinator_restarted,
    too_few,
    second_run_refused,
)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_transcript(story: Callable[[], ScribeCluster], request: pytest.FixtureRequest) -> None:
    path = ROUNDS / f"{story.__name__.replace('_', '-')}.txt"
    told = f"fedveil run start small.yaml\n{story.__doc__}\n----\n{story().scribe.text()}"
    if request.config.getoption("--rewrite"):
        path.write_text(told, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    changes = difflib.unified_diff(kept.splitlines(), told.splitlines(), path.name, "as told now", lineterm="")
    assert kept == told, "\n".join(changes)


def test_every_transcript_has_a_story_and_fits_on_a_few_screens() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in ROUNDS.glob("*.txt")}
    assert set(texts) == {story.__name__.replace("_", "-") for story in STORIES}
    assert max(text.count("\n") for text in texts.values()) <= 150
