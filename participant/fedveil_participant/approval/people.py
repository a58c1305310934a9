"""Who is at the other end of a command, and whether the policy lets this person approve.

Promise: a person is who the kernel says (SO_PEERCRED), never who the command says. Where the policy names approvers,
nobody else approves or denies, root and the participant's own account included.
"""

import grp
import os
import pwd
from dataclasses import dataclass
from typing import Protocol

from fedveil_common.errors import PolicyRefusal

from fedveil_participant.approval.decisions import Person
from fedveil_participant.policy.rules import Policy


@dataclass(frozen=True, slots=True)
class Caller:
    """A person and the groups of its account."""

    person: Person
    groups: frozenset[str] = frozenset()


class Accounts(Protocol):
    """The accounts of this machine."""

    def caller(self, uid: int) -> Caller:
        """The person behind a number; its name is the number where the machine knows none."""
        ...


class MachineAccounts:
    """`Accounts` from the machine's own tables."""

    def caller(self, uid: int) -> Caller:
        """As it is now: a group that an account left counts no longer."""
        try:
            found = pwd.getpwuid(uid)
        except KeyError:
            return Caller(Person(uid, str(uid)))
        groups = set()
        for gid in os.getgrouplist(found.pw_name, found.pw_gid):
            try:
                groups.add(grp.getgrgid(gid).gr_name)
            except KeyError:
                continue  # a group without a name is none that a policy could name
        return Caller(Person(uid, found.pw_name), frozenset(groups))


def check_approver(policy: Policy | None, caller: Caller, owner_uid: int) -> None:
    """Returns if `caller` may approve and deny. `owner_uid`: the account that the participant runs under, whose word
    counts where the policy names nobody; root's counts as its. PolicyRefusal `not_an_approver`.
    """
    if policy is None or not policy.approvers:
        if caller.person.uid not in {owner_uid, 0}:
            raise _not_an_approver(caller, "the account that the participant runs under")
        return
    named = any(
        (one.user and one.user == caller.person.name) or (one.group and one.group in caller.groups)
        for one in policy.approvers
    )
    if not named:
        raise _not_an_approver(caller, "those whom the policy names under approvers")


def named(policy: Policy | None) -> tuple[str, ...]:
    """Whom the policy names as approvers, sorted; empty where the word of the participant's own account counts."""
    approvers = () if policy is None else policy.approvers
    return tuple(sorted(f"user {one.user}" if one.user else f"group {one.group}" for one in approvers))


def check_operator(policy: Policy | None, caller: Caller, owner_uid: int) -> None:
    """Returns if `caller` may pause, resume and end the participation: its own account, root, and every approver."""
    if caller.person.uid not in {owner_uid, 0}:
        check_approver(policy, caller, owner_uid)


def _not_an_approver(caller: Caller, who: str) -> PolicyRefusal:
    return PolicyRefusal(
        "not_an_approver",
        f"{caller.person.name} (uid {caller.person.uid}) may not say it; {who} may",
        not_done="nothing was approved, denied or changed",
        next_step="ask one of them; who may approve stands in the policy",
    )
