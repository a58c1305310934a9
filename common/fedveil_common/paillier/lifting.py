"""P2: what holders exponentiate is the lift of their own product of headers, and nothing else can be.

A base with a power of 1+n in it, or of small order, would tell a holder's exponents by its answers. So `partial` takes
only `CheckedBases`, and only the two functions here make them. Squares are compared and used: a sign changes nothing.
Error 2^-128 against anybody, without an assumption on n. Source: docs/paillier.md (P2, G2).
"""

from collections.abc import Sequence

import gmpy2

from fedveil_common.errors import PeerError
from fedveil_common.paillier.encoding import WORD_BYTES, number
from fedveil_common.paillier.group import Group, multi_power, product
from fedveil_common.ports import Entropy

FEW = 2
"""Up to so many blocks a holder lifts its own product; beyond, checking is cheaper."""

_MADE_HERE = object()


class CheckedBases:
    """The squares of the lifts of a product of headers, block by block. TypeError for whoever makes one elsewhere."""

    __slots__ = ("lifts", "squares")

    def __init__(self, lifts: Sequence[int], group: Group, made_by: object) -> None:
        if made_by is not _MADE_HERE:
            raise TypeError("bases are made by checked_bases and own_bases")
        self.lifts = tuple(lifts)
        """L_b mod n^(s+1), as the proof of a partial decryption names them."""
        self.squares = tuple(one * one % group.cipher for one in lifts)
        """L_b^2 mod n^(s+1): what is raised to a holder's exponents."""


def product_of_headers(inputs: Sequence[Sequence[int]], n: int) -> list[int]:
    """c*_b mod n: block by block the product of the headers of all inputs. ValueError if their shapes differ.

    PeerError `header_repeated` if a header is in it twice: one participant would count as two.
    """
    if not inputs or len({len(headers) for headers in inputs}) != 1:
        raise ValueError("inputs of different shapes have no product")
    if len({one for headers in inputs for one in headers}) != len(inputs) * len(inputs[0]):
        raise PeerError("header_repeated", "a header occurs twice among the inputs", not_done="nothing was opened")
    return [product(column, n) for column in zip(*inputs, strict=True)]


def checked_bases(group: Group, products: Sequence[int], lifts: Sequence[int], entropy: Entropy) -> CheckedBases:
    """The bases, if `lifts` are the lifts of `products` (c*_b, this holder's own) up to sign.

    PeerError `bad_lift`, `bad_group_element`: then nothing may be computed from these. `entropy`: the verifier's coins.
    """
    if len(products) <= FEW:
        own = own_bases(group, products)
        turned = [lift in (one, group.cipher - one) for one, lift in zip(own.lifts, lifts, strict=False)]
        if len(lifts) == len(products) and all(turned):
            return CheckedBases(lifts, group, _MADE_HERE)  # the proof names what its verifier multiplied, sign and all
        return own
    check_lifts(group, products, lifts, entropy)
    return CheckedBases(lifts, group, _MADE_HERE)


def own_bases(group: Group, products: Sequence[int]) -> CheckedBases:
    """The bases, lifted here: 10 to 100 ms a block. PeerError `bad_group_element` for products that are no units."""
    group.check_short(products, "product of headers")
    return CheckedBases([group.lift(one) for one in products], group, _MADE_HERE)


def check_lifts(
    group: Group, products: Sequence[int], lifts: Sequence[int], entropy: Entropy, peer: str = "coordinator"
) -> None:
    """Returns if each of `lifts` is, up to sign, the lift of its `products`; PeerError `bad_lift` naming `peer`.

    Also what a coordinator asks of a sender: products = its headers, lifts = its C_b.
    """
    if len(lifts) != len(products):
        raise _bad_lift(f"{len(lifts)} lifts for {len(products)} headers", peer)
    group.check_short(products, "header", peer)
    group.check_long(lifts, "lift", peer)
    drawn = entropy.take(WORD_BYTES * len(products))
    weights = [number(drawn[start : start + WORD_BYTES]) for start in range(0, len(drawn), WORD_BYTES)]
    left = multi_power(lifts, weights, group.cipher)
    right = group.lift(multi_power(products, weights, group.n))
    if gmpy2.f_mod(left * left - right * right, group.cipher):
        raise _bad_lift("a lift is not that of its header", peer)


def _bad_lift(what: str, peer: str) -> PeerError:
    return PeerError("bad_lift", what, peer=peer, not_done="no key share was used on it")
