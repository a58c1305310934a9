"""Where an organisation's policy and its consent socket are, and the policy that a participant starts with.

Promise: where a policy names approvers, nothing on the command line of `participate` stands for their word, and the
account of the participant cannot change the policy. A policy counts from the next start: what runs keeps the one that
it started with.
"""

import grp
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedveil_common.errors import ConfigError, PolicyRefusal
from fedveil_participant.approval.service import FILE as SOCKET
from fedveil_participant.bench import FindFiles
from fedveil_participant.data.folder import table_files
from fedveil_participant.data.registration import Registration
from fedveil_participant.isolation.levels import Isolation as Level
from fedveil_participant.policy import Policy
from fedveil_participant.policy.policy_file import (
    FILE,
    check_rules_unwritable,
    check_unwritable,
    load_policy,
    may_write_as,
)
from fedveil_participant.policy.rules import Isolation


@dataclass(frozen=True, slots=True)
class ConsentPlaces:
    """`find_files`: how the files of a table are found, which may be sealed."""

    policy: Path
    socket: Path
    find_files: FindFiles = table_files

    @staticmethod
    def of(home: Path, policy: Path | None = None, socket: Path | None = None) -> "ConsentPlaces":
        """In the home, unless they are elsewhere. ConfigError `policy_missing` for a named policy that is not there."""
        if policy is not None and not policy.exists():
            raise ConfigError(
                "policy_missing",
                f"there is no policy {str(policy)!r}",
                not_done="nothing was started: without its policy an organisation takes part in nothing",
                next_step="name the right file with --policy",
            )
        return ConsentPlaces(policy or home / FILE, socket or home / SOCKET)

    def rules(self) -> Policy | None:
        """What the policy says, not yet checked against who could have written it (`final_policy`). PolicyError."""
        return load_policy(self.policy)


def final_policy(path: Path, accept: frozenset[bytes]) -> Policy | None:
    """The policy that holds until the participant ends. PolicyError; PolicyRefusal `policy_writable`,
    `accept_not_an_approval`.
    """
    policy = load_policy(path)
    if policy is None:
        return None
    uid = os.geteuid()
    check_unwritable(policy, path, uid, may_write_as(uid))
    if policy.approvers and accept:
        raise PolicyRefusal(
            "accept_not_an_approval",
            "the policy names approvers, and --accept is nobody's word",
            not_done="nothing was started",
            next_step="start without --accept; an approver then gives `fedveil approve PLAN_HASH`",
        )
    return policy


def check_rules(policy: Policy | None, registrations: Iterable[Registration]) -> None:
    """PolicyRefusal `rules_writable` if the masking rules of a data set can be changed by this account."""
    uid = os.geteuid()
    for one in registrations if policy is not None else ():
        if policy is not None and one.rules is not None:
            check_rules_unwritable(policy, one.name, one.rules.path, uid, may_write_as(uid))


_STRENGTH = {Isolation.NONE: 0, Isolation.LANDLOCK: 1, Isolation.BWRAP: 2}


def check_isolation(policy: Policy | None, found: Level) -> None:
    """PolicyRefusal `isolation_below_policy` where a trainer would be kept apart less than the policy asks for."""
    if policy is None or _STRENGTH[Isolation(found.value)] >= _STRENGTH[policy.isolation]:
        return
    raise PolicyRefusal(
        "isolation_below_policy",
        f"this machine keeps trainers apart by {found.value}, the policy asks for {policy.isolation.value} at least",
        not_done="nothing was started",
        next_step="`fedveil doctor` says what is missing for more; or state `isolation:` in the policy",
    )


def socket_group(policy: Policy | None) -> int | None:
    """The group that may reach the consent socket: the one that the policy names. None: the participant's account
    alone, and root. ConfigError `unknown_group`.
    """
    names = [] if policy is None else sorted({one.group for one in policy.approvers if one.group})
    if not names:
        return None if policy is None or not policy.approvers else os.getegid()
    try:
        return grp.getgrnam(names[0]).gr_gid
    except KeyError:
        raise ConfigError(
            "unknown_group",
            f"this machine has no group {names[0]}, which the policy names under approvers",
            not_done="nothing was started",
            next_step="make the group, or name another one",
        ) from None
