"""What is said of a file that is sealed and should not be, or is not and should be."""

from pathlib import Path

from fedveil_common.errors import IntegrityError, SealedError


def sealed(path: Path) -> SealedError:
    """`path` is under a storage key that nobody opened."""
    return SealedError(
        "sealed_at_rest",
        f"{path} is sealed under this home's storage key, which was not opened",
        not_done="nothing was read",
        next_step="use a command that takes the passphrase of the home; is storage.key missing?",
    )


def in_clear(path: Path) -> IntegrityError:
    """`path` is in clear where everything is sealed."""
    return IntegrityError(
        "not_sealed_at_rest",
        f"{path} is in clear, and this home seals what it keeps",
        not_done="nothing of it was used",
        next_step="who put it there? `fedveil storage seal` seals what a copy brought back",
    )
