"""From the product of all inputs and t partial decryptions to the plaintexts of the sum.

Promise: what comes out is the sum of the inputs whose headers were multiplied, or IntegrityError: c = D mod n holds for
no other mask. No secret goes in: whoever has the partials of a quorum may open. Source: docs/paillier.md (4.2 with G2).
"""

from collections.abc import Sequence

from fedveil_common.errors import IntegrityError
from fedveil_common.paillier.group import Group, inverses


def add(total: Sequence[int], more: Sequence[int], modulus: int) -> list[int]:
    """Ciphertexts times ciphertexts: the sums of their plaintexts. Both canonical; in time one product each."""
    return [one * other % modulus for one, other in zip(total, more, strict=True)]


def combine(group: Group, bodies: Sequence[int], partials: Sequence[Sequence[int]]) -> list[int]:
    """The plaintexts of `bodies` (products over all survivors, block after block). `partials`: one list of as many
    numbers from each holder of a quorum, checked. IntegrityError `not_opened` if they do not fit.
    """
    n, cipher = group.n, group.cipher
    masks = list(partials[0])
    for more in partials[1:]:
        masks = add(masks, more, cipher)
    undo = inverses([mask % n for mask in masks], n) if group.s == 1 else inverses(masks, cipher)
    found: list[int] = []
    for body, mask, inverse in zip(bodies, masks, undo, strict=True):
        chosen = body if (body - mask) % n == 0 else cipher - body  # a sign that a sender or the coordinator flipped
        if (chosen - mask) % n:
            raise IntegrityError(
                "not_opened",
                "the partial decryptions do not fit the ciphertexts of the sum",
                not_done="nothing was opened",
                next_step="the attempt must be repeated",
            )
        if group.s == 1:
            found.append((chosen - mask) // n * inverse % n)
        else:
            found.append(group.log(chosen * inverse % cipher))
    return found
