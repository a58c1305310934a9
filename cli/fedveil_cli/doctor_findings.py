"""What `doctor` finds: a stable code, what is the matter, and the command that mends it.

Promise: no finding quotes a secret. A problem makes the command end with exit code 2; an advice does not.
"""

import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedveil_common.errors import FedveilError

if TYPE_CHECKING:
    from fedveil_cli.doctor_isolation import Isolation

REKEY = "the operator runs `fedveil invite {org} --rekey`; then `fedveil join` here"
RENEW = "fedveil renew"
REISSUE = "stop `fedveil serve`, run `fedveil renew --offline`, start it again"
FOLLOW = "`fedveil participate` takes it by itself; where it cannot: `fedveil governance follow`"
FOLLOW_HANDOVER = (
    "`fedveil participate` takes the new one from the chain; if it moved: `fedveil governance follow FILE --address`"
)
RESTORED = "was trust.json in {home} restored? run `fedveil governance publish` of the last proposal again"
STEPPED_DOWN = "this home is the old operator's: `fedveil serve` belongs in the new operator's home"

LOOK_UP = "docs/errors/README.md says more of this code"

MENDS = {
    "bad_bundle": "{renew}; an operator restores authority/ca.pem from a backup",
    "bad_certificate": "{renew}",
    "bad_certificate_name": "{renew}",
    "bad_key_file": "{renew}",
    "certificate_expired": "{renew}",
    "certificate_not_yet_valid": "set this machine's clock",
    "certificate_revoked": "ask the operator why; " + REKEY,
    "certificate_superseded": "this home is an older copy: use the newer one, erase this; if there is none, " + REKEY,
    "certificate_withdrawn": "another holder of this key renewed it: find it; then " + REKEY,
    "clock_differs": "set this machine's clock, for example `timedatectl set-ntp true`",
    "coordinator_replaced": "{replaced}",
    "database_missing": "restore coordinator.db from a backup into {home}",
    "dns_failed": "check the name, DNS and --address of `fedveil init`",
    "enrolment_port_unreachable": "is `fedveil serve` running, and is TCP port {enrolment} open on the way there?",
    "fingerprint_mismatch": "compare `fedveil fingerprint` on both sides by telephone",
    "governance_key_beside_service": "move {home}/governance to a medium of its own and name it at the next "
    "`fedveil init --governance-dir DIR`; a service must not reach it",
    "governance_key_in_a_participants_home": "move governance.key out of {home}: to the operator, or away",
    "home_exposed": "chmod go-w {home}",
    "host_not_in_certificate": "{renew}",
    "identity_frozen": "find who else holds this key; then {thaw}",
    "isolation_missing": "install bubblewrap, or run the participant as a user of its own on a kernel with landlock: "
    "docs/trainer.md",
    "journal_key_wrong": "put back the journal.key that belongs to {home}; else " + REKEY,
    "journal_missing": "never restore a journal: " + REKEY,
    "key_exposed": "chmod 600 {path}; if anybody could read it, {renew}",
    "key_mismatch": "{renew}",
    "key_missing": "{renew}",
    "no_home": "fedveil join (an organisation) or fedveil init (an operator); or name the right --home",
    "no_journal_key": REKEY,
    "not_the_coordinator": "something else answers there: check address and ports; else telephone the operator",
    "passphrase_missing": "fedveil doctor --passphrase-file FILE",
    "port_mixed_up": "the address must be the gRPC port; enrolment is the one after it: check what forwards ports "
    "{port} and {enrolment}",
    "port_unreachable": "is `fedveil serve` running, and is TCP port {port} open on the way there?",
    "renewal_overdue": "{renew}; and look into the log of what should have renewed it",
    "serial_unknown": "this certificate is not the coordinator's: is it the right --home? Else " + REKEY,
    "storage_key_replaced": "put the storage.key back that belongs to coordinator.db: docs/storage.md",
    "storage_unfinished": "fedveil storage show names the order; with `fedveil serve` stopped, give it again",
    "trust_chain_behind": "{behind}",
    "two_roles_in_one_home": "keep the operator's and the organisation's files in homes of their own (--home)",
    "wrong_authority": "{renew}",
    "wrong_name": "{renew}",
    "wrong_role": "{renew}",
}
"""Code -> the command, or what a person does. A code that is not here mends as its error says."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `what`: for people; `where`: the file or address."""

    code: str
    what: str
    mend: str
    where: str = ""
    advice: bool = False


@dataclass(slots=True)
class Report:
    """What was looked at, in order, and what was found."""

    facts: dict[str, str]
    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    isolation: "Isolation | None" = None

    @property
    def sound(self) -> bool:
        """Whether nothing but advice was found."""
        return all(finding.advice for finding in self.findings)

    def add(self, code: str, what: str, where: str = "", mend: str = "", *, advice: bool = False) -> None:
        """A finding, with the mending command of its code. The same code at the same place counts once."""
        if any((one.code, one.where) == (code, where) for one in self.findings):
            return
        text = MENDS.get(code, mend) or LOOK_UP
        for name, value in {**self.facts, "path": where}.items():
            text = text.replace("{" + name + "}", value)
        self.findings.append(Finding(code, what, text, where, advice))

    @contextmanager
    def check(self, name: str, where: str = "") -> Iterator[None]:
        """A check by that name: a typed error in it is the finding."""
        self.checked.append(name)
        try:
            yield
        except FedveilError as error:
            self.add(error.code, error.what, where, error.next_step, advice=error.code == "passphrase_missing")

    def passes(self, name: str, work: Callable[[], object], where: pathlib.Path | str = "") -> bool:
        """Whether a check finds nothing but advice."""
        before = len(self.findings)
        with self.check(name, str(where)):
            work()
        return all(finding.advice for finding in self.findings[before:])
