"""P-K: what a proof of a list shows, for exactly which list, and every form in which it is refused."""

from dataclasses import replace

import gmpy2
import pytest
from fedveil_common.errors import PeerError
from fedveil_common.paillier import holder_lists, list_proof
from fedveil_common.paillier.encryption import nonce_bits
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.list_proof import ListProof, Statement
from fedveil_common.paillier.public_key import base
from fedveil_common.secret import Seed
from paillier_holders import RSA_2048, draw, holders_of, terms_of

TERMS = terms_of(3, 2, width=4)
HOLDERS = holders_of(TERMS)
SEED = Seed(draw("seed"))
FRESH = draw("fresh") * 2
ABSENT = (1,)
EXPONENTS = holder_lists.exponents(TERMS, 0, ABSENT, SEED)
STATEMENT = Statement(TERMS, HOLDERS.root, 0, ABSENT, holder_lists.column_keys(TERMS, EXPONENTS))
PROOF = list_proof.prove(STATEMENT, EXPONENTS, SEED, FRESH)


def refusal(statement: Statement, proof: ListProof) -> str:
    with pytest.raises(PeerError) as caught:
        list_proof.check(statement, proof, "holder-2")
    assert caught.value.peer == "holder-2"
    return caught.value.code


def test_an_honest_proof_is_accepted() -> None:
    list_proof.check(STATEMENT, PROOF)
    assert PROOF.response.bit_length() <= nonce_bits(TERMS.bits) + 1


def test_the_generator_is_the_one_of_the_key() -> None:
    g = base(Group(TERMS.n, TERMS.s))
    assert STATEMENT.values == tuple(pow(int(g), int(x), RSA_2048) for x in EXPONENTS)


def test_sizes_follow_G5() -> None:
    assert nonce_bits(256) == 560
    assert list_proof.response_bytes(256) == 71
    assert nonce_bits(1024) == 1312


@pytest.mark.parametrize("bits", [256, 264, 304])
def test_a_nonce_has_at_most_its_bits(bits: int) -> None:
    terms = replace(TERMS, bits=bits)
    statement = replace(STATEMENT, terms=terms)
    proof = list_proof.prove(statement, EXPONENTS, SEED, FRESH)
    list_proof.check(statement, proof)
    width = nonce_bits(bits)
    assert width - 40 < proof.response.bit_length() <= width + 1


@pytest.mark.parametrize(
    "other",
    [
        replace(STATEMENT, absent=(0,)),
        replace(STATEMENT, epoch=1),
        replace(STATEMENT, root=draw("another root")),
        replace(STATEMENT, terms=replace(TERMS, key_id="key-2")),
        replace(STATEMENT, terms=replace(TERMS, federation="another")),
        replace(STATEMENT, values=(STATEMENT.values[1], STATEMENT.values[0], *STATEMENT.values[2:])),
    ],
)
def test_a_copied_proof_is_none(other: Statement) -> None:
    assert refusal(other, PROOF) == "bad_list_proof"


def test_one_unknown_exponent_among_many_is_found() -> None:
    values = (*STATEMENT.values[:3], STATEMENT.values[3] * base(Group(TERMS.n, 1)) % RSA_2048)
    statement = replace(STATEMENT, values=values)
    assert refusal(statement, list_proof.prove(statement, EXPONENTS, SEED, FRESH)) == "bad_list_proof"


def test_signs_prove_nothing_and_are_no_fault() -> None:
    """h and n-h have the same square, and a column's mask is a power of its square."""
    statement = replace(STATEMENT, values=(RSA_2048 - STATEMENT.values[0], *STATEMENT.values[1:]))
    list_proof.check(statement, list_proof.prove(statement, EXPONENTS, SEED, FRESH))


@pytest.mark.parametrize("response", [-1, 1 << 561, (1 << 561) + 5])
def test_a_response_out_of_range_is_refused(response: int) -> None:
    assert refusal(STATEMENT, replace(PROOF, response=gmpy2.mpz(response))) == "bad_list_proof"


def test_a_response_moved_by_a_multiple_stays_refused_by_range_or_equation() -> None:
    assert refusal(STATEMENT, replace(PROOF, response=PROOF.response + 1)) == "bad_list_proof"


@pytest.mark.parametrize("element", [0, 1, RSA_2048, PROOF.commitment + RSA_2048])
def test_a_commitment_that_is_no_element_is_refused(element: int) -> None:
    assert refusal(STATEMENT, replace(PROOF, commitment=gmpy2.mpz(element))) == "bad_group_element"


@pytest.mark.parametrize("element", [0, 1, RSA_2048, STATEMENT.values[0] + RSA_2048])
def test_a_column_key_that_is_no_element_is_refused(element: int) -> None:
    values = (gmpy2.mpz(element), *STATEMENT.values[1:])
    assert refusal(replace(STATEMENT, values=values), PROOF) == "bad_group_element"


def test_an_element_without_inverse_is_refused() -> None:
    """Under the challenge number nobody knows one; under a modulus with known factors one is at hand."""
    p, q = gmpy2.next_prime(3 << 1030), gmpy2.next_prime(7 << 1029)
    terms = replace(TERMS, n=p * q)
    values = tuple(gmpy2.powmod(base(Group(p * q, 1)), x, p * q) for x in EXPONENTS)
    good = Statement(terms, HOLDERS.root, 0, ABSENT, values)
    proof = list_proof.prove(good, EXPONENTS, SEED, FRESH)
    list_proof.check(good, proof)
    assert refusal(good, replace(proof, commitment=p)) == "bad_group_element"
    assert refusal(replace(good, values=(q, *values[1:])), proof) == "bad_group_element"


def test_a_list_of_another_length_is_refused() -> None:
    assert refusal(replace(STATEMENT, values=STATEMENT.values[:3]), PROOF) == "bad_list_proof"
    assert refusal(replace(STATEMENT, values=()), PROOF) == "bad_list_proof"


def test_no_nonce_serves_two_statements() -> None:
    """Even when the fresh bytes repeat: two responses to one nonce would give the exponents."""
    other = replace(STATEMENT, epoch=1)
    assert list_proof.prove(other, EXPONENTS, SEED, FRESH).commitment != PROOF.commitment
    assert list_proof.prove(STATEMENT, EXPONENTS, SEED, draw("f") * 2).commitment != PROOF.commitment
    assert list_proof.prove(STATEMENT, EXPONENTS, Seed(draw("s")), FRESH).commitment != PROOF.commitment
    assert list_proof.prove(STATEMENT, EXPONENTS, SEED, FRESH) == PROOF


def test_misuse_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="64"):
        list_proof.prove(STATEMENT, EXPONENTS, SEED, b"short")
    with pytest.raises(ValueError, match="64"):
        list_proof.prove(STATEMENT, EXPONENTS[1:], SEED, FRESH)
