"""How many must agree: the quorum, its bounds, and the refusal of a cohort too small for them.

Invariant: with quorum q = floor((n+c)/2)+1 and at most c corrupt members, two certificates with different content
cannot both exist, nor a certificate beside an abort certificate; and every opened sum holds at least q-c honest
updates.
Source: FLSA/1 sections 2.1, 2.5, 2.7, amendments A1, A8, A16 (docs/protocol.md).
"""

from fedveil_common.errors import PeerError

MAX_COHORT = 256
MIN_HONEST = 2
"""Floor: with one honest update in a sum, the sum minus the colluders' is that update."""


def quorum(n: int, c: int) -> int:
    """The quorum q: votes that open an attempt of `n` members of which `c` may be corrupt."""
    return (n + c) // 2 + 1


def abort_threshold(n: int, c: int) -> int:
    """The abort threshold a = n+c-q+1: abort votes that prove that no certificate will ever exist."""
    return n + c - quorum(n, c) + 1


def opening_bound(n: int, c: int) -> int:
    """How many shares of one dealer may ever be opened in public: min(c, t-1-c), at least 1 where n >= c+2.

    An opened share is known to everyone, so what is opened and what c corrupt members hold stays below the threshold.
    """
    return min(c, quorum(n, c) - 1 - c)


def corrupt_bound(stated: int, participants_in_roster: int) -> int:
    """The bound c: the larger of what is stated and a fifth of the roster (rounded down), at least 1.

    An absolute number for the whole roster: a coordinator that picks a small cohort does not shrink it.
    """
    return max(stated, participants_in_roster // 5, 1)


def check_parameters(
    n: int, c: int, q: int, t: int, min_survivors: int, local_c: int, min_honest: int = MIN_HONEST
) -> None:
    """Returns if an attempt with these figures may be joined; `local_c` and `min_honest` are the caller's own.

    Raises PeerError `cohort_too_large`, `corrupt_bound_too_small`, `wrong_quorum`, `wrong_threshold`,
    `wrong_min_survivors` or `cohort_too_small`.
    """
    if n > MAX_COHORT:
        raise PeerError("cohort_too_large", f"a cohort of {n} exceeds the {MAX_COHORT} that a complete graph may have")
    if c < max(local_c, 1):
        raise PeerError(
            "corrupt_bound_too_small", f"the manifest counts {c} corrupt members, we count {max(local_c, 1)}"
        )
    if q != quorum(n, c):
        raise PeerError("wrong_quorum", f"the quorum of {n} members with {c} corrupt is {quorum(n, c)}, not {q}")
    if t != q:
        raise PeerError("wrong_threshold", f"the sharing threshold must equal the quorum {q}, not {t}")
    floor = max(min_honest, MIN_HONEST)
    if q > n or q - c < floor:
        raise PeerError(
            "cohort_too_small",
            f"{n} members with {c} corrupt and a quorum of {q} leave fewer than {floor} honest updates in the sum",
            next_step="a cohort needs at least two members more than the corrupt bound",
        )
    if not q <= min_survivors <= n:
        raise PeerError(
            "wrong_min_survivors", f"{min_survivors} survivors lie outside the quorum {q} and the cohort {n}"
        )


def check_no_wrap(n: int, value_bits: int, ring_bits: int, noise_bound: int = 0) -> None:
    """Returns if the sum of `n` values of `value_bits` (signed) plus noise up to `noise_bound` stays inside the ring.

    Raises PeerError `bad_ring` for widths that do not exist and `ring_would_wrap` otherwise.
    """
    if not 8 <= ring_bits <= 64 or not 2 <= value_bits <= ring_bits:
        raise PeerError("bad_ring", f"values of {value_bits} bits do not exist in a ring of {ring_bits} bits")
    largest = n * (2 ** (value_bits - 1) - 1) + noise_bound
    if largest >= 2 ** (ring_bits - 1):
        raise PeerError(
            "ring_would_wrap",
            f"{n} values of {value_bits} bits can reach {largest}, at or over half the ring of {ring_bits} bits",
        )
