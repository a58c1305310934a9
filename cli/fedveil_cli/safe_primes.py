"""Safe primes from OpenSSL, for a dealer's ceremony and for a key pair.

Promise: the prime comes through a pipe and is checked again by `dealing`; it stands in no argument, environment, file,
log or error. OpenSSL draws from the operating system's randomness. Source: openssl-prime(1).
"""

import shutil
import subprocess

from fedveil_common.errors import ConfigError, IntegrityError
from fedveil_common.paillier.factors import Factor

OPENSSL = "openssl"


def safe_prime(bits: int) -> Factor:
    """A fresh safe prime of `bits` bits: seconds at 1024 to 1536, minutes at 2048 and beyond. Secret.

    ConfigError `openssl_missing`; IntegrityError `openssl_failed`.
    """
    program = shutil.which(OPENSSL)
    if program is None:
        raise ConfigError(
            "openssl_missing",
            "the program openssl is not on this machine's PATH, and it draws the primes",
            next_step="install OpenSSL 1.1.1 or later (Debian: apt install openssl)",
        )
    done = subprocess.run(
        [program, "prime", "-generate", "-safe", "-bits", str(bits), "-hex"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it says nothing that helps, and what it says might quote
        check=False,
    )
    try:
        found = Factor.of(int(done.stdout.strip(), 16))
    except (ValueError, OverflowError):
        found = None  # the error is raised outside: the ValueError quotes what it could not read
    if done.returncode or found is None:
        raise IntegrityError(
            "openssl_failed",
            f"`openssl prime` ended with exit code {done.returncode} and gave no prime of {bits} bits",
            not_done="no key was made and nothing was written",
            next_step="check that `openssl prime -generate -safe -bits 64 -hex` prints a number",
        )
    return found


def safe_primes(bits: int) -> tuple[Factor, Factor]:
    """Two of them, for a modulus of twice as many bits. Secret."""
    return safe_prime(bits), safe_prime(bits)
