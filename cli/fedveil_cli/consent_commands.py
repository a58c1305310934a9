"""`pending`, `show`, `approve`, `deny`, `pause`, `resume`, `leave`, `policy check`.

Promise: while a participant runs, it is asked over its consent socket and answers as the person that the kernel names;
else the home is opened under its lock, and the same orders are carried out there. Nothing is half done in between.
"""

import datetime
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

from fedveil_common import plan as plans
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError, Unreachable
from fedveil_common.ids import OrgId
from fedveil_common.jcs import Json
from fedveil_common.roster import Roster
from fedveil_common.succession import roster_of_its_time
from fedveil_participant import membership
from fedveil_participant.approval import report, service
from fedveil_participant.approval.desk import ConsentDesk
from fedveil_participant.approval.orders import NotRunning, Orders
from fedveil_participant.approval.people import MachineAccounts
from fedveil_participant.membership import Membership
from fedveil_participant.policy import Facts, Verdict, examine, policy_digest
from fedveil_participant.policy.judging import input_bytes
from fedveil_participant.policy.policy_file import check_unwritable, load_policy, may_write_as
from fedveil_participant.store import journal_key, open_store

from fedveil_cli import files, options
from fedveil_cli.data_sources import opening
from fedveil_cli.house_bindings import HouseBindings
from fedveil_cli.organisation_policy import ConsentPlaces
from fedveil_cli.output import Output, TextTable
from fedveil_cli.passphrases import journal_passphrase
from fedveil_cli.service_commands import is_held
from fedveil_cli.world import real_world

ANSWER_S = 90.0
"""How long a participant that runs may take to answer: it may have to read the first line of a large table."""

Answer = dict[str, Json]


@dataclass(frozen=True, slots=True)
class House:
    """The home of an organisation, and how its participant is reached."""

    home: pathlib.Path
    socket: pathlib.Path | None
    policy: pathlib.Path | None
    passphrase_file: pathlib.Path | None
    output: Output

    def order(self, name: str, **fields: Json) -> Answer:
        """Carries out an order: by the participant that runs, else in the home.

        Unreachable `participant_silent` if one runs and does not listen; those of `Orders`.
        """
        world = real_world()
        request = {"order": name, **{key: value for key, value in fields.items() if value is not None}}
        path = self.socket or self.home / service.FILE
        if path.parent.is_dir():
            found = service.ask(path, request, world.clock, ANSWER_S)
            if found is not None:
                return found
        if self.socket is not None or is_held(self.home):
            raise Unreachable(
                "participant_silent",
                f"nothing listens at {path}",
                next_step="wait until `fedveil participate` has started, or give its --consent-socket as --socket",
            )
        return self._in_home(request)

    def _in_home(self, request: Mapping[str, Json]) -> Answer:
        member = membership.load_membership(self.home)
        places = ConsentPlaces.of(self.home, self.policy)
        policy = load_policy(places.policy)
        if policy is not None:
            check_unwritable(policy, places.policy, os.geteuid(), may_write_as(os.geteuid()))
        passphrase = journal_passphrase(self.home, self.passphrase_file, self.output)
        files.check_writable(self.home)
        world = real_world()
        with FolderLock(self.home):
            store = open_store(self.home, journal_key(self.home, passphrase), world.clock, world.entropy)
            try:
                bindings = HouseBindings(store.registrations, opening(self.home, world.clock))
                desk = ConsentDesk(OrgId(member.org_id), policy, store, bindings, world.clock)
                roster = _newest(member, store.newer_roster(), store.roster(), member.signed_roster)
                orders = Orders(desk, store, NotRunning(), lambda: roster, world.clock, self.home.stat().st_uid)
                return orders.carry_out(request, MachineAccounts().caller(os.geteuid()))
            finally:
                store.close()


def pending(house: House, output: Output) -> None:
    """`pending`."""
    found = house.order("pending")
    rows = [_mapping(one) for one in _list(found["pending"])]
    columns = ("plan", "name", "data set", "protection", "epsilon", "run", "since", "state")
    cells = [
        (
            str(one["plan_hash"]),
            str(one["name"]),
            str(one["dataset"]),
            str(one["protection"]),
            "none: exact sums" if one["epsilon"] is None else f"{one['epsilon']:g}",
            str(one["run"]),
            str(one["since"]),
            str(one["state"]),
        )
        for one in rows
    ]
    lines: list[str | TextTable] = [TextTable(columns, cells)] if rows else []
    if not rows:
        lines.append("no plan waits" if found.get("roster_waits") else "nothing waits")
    if found.get("roster_waits"):
        lines.append("members wait to be confirmed, and no input is given until then: fedveil roster show")
    if found.get("full"):
        lines.append("no more plans can wait: of those that come, only what takes the place of another is kept")
    if found["paused"]:
        lines.append("paused: no input is given until `fedveil resume`")
    output.result(found, lines)


def show(house: House, plan_hash: str, output: Output) -> None:
    """`show PLAN_HASH`. ConfigError `bad_plan_hash`, `unknown_plan`."""
    found = house.order("show", plan_hash=_hash(plan_hash))
    output.result(found, report.lines(found))


