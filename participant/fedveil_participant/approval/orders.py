"""What people order about consent, carried out: looking, approving, denying, pausing, leaving, confirming a roster.

Promise: what is asked is checked before anything is written; a plan is approved only as it was offered here, in its
canonical bytes, and only within the policy; what the person was shown is kept with the approval. The same whether a
participant runs (`Live` tells it at once) or not. Any thread.
"""

import hmac
import math
import re
from collections.abc import Callable, Mapping
from typing import Protocol

from fedveil_common import plan as plans
from fedveil_common.dp import budget
from fedveil_common.errors import ConfigError, FedveilError, LocalRefusal, Unreachable
from fedveil_common.ids import OrgId, RunId, is_name
from fedveil_common.jcs import Json
from fedveil_common.pki.words import check_words
from fedveil_common.plan import ModelKind, Plan
from fedveil_common.ports import Clock
from fedveil_common.roster import Roster

from fedveil_participant.approval import difference, people, report
from fedveil_participant.approval.binding import NOTHING
from fedveil_participant.approval.decisions import Agreed, Approval, Denied
from fedveil_participant.approval.desk import WITHDRAWN, ConsentDesk
from fedveil_participant.approval.people import Caller
from fedveil_participant.approval.roster_word import Difference, words_differ
from fedveil_participant.policy import examine, refused
from fedveil_participant.store import Books, StoredOffer, consents

MAX_REASON = 2_000
MAX_RUNS = 1_000_000
LAST_S = 253_402_300_799.0
"""The last second of the year 9999 (UTC): what people can be shown as a day ends there."""

_HASH = re.compile(r"[0-9a-fA-F]{64}\Z")

Answer = dict[str, Json]


class Live(Protocol):
    """The participant that runs, told from any thread. Each call returns once its driver has taken it in."""

    def reconsider(self, plan_hash: bytes) -> None:
        """Something was said about a plan."""
        ...

    def withdraw(self, plan_hash: bytes, code: str) -> Mapping[RunId, int]:
        """No input under a plan from now on; runs that were voted in already, and in which round."""
        ...

    def hold_changed(self) -> None:
        """Whether inputs are held back may have changed."""
        ...

    def leave(self) -> None:
        """Finish the open attempt, then end."""
        ...


class NotRunning:
    """`Live` where no participant runs: what is written counts from its next start."""

    def reconsider(self, plan_hash: bytes) -> None:
        """At the next start."""

    def withdraw(self, plan_hash: bytes, code: str) -> Mapping[RunId, int]:
        """Nothing is open that could be too late."""
        return {}

    def hold_changed(self) -> None:
        """At the next start."""

    def leave(self) -> None:
        """Unreachable `participant_not_running`."""
        raise Unreachable(
            "participant_not_running",
            "no participant of this home runs, so there is nothing to leave",
            next_step="`fedveil participate` starts it",
        )


