"""What a participant answers to the plans that it is offered, now and whenever its people or its clock say otherwise.

Promise: the latest word counts, whatever order work ends in; a run whose answer is no, or not yet, makes no further
input; nothing is answered with yes whose data, limits and consent were not looked at. All on the driver's thread but
for the reading of data.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from fedveil_common import plan as plans
from fedveil_common.errors import FedveilError, PolicyRefusal, heard
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import PlanAnswer, PlanOffer, RunEnded
from fedveil_common.plan import Plan
from fedveil_common.ports import Clock

from fedveil_participant import checks, kept, spending, withdrawing
from fedveil_participant.consent import Consenting, Word, key_for
from fedveil_participant.events import ConsentChanged, Event, InputsHeld
from fedveil_participant.house_record import HouseRecord
from fedveil_participant.ports import Bench, Cipher, Journal, Link, Workers
from fedveil_participant.stages import Idle
from fedveil_participant.state import State

HOURS_S = 15.0
"""How often it is looked whether the hours in which inputs are given have begun or ended."""


class Engine(Protocol):
    """The driver, as far as answers need it."""

    state: State

    def call(self, work: Callable[[], None]) -> None: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102
    def handle(self, event: Event) -> None: ...  # noqa: D102
    def tell(self, kind: str, facts: Mapping[str, str]) -> None: ...  # noqa: D102
    def open_session(self) -> None: ...  # noqa: D102
    def run_ended(self, message: RunEnded) -> None: ...  # noqa: D102


class PlanAnswers:
    """The driver's part that answers plans. `consent` decides. `check_first_model` raises for a plan that goes on from
    what was withdrawn; without a status list it raises for none.
    """

    def __init__(
        self,
        engine: Engine,
        consent: Consenting,
        journal: Journal,
        bench: Bench,
        link: Link,
        workers: Workers,
        clock: Clock,
        cipher: Cipher,
        record: HouseRecord,
    ) -> None:
        self.consent = consent
        self.check_first_model: Callable[[Plan], None] = lambda plan: None
        self._engine = engine
        self._journal = journal
        self._bench = bench
        self._link = link
        self._workers = workers
        self._clock = clock
        self._cipher = cipher
        self._record = record
        self._reading: frozenset[RunId] = frozenset()
        self._held_ends: dict[RunId, RunEnded] = {}
        self._offers: dict[RunId, PlanOffer] = {}
        self._asked: dict[RunId, int] = {}
        self._leaving, self._sat_out, self._look_at = False, False, 0.0

    # --- what the driver says -----------------------------------------------------------------------------------------

    def begin_session(self) -> None:
        """A new session: every run is offered anew, and what was sat out is forgotten there."""
        self._offers, self._sat_out = {}, False
        self.consent.begin_session()

    def sat_out(self) -> None:
        """An attempt was refused in this session: the coordinator invites this participant again in another one."""
        self._sat_out = True

    def ended(self, run_id: RunId) -> None:
        """The end of a run is stored: nothing of it is offered any more."""
        self._offers.pop(run_id, None)

    def holds_end(self, message: RunEnded) -> bool:
        """Whether the end of a run waits for its plan, which is being read."""
        if message.run_id not in self._reading:
            return False
        self._held_ends[message.run_id] = message
        return True

    @property
    def looks_at(self) -> float | None:
        """When the time must be looked at again, on the monotonic clock."""
        return self._look_at if self.consent.watches_clock else None

    # --- what its people say ------------------------------------------------------------------------------------------

    def reconsider(self, plan_hash: bytes) -> None:
        """Something was said about a plan: answer again what is offered of it. A run that was sat out is offered anew
        in a new session.
        """
        offers = [one for one in self._offers.values() if plans.plan_hash(one.canonical_plan) == plan_hash]
        if offers and self._sat_out:
            self._engine.open_session()
            return
        for offer in offers:
            self.offered(offer)

    def close_denied(self) -> None:
        """At a start: what was denied while nobody was told of it has its effect on the attempt that the journal holds,
        before anything of that attempt is taken up.
        """
        for run_id, code in self._engine.state.closed.items():
            self._engine.handle(ConsentChanged(run_id, code))

    def refused_now(self) -> str:
        """At a start: why the input that the journal's attempt is making may not be given by consent, policy and house
        as they are now, in a code that may leave; "" if it may. Nobody need offer its run anew before it goes on. Its
        roster may be older than the one that a hold looks at.
        """
        state = self._engine.state
        if isinstance(state.stage, withdrawing.BeforeHeader):
            unconfirmed = self.consent.unconfirmed(state.roster)
            if unconfirmed:
                return unconfirmed
        if not isinstance(state.stage, withdrawing.Admitted):
            return ""
        key = state.stage.frame.key
        accepted = state.plans.get(key.run_id)
        if accepted is None:
            return "plan_not_accepted"
        try:
            self.consent.admission(key.run_id, accepted.plan, accepted.plan_hash)
        except FedveilError as error:
            facts = {"round": str(key.round), "code": error.code, "what": error.what}
            self._engine.tell("update_refused", facts)
            return heard(error)
        return ""

    def ask_again(self, run_id: RunId) -> None:
        """The consent that a run rested on is gone: what is offered of it is looked at anew."""
        offer = self._offers.get(run_id)
        if offer is not None:
            self.offered(offer)

    def withdraw(self, plan_hash: bytes, code: str) -> dict[RunId, int]:
        """No input under a plan from now on. Its runs in which a sum was voted for, and in which round: too late for
        that one.
        """
        state = self._engine.state
        run_ids = [run for run, accepted in state.plans.items() if accepted.plan_hash == plan_hash]
        late = {run: found for run in run_ids if (found := withdrawing.too_late_for(state, run)) is not None}
        for run_id in run_ids:
            self._close_run(run_id, code)
        return late

    def leave(self) -> None:
        """Finish the open attempt, take part in no other, then the driver ends."""
        self._leaving = True
        self.refresh_hold()
        self.stop_if_left()

    def stop_if_left(self) -> None:
        """End the driver if its people left and no attempt is open."""
        if self._leaving and isinstance(self._engine.state.stage, Idle):
            self._engine.tell("left", {})
            self._engine.stop()

    def refresh_hold(self) -> None:
        """Tell the machine, and the coordinator, whether inputs are made at this time."""
        self._look_at = self._clock.monotonic_s() + HOURS_S
        state = self._engine.state
        code = self.consent.hold(self._clock.wall_s(), state.newer or state.roster)
        code = code or (withdrawing.LEAVING if self._leaving else "")
        if code == self._engine.state.held:
            return
        self._engine.handle(InputsHeld(code))
        self._engine.tell("held" if code else "resumed", {"code": code} if code else {})
        if not code and self._sat_out:
            self._engine.open_session()
        else:
            for offer in list(self._offers.values()):
                self.offered(offer)

    def _close_run(self, run_id: RunId, code: str) -> None:
        if self._engine.state.closed.get(run_id, "") != code:
            self._engine.handle(ConsentChanged(run_id, code))

    # --- a plan -------------------------------------------------------------------------------------------------------

    def offered(self, message: PlanOffer) -> None:
        """A plan is offered for a run: it is answered, at once or once the data was read."""
        digest, run_id, state = plans.plan_hash(message.canonical_plan), message.run_id, self._engine.state
        self._offers[run_id] = message
        if state.held:
            self._answer(digest, state.held)
            return
        known, members = state.plans.get(run_id), tuple(state.roster.participants)
        if known is not None and known.plan_hash == digest and run_id in state.high_water:
            # in the middle of this run: the data version was fixed when it was accepted
            self._answer_known(message, known, members)
            return
        number = self._asked[run_id] = self._asked.get(run_id, 0) + 1
        self._reading = self._reading | {run_id}

        def read(answer: Callable[[], None]) -> None:
            self._engine.call(lambda: self._read(run_id, digest, number, answer))

        def work() -> None:
            try:
                plan = plans.parse_canonical(message.canonical_plan)
                plans.check_release(plan)
                self.check_first_model(plan)
                word = self.consent.decide(run_id, message.canonical_plan, plan, members)
                if word.code:
                    read(lambda: self._refuse(run_id, digest, word))
                    return
                version = self._bench.accept(plan)
                self._record.read(run_id, plan, version, "accept")
                self.consent.check_rows(plan, lambda: self._bench.rows(plan, version))
                keys = key_for(plan, run_id, len(members), self._cipher)
                if run_id not in self._engine.state.high_water and plan.privacy is None:
                    self._journal.admit_version(plan.data.dataset, version)
                elif run_id not in self._engine.state.high_water:
                    self._journal.admit_ledger(plan.data.dataset)
            except FedveilError as error:
                refused = Word(error.code, str(error), heard(error))
                read(lambda: self._refuse(run_id, digest, refused))
                return
            accepted = checks.AcceptedPlan(plan, digest, version, keys)
            sketch = self._bench.sketch(version) if plan.privacy is None else b""  # D6: nothing depends on records
            read(lambda: self._accept(run_id, accepted, sketch))

        self._workers.submit(work)

    def _answer_known(self, message: PlanOffer, known: checks.AcceptedPlan, members: tuple[OrgId, ...]) -> None:
        """A run that goes on here: by consent and policy as they are now."""
        try:
            word = self.consent.decide(message.run_id, message.canonical_plan, known.plan, members)
        except FedveilError as error:
            word = Word(error.code, str(error), heard(error))
        if word.code:
            self._refuse(message.run_id, known.plan_hash, word)
            return
        self._close_run(message.run_id, "")
        self._answer(known.plan_hash, "")

    def _read(self, run_id: RunId, digest: bytes, number: int, answer: Callable[[], None]) -> None:
        """The plan of a run was read against the data; an end of it that came meanwhile is taken up now. If it was
        asked again meanwhile, the later one answers.
        """
        if self._asked.get(run_id) != number:
            return
        self._reading = self._reading - {run_id}
        if self._engine.state.held:
            self._answer(digest, self._engine.state.held)
        else:
            answer()
        self.drop_snapshots()
        held = self._held_ends.pop(run_id, None)
        if held is not None:
            self._engine.run_ended(held)

    def drop_snapshots(self) -> None:
        """Accepted data of runs that have ended goes (`kept`)."""
        kept.drop_snapshots(self._engine.state, self._journal, self._reading)

    def _accept(self, run_id: RunId, accepted: checks.AcceptedPlan, sketch: bytes) -> None:
        """The plan fits the data and the limits; what is spent already is refused before any round."""
        plan, state = accepted.plan, self._engine.state
        if sketch and accepted.version not in state.sketches:
            self._journal.save_sketch(accepted.version, sketch)
            state = self._engine.state = replace(state, sketches={**state.sketches, accepted.version: sketch})
        known = state.plans.get(run_id)
        if known is not None and known.plan_hash != accepted.plan_hash:
            self._decline(accepted.plan_hash, "plan_not_accepted", f"run {run_id} is already known with another plan")
            return
        if run_id not in state.high_water:
            try:
                spending.check_plan(state, run_id, accepted)
            except PolicyRefusal as error:
                self._decline(accepted.plan_hash, error.code, error.what)
                return
        self._journal.save_plan(run_id, accepted.plan_hash, plans.canonical(plan), accepted.version)
        self._engine.state = replace(state, plans={**state.plans, run_id: accepted})
        self._close_run(run_id, "")
        self._answer(accepted.plan_hash, "")

    def _refuse(self, run_id: RunId, digest: bytes, word: Word) -> None:
        """The answer is no, or not yet; a run that went on here makes no further input."""
        if run_id in self._engine.state.plans:
            self._close_run(run_id, word.said)
        self._decline(digest, word.code, word.what, word.said)

    def _decline(self, digest: bytes, code: str, what: str, said: str = "") -> None:
        """`said`: what the coordinator hears, if it is not the code."""
        self._engine.tell("plan_declined", {"plan": digest.hex(), "code": code, "what": what})
        self._answer(digest, said or code)

    def _answer(self, digest: bytes, code: str) -> None:
        self._record.answered(digest, code or "accepted")
        self._engine.tell("plan_answer", {"plan": digest.hex(), "code": code or "accepted"})
        self._link.send(PlanAnswer(digest, not code, code))
