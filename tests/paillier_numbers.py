"""Prime numbers for tests of Paillier keys: made once by `openssl prime -generate -safe`, and public ever since.

Whoever needs a key that protects something makes one: `fedveil key deal` or `fedveil key pair`.
"""

import hashlib
from collections.abc import Iterator

from fedveil_common.paillier.factors import Factor, FactorPair

P = int(
    "f5a95aaf50ab4db88c9d9d00c40935f77bcddcf2ad4dbfcd767874d0b107431a"
    "5d4cc865661e0da2ade214d4d1585f35f7c02c865c2df65ad0c078b94a04f5bc"
    "8d88fef4155115119727afdab6e41e053db00a550decddcc11aff43cb32d3780"
    "68538a6789c1fa272277a1a23862cb66ef1308ad3a66564c8eace91c30c83cfb",
    16,
)
Q = int(
    "c1cc5c1d6d9461bace91f50c1733f06f14303659a96f6c14a104a08eb7ca3455"
    "0f75e9321393d47bd1f30913e8ba45e9a140bf05b521306f33d6ef957466a451"
    "21dc3b100b2ad9c1b04063366a6013e3051fcc9743bf3f1d157e2ddd8c79f60e"
    "d73741848eabcbd2332e35b17648d569d5b3a0f53d0365b72c386b55a2f39bd7",
    16,
)
OTHER_P = int(
    "ceef4683d9e88604b26963afa5b866bb7c602d69a1e0b073a20e8f55ddad8fb5"
    "2d37ceeec1c28d516d24742d90400afdc49f7bdecbf6dadfd9491bd305db1bb2"
    "1f8834a613449b9be6eed469a5a60b044c035d878cc5843ac8dd9efdce38cf9f"
    "e80b2c240d8102a48172ac59f5328ae057706f80406582a67e00cee0ee07cf63",
    16,
)
OTHER_Q = int(
    "e559a97755fa73e80551ee2311fc75f1443bdd0e23c24e49e11c82e0bfa6099f"
    "ebd98356b726786c5e37dec5f0d0ceb8acaec78274414e0cc676ba80924a14bf"
    "d5992752068ba2c72070f677e339a98316ca1a4ebb53b375ffd99fa466793491"
    "21457ae256f3f2aa1c0f5d88db2e8be2cda58c0599607852c4d18a6669a6323b",
    16,
)
"""Safe primes of 1024 bits; two of them make a modulus of 2048."""

DIVIDING = int(
    "e2d6ee3ed22f2c7b87fdb3577dfc21380fab0652c291f40e108c52b36ec75709"
    "31012c91bcd00531ce62559c4aea90c47c2ad3ddb5490f1eb2633d5722b65e4a"
    "5e709ce992dab916632c8d2166932cc5d6c082f624813a08ec5538fc81572553"
    "c155618fa7dbce1c0b4c7a6debf9bf83bd9fef0682a6391256c9438c69",
    16,
)
DIVIDED = 527765581332540 * DIVIDING + 1
"""Primes of 1000 and 1049 bits, the first a divisor of the second less one: x -> x^n is no permutation mod n."""

DOUBLE = int(
    "1a048e55db631fc57217ebf5c00decd336219d306331241be91e4e4d1e2f05f1"
    "60496f5823dbc0681625aa5fabda9cd0b1d30cfad877661ec2a0f67e0e2a0d2d"
    "ffd01b40200e32d80e19f88cc13371b0a8be35b3d90988230b44647f5f95a4fa"
    "02e29695ab4559b7511fbbec3c011a74527568d77ba6b349c4c13e8f1d0670b3"
    "3",
    16,
)
"""A safe prime of 1025 bits: its half, of 1024 bits, divides it less one."""

PRIME = 3 * 2**2046 + 439
"""A prime of 2048 bits."""


def pair() -> FactorPair:
    """The factors P and Q."""
    return FactorPair(Factor.of(P), Factor.of(Q))


class Draws:
    """`ports.Entropy` for tests: the same bytes every time, other ones for each draw."""

    def __init__(self, seed: int = 1) -> None:
        self._stream = self._blocks(seed)

    def take(self, size: int) -> bytes:
        """`size` bytes."""
        return b"".join(next(self._stream) for _ in range(-(-size // 32)))[:size]

    @staticmethod
    def _blocks(seed: int) -> Iterator[bytes]:
        for count in range(10**9):
            yield hashlib.sha256(b"%d,%d" % (seed, count)).digest()
