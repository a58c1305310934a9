"""Every refusal and failure that Fedveil names, in one tree.

Each error says what happened (with the numbers), what was not done as a result, and what to do next; it carries a
stable `code` that tests, gRPC status details, metrics and `docs/errors/README.md` share. No message ever holds a secret
or a vector.

The class says whose move it is (and fixes the exit code of the command):
ConfigError (2, a person can fix it) - SealedError (3) - PolicyRefusal (4, we said no on purpose) -
PeerError (5, the other side broke the protocol) - Unreachable (69) - IntegrityError (70, stop and call a human) -
StorageError (74) - RoundAborted (75, nobody's fault, try the next). Misuse of a function is ValueError or TypeError.
"""

from typing import ClassVar


class FedveilError(Exception):
    """Base of the tree. `code` is stable; the three sentences are prose and may change."""

    exit_code: ClassVar[int] = 70

    def __init__(self, code: str, what: str, *, not_done: str = "nothing was done", next_step: str = "") -> None:
        super().__init__(code, what)
        self.code = code
        self.what = what
        self.not_done = not_done
        self.next_step = next_step

    def __str__(self) -> str:
        text = f"[{self.code}] {self.what}; {self.not_done}"
        return f"{text}. Next: {self.next_step}" if self.next_step else text


class ConfigError(FedveilError):
    """A person's mistake: plan, arguments, files, names. Nothing was done."""

    exit_code = 2


class SealedError(FedveilError):
    """A passphrase is missing or wrong; the sealed file is untouched."""

    exit_code = 3


class PolicyRefusal(FedveilError):
    """We said no on purpose: policy, budget, consent, a limit of the organisation."""

    exit_code = 4


class LocalRefusal(PolicyRefusal):
    """We said no, for a reason that is nobody else's business: the other side hears `HEARD`, whatever the reason."""

    HEARD: ClassVar[str] = "no_update"


def heard(error: FedveilError) -> str:
    """The code that the other side hears."""
    return error.HEARD if isinstance(error, LocalRefusal) else error.code


class PeerError(FedveilError):
    """The other side broke the protocol. `peer` names it when known; evidence stays in the journal."""

    exit_code = 5

    def __init__(
        self,
        code: str,
        what: str,
        *,
        peer: str = "",
        not_done: str = "the message was refused and no state moved",
        next_step: str = "",
    ) -> None:
        super().__init__(code, what, not_done=not_done, next_step=next_step)
        self.peer = peer


class Unreachable(FedveilError):
    """The coordinator cannot be reached."""

    exit_code = 69


class IntegrityError(FedveilError):
    """Something that must hold does not: stop and call a human."""

    exit_code = 70


class StorageError(FedveilError):
    """The disk or database failed; what was not acknowledged was not kept."""

    exit_code = 74


class RoundAborted(FedveilError):
    """An attempt ended without a sum, through nobody's fault that can be proven; the next may succeed."""

    exit_code = 75