class Orders:
    """`roster`: the newest that governance signed. `owner_uid`: the account that the participant runs, or would run,
    under.
    """

    def __init__(
        self,
        desk: ConsentDesk,
        store: Books,
        live: Live,
        roster: Callable[[], Roster],
        clock: Clock,
        owner_uid: int,
    ) -> None:
        self._desk = desk
        self._store = store
        self._live = live
        self._roster = roster
        self._clock = clock
        self._owner_uid = owner_uid

    def carry_out(self, request: Mapping[str, Json], caller: Caller) -> Answer:
        """The answer to one request: {"order": NAME, ...}. ConfigError `bad_request` for one that is none."""
        order = request.get("order")
        known: dict[str, tuple[Callable[..., Answer], frozenset[str]]] = {
            "pending": (self.pending, frozenset()),
            "show": (self.show, frozenset({"plan_hash"})),
            "approve": (self.approve, frozenset({"plan_hash", "run", "runs", "until_s"})),
            "deny": (self.deny, frozenset({"plan_hash", "reason"})),
            "pause": (self.pause, frozenset()),
            "resume": (self.resume, frozenset()),
            "leave": (self.leave, frozenset()),
            "roster": (self.roster, frozenset()),
            "confirm_roster": (self.confirm_roster, frozenset({"words"})),
        }
        if not isinstance(order, str) or order not in known:
            raise _bad_request("there is no such order")
        work, fields = known[order]
        given = {name: entry for name, entry in request.items() if name != "order"}
        if not set(given) <= fields:
            raise _bad_request(f"the order {order} has other fields")
        return work(caller, **given)

    # --- looking ------------------------------------------------------------------------------------------------------

    def pending(self, caller: Caller) -> Answer:
        """What waits for somebody's word, oldest first, and whether inputs are held back."""
        word = self._desk.roster_word
        waiting = self._store.waiting()
        return {
            "pending": [self._row(offer) for offer in waiting],
            "full": len(waiting) >= consents.MAX_OFFERS,
            "paused": self._store.is_paused(),
            "roster_waits": word.asked and word.of(self._roster()).needs_word,
            "policy": self._desk.digest.hex() if self._desk.policy is not None else None,
        }

    def show(self, caller: Caller, plan_hash: Json = "") -> Answer:
        """All about one plan. ConfigError `unknown_plan`."""
        digest = _digest(plan_hash)
        canonical = self._canonical(digest)
        return self._shown(digest, canonical, plans.parse_canonical(canonical))

    def _row(self, offer: StoredOffer) -> Answer:
        plan = plans.parse_canonical(offer.canonical)
        return {
            "run": offer.run_id,
            "plan_hash": offer.binding.plan_hash.hex(),
            "name": plan.name,
            "kind": str(plan.kind),
            "dataset": plan.data.dataset,
            "protection": report.protection(plan),
            "epsilon": None if plan.privacy is None else plan.privacy.max_epsilon,
            "since": report.instant(offer.wall_s),
            "state": self._state(offer, plan),
        }

    def _state(self, offer: StoredOffer, plan: Plan) -> str:
        if self._store.has_end(offer.run_id):
            return "ended"
        if self._desk.judged(offer.run_id, plan, self._members()):
            return "refused by the policy"
        try:
            binding = self._desk.bound(plan, offer.binding.plan_hash)
        except FedveilError as error:
            return f"not possible here: {error.what}"  # of this one alone: the others are listed all the same
        found = self._desk.decision(offer.run_id, plan, binding)
        match found:
            case Agreed():
                return f"approved ({found.by})"
            case Denied():
                return f"denied by {found.denial.person.name}"
            case _:
                return f"pending: {found.why}"

    def _shown(self, digest: bytes, canonical: bytes, plan: Plan) -> Answer:
        members = self._members()
        offers = [one for one in self._store.offers() if one.binding.plan_hash == digest]
        run_id = offers[-1].run_id if offers else RunId("")
        facts = self._desk.facts(run_id, plan, members)
        policy = self._desk.policy
        standing = self._desk.standing()
        said = [
            f"{one.name}: {', '.join(person.name for person in one.people)}, {len(one.people)} of {one.need}, "
            f"for {'run ' + one.run_id if one.run_id else f'{one.runs} runs'}"
            + ("" if math.isinf(one.until_s) else f" until {report.instant(one.until_s)}")
            for one in standing.approvals
            if one.binding.plan_hash == digest
        ]
        if digest in standing.accepted:
            said.append("accepted on the command line of participate, for any number of runs")
        denial = standing.denial(digest)
        if denial is not None:
            reason = f": {denial.reason}" if denial.reason else ""
            said.append(f"denied by {denial.person.name} on {report.instant(denial.wall_s)}{reason}")
        rows = [one.entry for one in self._store.ledger_rows() if one.dataset == plan.data.dataset]
        return report.value(
            canonical,
            plan,
            self._desk.bound(plan, digest),
            [
                {"run": one.run_id, "since": report.instant(one.wall_s), "state": self._state(one, plan)}
                for one in offers
            ],
            () if policy is None else examine(policy, plan, facts),
            facts.input_bytes,
            report.left(budget.fold(rows), self._store.lifetimes().get(plan.data.dataset)),
            self._earlier(digest, canonical, plan),
            said,
        )

    def _earlier(self, digest: bytes, canonical: bytes, plan: Plan) -> tuple[str, tuple[difference.Change, ...]] | None:
        """The version of a plan of this name that was approved or run here last, and what changed since."""
        approved = {one.binding.plan_hash for one in self._desk.standing().approvals}
        approved |= {one.plan_hash for one in self._desk.standing().let_in}
        offered = [(one.binding.plan_hash, one.canonical) for one in self._store.offers()]
        known = [pair for pair in offered if pair[0] in approved]
        known += [(one.plan_hash, one.canonical) for one in self._store.plans()]
        for found, before in reversed(known):
            if found != digest and plans.parse_canonical(before).name == plan.name:
                return found.hex(), difference.changes(before, canonical)
        return None

    # --- saying yes and no --------------------------------------------------------------------------------------------

    def approve(
        self, caller: Caller, plan_hash: Json = "", run: Json = None, runs: Json = None, until_s: Json = None
    ) -> Answer:
        """Approve a plan as it is now, for one run, or for `runs` of them until `until_s`.

        PolicyRefusal `not_an_approver`, `policy_refused`; ConfigError `unknown_plan`, `unknown_offer`, `which_run`,
        `bad_term`; LocalRefusal `trainer_missing`.
        """
        people.check_approver(self._desk.policy, caller, self._owner_uid)
        digest = _digest(plan_hash)
        canonical = self._canonical(digest)
        plan = plans.parse_canonical(canonical)
        run_id, many, until = self._terms(digest, run, runs, until_s)
        refusals = self._desk.judged(RunId(run_id), plan, self._members())
        if refusals:
            raise refused(refusals)
        shown = "\n".join(report.lines(self._shown(digest, canonical, plan)))
        need = 1 if self._desk.policy is None else self._desk.policy.need
        binding = self._desk.bound(plan, digest)
        if plan.model.kind is ModelKind.TRAINER and binding.trainer == NOTHING:
            raise LocalRefusal(
                "trainer_missing",
                f"the plan trains with {plan.model.trainer!r}, and nothing here says which trainer that is: no "
                "approval would be for its code",
                not_done="nothing was approved",
                next_step=f"fedveil participate --trainer {plan.model.trainer}=CONFIG.toml; approve while it runs",
            )
        approval = self._store.approve(binding, run_id, many, until, need, caller.person, shown)
        if approval.complete:
            self._live.reconsider(digest)
        return _approved(approval, plan)

    def deny(self, caller: Caller, plan_hash: Json = "", reason: Json = "") -> Answer:
        """Say no to a plan, or take back what was approved. The reason stays here."""
        people.check_approver(self._desk.policy, caller, self._owner_uid)
        digest = _digest(plan_hash)
        if not isinstance(reason, str) or len(reason) > MAX_REASON:
            raise _bad_request(f"a reason is a text of at most {MAX_REASON} characters")
        runs = self._store.deny(digest, caller.person, reason)
        late = self._live.withdraw(digest, WITHDRAWN)
        self._live.reconsider(digest)
        return {
            "plan_hash": digest.hex(),
            "withdrawn_from": [str(one) for one in runs],
            "too_late": [{"run": str(one), "round": found} for one, found in late.items()],
        }

    def _terms(self, digest: bytes, run: Json, runs: Json, until_s: Json) -> tuple[str, int, float]:
        """Which run, or how many, and until when."""
        waiting = [one.run_id for one in self._store.waiting() if one.binding.plan_hash == digest]
        waiting += [run for run in self._withdrawn(digest) if run not in waiting]
        if (runs is None) != (until_s is None) or (run is not None and runs is not None):
            raise _bad_term("an approval is for one run, or for --runs N --until DATE")
        if runs is not None:
            if isinstance(runs, bool) or not isinstance(runs, int) or not 1 <= runs <= MAX_RUNS:
                raise _bad_term(f"--runs is a whole number from 1 to {MAX_RUNS}")
            if (
                isinstance(until_s, bool)
                or not isinstance(until_s, int | float)
                or (not self._clock.wall_s() < until_s <= LAST_S)
            ):
                raise _bad_term("--until is a day that is still to come, of the year 9999 at most")
            return "", runs, float(until_s)
        if run is not None:
            if not isinstance(run, str) or not is_name(run) or run not in waiting:
                raise ConfigError(
                    "unknown_offer",
                    "no run of that name and plan waits here",
                    not_done="nothing was approved",
                    next_step="fedveil pending",
                )
            return run, 1, math.inf
        if len(waiting) > 1:
            raise ConfigError(
                "which_run",
                f"{len(waiting)} runs of this plan wait: {', '.join(waiting)}",
                not_done="nothing was approved",
                next_step="approve one of them: --run RUN; or several: --runs N --until DATE",
            )
        if not waiting:  # who approves once more what goes on already does not mean another run
            raise ConfigError(
                "unknown_offer",
                "no run of this plan waits here",
                not_done="nothing was approved",
                next_step="wait until it is offered: fedveil pending; or approve ahead: --runs N --until DATE",
            )
        return waiting[0], 1, math.inf

    def _withdrawn(self, digest: bytes) -> list[RunId]:
        """The runs of a denied plan that had been let in and have not ended."""
        standing = self._desk.standing()
        if standing.denial(digest) is None:
            return []
        runs = [RunId(one.run_id) for one in standing.let_in if one.plan_hash == digest]
        return [run for run in runs if not self._store.has_end(run)]

    # --- holding back -------------------------------------------------------------------------------------------------

    def pause(self, caller: Caller) -> Answer:
        """No new input until it is resumed, also over a restart."""
        return self._hold(caller, True)

    def resume(self, caller: Caller) -> Answer:
        """Inputs are made again."""
        return self._hold(caller, False)

    def leave(self, caller: Caller) -> Answer:
        """Finish the open attempt, then end the participant that runs."""
        people.check_operator(self._desk.policy, caller, self._owner_uid)
        if isinstance(self._live, NotRunning):
            self._live.leave()
        self._store.note_leave(caller.person)  # before it ends: with it the store is closed
        self._live.leave()
        return {"leaving": True}

    def _hold(self, caller: Caller, paused: bool) -> Answer:
        people.check_operator(self._desk.policy, caller, self._owner_uid)
        if self._store.is_paused() != paused:
            self._store.set_paused(paused, caller.person)
        self._desk.pause_changed()
        self._live.hold_changed()
        return {"paused": paused}

    # --- who is in the federation -------------------------------------------------------------------------------------

    def roster(self, caller: Caller) -> Answer:
        """Every member of the newest roster, and what nobody here has confirmed of it yet."""
        return self._roster_answer(self._roster())

    def _roster_answer(self, roster: Roster) -> Answer:
        word = self._desk.roster_word
        found = word.of(roster)
        return {
            "version": roster.version,
            "hash": roster.hash.hex(),
            "words": check_words(roster.hash),
            "asked": word.asked,
            "confirmed": not found.needs_word,
            "members": [
                {
                    "name": member.org_id,
                    "role": str(member.role),
                    "key_words": check_words(member.protocol_key),
                    "state": self._member_state(member.org_id, found),
                }
                for member in roster.members
            ],
            "gone": list(found.gone),
        }

    def _member_state(self, name: OrgId, found: Difference) -> str:
        if name == self._desk.me:
            return "this organisation"
        return "not confirmed" if name in found.added else "another key" if name in found.rekeyed else "confirmed"

    def confirm_roster(self, caller: Caller, words: Json = "") -> Answer:
        """Somebody here has heard of every member. PolicyRefusal `not_an_approver`; ConfigError `roster_words_differ`.

        Governance could make two rosters of the same words: what else to compare stands in docs/consent.md.
        """
        people.check_approver(self._desk.policy, caller, self._owner_uid)
        roster = self._roster()
        given = " ".join(words.lower().split()) if isinstance(words, str) else ""
        if not hmac.compare_digest(given.encode(errors="replace"), check_words(roster.hash).encode()):
            raise words_differ(roster.version)
        self._desk.roster_word.confirm(roster, caller.person)
        self._live.hold_changed()
        return self._roster_answer(roster)  # of the one that was confirmed, whatever came since

    def _members(self) -> tuple[OrgId, ...]:
        return tuple(self._roster().participants)

    def _canonical(self, digest: bytes) -> bytes:
        """The canonical bytes of a plan that was offered here."""
        for one in self._store.offers():
            if one.binding.plan_hash == digest:
                return one.canonical
        for stored in self._store.plans():
            if stored.plan_hash == digest:
                return stored.canonical
        raise ConfigError(
            "unknown_plan",
            f"no plan {digest.hex()} was offered here",
            not_done="nothing was approved",
            next_step="`fedveil pending` lists what waits; `fedveil policy check PLAN` judges a file",
        )


def _approved(approval: Approval, plan: Plan) -> Answer:
    return {
        "plan_hash": approval.binding.plan_hash.hex(),
        "name": plan.name,
        "approval": approval.number,
        "run": approval.run_id or None,
        "runs": approval.runs,
        "until": None if math.isinf(approval.until_s) else report.instant(approval.until_s),
        "approvers": [one.name for one in approval.people],
        "need": approval.need,
        "complete": approval.complete,
    }


def _digest(text: Json) -> bytes:
    if not isinstance(text, str) or not _HASH.match(text):
        raise ConfigError(
            "bad_plan_hash",
            "not the hash of a plan: 64 hex digits, all of them",
            not_done="nothing was approved or denied",
            next_step="`fedveil pending` prints it",
        )
    return bytes.fromhex(text)


def _bad_term(what: str) -> ConfigError:
    return ConfigError("bad_term", what, not_done="nothing was approved", next_step="--runs 4 --until 2026-12-31")


def _bad_request(what: str) -> ConfigError:
    return ConfigError("bad_request", what, next_step="use the `fedveil` of the same version as the participant")
