"""Nonces of proofs: hidden even if the entropy of this machine is bad, and fresh even if the statement repeats.

Source: docs/paillier.md (C, G5); the idea is that of hedged signatures (Aranha et al., EUROCRYPT 2020).
"""

import hashlib

from fedveil_common.crypto.labels import lp
from fedveil_common.paillier.encoding import PREFIX, number
from fedveil_common.ports import Entropy
from fedveil_common.secret import Secret

_FRESH_BYTES = 64


def nonce(secret: Secret, statement: bytes, bits: int, entropy: Entropy) -> int:
    """`bits` bits (a multiple of 8) of SHAKE256(local secret || statement || 64 fresh bytes). Secret, for one proof."""
    if bits % 8:
        raise ValueError("a nonce has whole bytes")
    seed = lp((PREFIX + "nonce").encode("ascii")) + lp(secret.expose()) + lp(statement)
    return number(hashlib.shake_256(seed + lp(entropy.take(_FRESH_BYTES))).digest(bits // 8))