def approve(house: House, plan_hash: str, run: str | None, runs: int | None, until: str | None, output: Output) -> None:
    """`approve PLAN_HASH`. ConfigError `bad_plan_hash`, `bad_date`, and those of `Orders.approve`."""
    found = house.order("approve", plan_hash=_hash(plan_hash), run=run, runs=runs, until_s=_end_of_day(until))
    people = ", ".join(map(str, _list(found["approvers"])))
    what = f"run {found['run']}" if found["run"] else f"{found['runs']} run{'s' if found['runs'] != 1 else ''}"
    span = f" until {found['until']}" if found["until"] else ""
    done = "approved" if found["complete"] else f"not yet approved: {found['need']} different people must say so"
    output.result(found, [f"{found['name']} {found['plan_hash']}", f"{done}; {what}{span}; by {people}"])


def deny(house: House, plan_hash: str, reason: str, output: Output) -> None:
    """`deny PLAN_HASH`. ConfigError `bad_plan_hash`."""
    sayable = reason.encode(errors="replace").decode()  # an argument may hold bytes that are no text
    found = house.order("deny", plan_hash=_hash(plan_hash), reason=sayable)
    lines = [f"denied {found['plan_hash']}"]
    lines += [f"run {one}: no further input is given" for one in _list(found["withdrawn_from"])]
    late = [_mapping(one) for one in _list(found["too_late"])]
    lines += [f"run {one['run']}: too late for round {one['round']}, whose sum was voted for" for one in late]
    output.result(found, lines)


def hold(house: House, order: str, output: Output) -> None:
    """`pause`, `resume`."""
    found = house.order(order)
    output.result(found, ["paused: no new input is given" if found["paused"] else "inputs are given again"])


def leave(house: House, output: Output) -> None:
    """`leave`. Unreachable `participant_not_running`."""
    path = house.socket or house.home / service.FILE
    world = real_world()
    found = service.ask(path, {"order": "leave"}, world.clock, ANSWER_S) if path.parent.is_dir() else None
    if found is None:
        NotRunning().leave()
    output.result({"leaving": True}, ["the participant finishes its open attempt and ends"])


def check(
    home: pathlib.Path, file: pathlib.Path, policy_file: pathlib.Path | None, roster_size: int | None, output: Output
) -> bool:
    """`policy check PLAN`: whether no rule refuses it. PolicyError, PlanError, ConfigError `policy_missing`."""
    places = ConsentPlaces.of(home, policy_file)
    policy = load_policy(places.policy)
    if policy is None:
        raise ConfigError(
            "policy_missing",
            f"there is no policy {str(places.policy)!r}",
            next_step="name it with --policy FILE; docs/policy.md has a complete example",
        )
    plan = plans.parse_plan(files.read_file(file, "the plan", files.MAX_PLAN), str(file))
    me, members = _roster_of(home)
    count = roster_size or (None if members is None else len(members))
    size = None if count is None else input_bytes(plan, count)
    facts = Facts(me, members, None, None, size, real_world().clock.wall_s())
    findings = examine(policy, plan, facts)
    bad = [one for one in findings if one.verdict is Verdict.REFUSED]
    digest = plans.plan_hash(plans.canonical(plan)).hex()
    value: dict[str, object] = {
        "plan_hash": digest,
        "policy": policy_digest(policy).hex(),
        "refused": bool(bad),
        "rules": [
            {
                "rule": one.rule,
                "code": one.code,
                "verdict": str(one.verdict),
                "asked": one.asked,
                "allowed": one.allowed,
            }
            for one in findings
        ],
    }
    cells = [(str(one.verdict), one.rule, one.asked, one.allowed) for one in findings]
    verdict = f"refused by {len(bad)} of {len(findings)} rules" if bad else "not refused; it waits for approval"
    output.result(
        value,
        [
            f"plan {digest}",
            TextTable(("verdict", "rule", "the plan asks for", "the policy allows"), cells),
            f"{verdict}; `later` is checked in each round, before anything is sent for it, or once the data was read",
        ],
    )
    return not bad


def _roster_of(home: pathlib.Path) -> tuple[OrgId | None, tuple[OrgId, ...] | None]:
    if not membership.has_membership(home):
        return None, None
    member = membership.load_membership(home)
    me, members = OrgId(member.org_id), tuple(_newest(member, member.signed_roster).participants)
    return me, members if me in members else None  # a roster from before this organisation says nothing yet


def _newest(member: Membership, *signed: bytes) -> Roster:
    """Of the rosters that this home knows the one of the highest version."""
    trust = member.trust
    return max((roster_of_its_time(one, trust) for one in signed if one), key=lambda roster: roster.version)


def _hash(text: str) -> str:
    (found,) = options.plan_hashes([text])
    return found.hex()


def _end_of_day(text: str | None) -> float | None:
    """The last instant of a day in UTC. ConfigError `bad_date`."""
    if text is None:
        return None
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "bad_date", f"{text!r} is no day", not_done="nothing was approved", next_step="--until 2027-03-31"
        ) from None
    return datetime.datetime.combine(day, datetime.time(23, 59, 59), datetime.UTC).timestamp()  # no day after 9999


def _mapping(found: Json) -> dict[str, Json]:
    if not isinstance(found, dict):
        raise ConfigError(
            "bad_frame", "the participant's answer has another form", next_step="compare `fedveil version`"
        )
    return found


def _list(found: Json) -> list[Json]:
    if not isinstance(found, list):
        raise ConfigError(
            "bad_frame", "the participant's answer has another form", next_step="compare `fedveil version`"
        )
    return found
