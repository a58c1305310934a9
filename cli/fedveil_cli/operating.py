"""What an operator does to a running coordinator from the command line: runs, rounds, status.

Each function takes an admin client and returns the plain value that `--json` prints; following a run yields its events.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from fedveil_common import jcs, modelfile, transcript
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, FedveilError, PeerError, PolicyRefusal, RoundAborted
from fedveil_common.modelfile import ModelFile

Event = tuple[int, str, dict[str, str]]
Plain = dict[str, Any]


class Admin(Protocol):
    """What the commands need of the coordinator; see `admin_client.AdminClient`."""

    def start_run(self, canonical: bytes) -> str: ...  # noqa: D102
    def get_run(self, run_id: str) -> Plain: ...  # noqa: D102
    def watch(self, run_id: str, after: int = 0) -> Iterator[Event]: ...  # noqa: D102


def prepare_plan(text: bytes, filename: str, earlier: ModelFile | None = None) -> tuple[bytes, bytes]:
    """(canonical bytes, hash) of a plan this release runs; with `earlier` of the one that goes on from that model.

    PlanError with every problem, or `not_in_this_release`; ConfigError as `continued`.
    """
    plan = plans.parse_plan(text, filename)
    plans.check_release(plan)
    if earlier is not None:
        plan = continued(plan, earlier)
    canonical = plans.canonical(plan)
    return canonical, plans.plan_hash(canonical)


def continued(plan: plans.Plan, earlier: ModelFile) -> plans.Plan:
    """`plan` going on from the final model of an earlier run of the same plan, for `training.rounds` more rounds.

    ConfigError `cannot_continue` if it differs from that run's plan in more than `training.rounds`. The file is not
    verified: with one that lies, the plan that comes of it is one that nobody can start.
    """
    before = earlier.plan
    model, rounds = replace(plan.model, initial=before.model.initial), before.training.rounds
    same = replace(plan, training=replace(plan.training, rounds=rounds), model=model, continues=before.continues)
    if same != before:
        raise _cannot_continue("the plan differs from the one that the model comes from in more than training.rounds")
    try:
        said = jcs.loads(earlier.lineage.encode())
        assert isinstance(said, dict)
        leg = plans.Leg(str(said["run_id"]), int(str(said["steps"])))
    except (ValueError, KeyError, AssertionError):
        raise _cannot_continue("the model file does not say which run it comes from") from None
    first = transcript.model_hash(modelfile.model_bytes(earlier.model)).hex()
    return replace(plan, model=replace(plan.model, initial=first), continues=(*before.continues, leg))


def _cannot_continue(why: str) -> ConfigError:
    return ConfigError(
        "cannot_continue",
        why,
        not_done="no run was started",
        next_step="take the plan of that run and change training.rounds only",
    )


def check_cohort(plan_bytes: bytes, participants: int) -> None:
    """ConfigError `cohort_never_possible` if a roster of so many participants can never satisfy the plan (A1)."""
    from fedveil_cli import cohort_figures

    cohort_figures.check_roster(plans.parse_canonical(plan_bytes), participants, "no run was started")


def follow(admin: Admin, run_id: str, tell: Callable[[Event], None]) -> Plain:
    """Follow a run to its end, telling each event; the run's report."""
    for event in admin.watch(run_id):
        tell(event)
    return admin.get_run(run_id)


def raise_for_end(report: Plain) -> None:
    """Raises what the command must exit with unless the run finished."""
    error = end_error(str(report["code"]), str(report["run_id"]))
    if error is not None:
        raise error


def end_error(code: str, run_id: str) -> FedveilError | None:
    """The error that the end of a run stands for; None for `finished`. One case for each row of docs/errors."""
    show = f"fedveil run show {run_id}"
    further = "no further round was run"
    match code:
        case "finished":
            return None
        case "not_enough_participants":
            return RoundAborted(
                "not_enough_participants",
                f"run {run_id} ended: too few accepted the plan in time",
                not_done=further,
                next_step="`fedveil status` says who is here",
            )
        case "too_many_attempts":
            return RoundAborted(
                "too_many_attempts",
                f"run {run_id} ended: every attempt at one round was aborted",
                not_done=further,
                next_step=f"{show} names the rounds; `fedveil round show` who was missing",
            )
        case "aborted_by_operator":
            return RoundAborted(
                "aborted_by_operator",
                f"run {run_id} ended by `run abort`",
                not_done=further,
                next_step=show,
            )
        case "budget_spent":
            return PolicyRefusal(
                "budget_spent",
                f"run {run_id} ended: one more step would cost more epsilon than its plan or its data sets allow",
                not_done="no further step was made; if there was one, its model is signed and kept",
                next_step=f"{show} says what was spent and who declined; more noise or fewer rounds reach the end",
            )
        case "model_spent":
            return PolicyRefusal(
                "model_spent",
                f"run {run_id} ended: its next model was already asked of this data",
                not_done=further,
                next_step="take another training.seed, or new data",
            )
        case "model_rejected":
            return PeerError(
                "model_rejected",
                f"run {run_id} ended: its last sum cannot come from honest inputs",
                not_done="the implausible model was not kept; the one before it is",
                next_step="look for the participant whose data or software is wrong before another run",
            )
        case _:  # not_in_this_release, bad_plan: what enough participants answered to the plan
            return ConfigError(code, f"run {run_id} ended with {code}", not_done=further, next_step=show)


def event_line(event: Event) -> str:
    """One event for people."""
    number, kind, facts = event
    shown = " ".join(f"{name}={value}" for name, value in facts.items() if value)
    return f"{number:>4} {kind} {shown}".rstrip()
