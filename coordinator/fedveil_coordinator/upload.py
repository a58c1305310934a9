"""An upload that a member begins: what the driver allows, and the edge receives."""

from dataclasses import dataclass

from fedveil_common.messages import CipherHeader, Header, Partial, SignedBlob

from fedveil_coordinator.attempt import Attempt
from fedveil_coordinator.intake import Due


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that may begin: for which attempt, under which signed header, and what it must be."""

    attempt: Attempt
    header: SignedBlob
    body: Header | CipherHeader | Partial
    due: Due
