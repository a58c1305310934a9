"""What stretching a passphrase costs in tests: little, because every file says for itself what it cost.

A third of the suite's time would be scrypt. `FULL` is what the product does, read before it is lowered here; the tests
that look at it put it back (`test_identity_files`, `test_sealing`, `test_participant_store`).
"""

from typing import TYPE_CHECKING

from fedveil_common.pki import sealed_keys
from fedveil_common.sealing import recipients
from fedveil_participant.store import key

if TYPE_CHECKING:
    import pytest

PLACES = ((sealed_keys, "COST", 2**10), (recipients, "LOG_N", 10), (key, "SCRYPT_N", 2**10))

FULL = {(module.__name__, name): vars(module)[name] for module, name, _ in PLACES}

"""(module, constant) -> the product's value."""


def lower() -> None:
    """From here on in this process."""
    for module, name, cheap in PLACES:
        setattr(module, name, cheap)


def restore(monkeypatch: "pytest.MonkeyPatch") -> None:
    """For one test, all of them are the product's."""
    for module, name, _ in PLACES:
        monkeypatch.setattr(module, name, FULL[module.__name__, name])
