"""The file `policy.yaml`: read once when a participant starts, and who may write it and the rules beside it.

Promise: where a policy names approvers, the account that the participant runs under cannot change it, nor the masking
rules of a data set: not the file, and not by putting another one in its place. An account that may write everything
(root) cannot be kept from it and is refused. Without named approvers whoever runs the participant is the one who
approves, and may own the files.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from fedveil_common.errors import ConfigError, PolicyRefusal
from fedveil_common.named_file import open_named

from fedveil_participant.policy.reading import parse_policy
from fedveil_participant.policy.rules import Policy

FILE = "policy.yaml"
MAX_BYTES = 262_144

MayWrite = Callable[[Path], bool]
"""Whether the account of this process may write a file, or put entries into a folder and take them out."""


def load_policy(path: Path) -> Policy | None:
    """The policy at `path`; None if there is no file. PolicyError, ConfigError `policy_unreadable`."""
    try:
        with open_named(path) as stream:
            text = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            "policy_unreadable",
            f"the policy {str(path)!r} cannot be read: {error.strerror or type(error).__name__}",
            not_done="nothing was started",
            next_step="check who may read the file; without a policy there must be no file of that name",
        ) from None
    return parse_policy(text, str(path))


def check_unwritable(policy: Policy, path: Path, uid: int, may_write: MayWrite) -> None:
    """Returns if the account `uid` cannot change the policy, or the policy names no approvers.

    PolicyRefusal `policy_writable` naming what it can write: the file, a folder on the way to it, or all (uid 0).
    """
    if not policy.approvers:
        return
    real = Path(os.path.realpath(path))
    why = _who_may_write(real, uid, may_write)
    if why:
        raise PolicyRefusal(
            "policy_writable",
            f"{why}, so the approvers named in {real} could be changed by what they are to watch",
            not_done="nothing was started",
            next_step="let another account own the policy and its folders (for example root: "
            "/etc/fedveil/policy.yaml), run the participant under an account of its own, and name the file with "
            "--policy",
        )


def check_rules_unwritable(policy: Policy, dataset: str, path: Path, uid: int, may_write: MayWrite) -> None:
    """Returns if the account `uid` cannot change the masking rules of a data set, or the policy names no approvers.

    PolicyRefusal `rules_writable`, as `check_unwritable`.
    """
    if not policy.approvers:
        return
    real = Path(os.path.realpath(path))
    why = _who_may_write(real, uid, may_write)
    if why:
        raise PolicyRefusal(
            "rules_writable",
            f"{why}, so {real}, by which {dataset} is masked, could be changed by what it is to hold back",
            not_done="nothing was started",
            next_step="let another account own the rules and their folders, beside the policy, then "
            f"fedveil data add {dataset} --replace --source ... --rules FILE",
        )


def _who_may_write(real: Path, uid: int, may_write: MayWrite) -> str:
    """How an account could put another content at a path without links; empty if it cannot. A file that is not there
    is one that whoever may write its folder can make.
    """
    if uid == 0:
        return "the participant runs as root, which may write everything"
    places = (real, *real.parents) if real.exists() else real.parents
    writable = next((place for place in places if may_write(place)), None)
    return "" if writable is None else f"the account of the participant may write {writable}"


def may_write_as(uid: int) -> MayWrite:
    """`MayWrite` of this process, whose account is `uid`. What an account owns it may make writable."""

    def may_write(path: Path) -> bool:
        found = path.stat()
        if found.st_uid == uid:
            return True
        sticky = stat.S_ISDIR(found.st_mode) and bool(found.st_mode & stat.S_ISVTX)
        return not sticky and os.access(path, os.W_OK, effective_ids=True)

    return may_write
