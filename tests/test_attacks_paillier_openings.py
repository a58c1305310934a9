"""A malicious coordinator and one member against a holder: what the holder refuses, and what it would give away.

Each attack is played twice: against the production driver of a holder, which refuses with its code and sends nothing;
and with exactly the named check taken away (`without`), where the attack succeeds: its effect is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gmpy2
import numpy as np
import pytest
from encrypted_federation import wide_plan
from encrypted_rogue import EncryptedRogue
from federation import RUN, THREE, body_of
from fedveil_common import transcript
from fedveil_common.errors import IntegrityError
from fedveil_common.ids import OrgId
from fedveil_common.messages import CipherHeader
from fedveil_common.paillier import input_proof, lifting, sum_leaves
from fedveil_common.paillier.encoding import integer
from fedveil_common.paillier.group import product
from fedveil_common.paillier.lifting import CheckedBases
from fedveil_participant import answering
from numpy.typing import NDArray
from paillier_forge import Served, proof_of

VICTIM, OTHER, INSIDER = THREE


def calls(rogue: EncryptedRogue) -> list[str]:
    """Both holders are called; how they refused ("": answered)."""
    return [rogue.call(org) for org in (VICTIM, OTHER)]


def without_proofs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(answering.input_proof, "check_header", lambda *parts: None)


def without_lift_check(patch: pytest.MonkeyPatch) -> None:
    """Holders raise what they are sent."""
    made = lifting._MADE_HERE
    patch.setattr(lifting, "checked_bases", lambda group, products, lifts, entropy: CheckedBases(lifts, group, made))


def test_the_honest_course_opens_exactly_the_sum() -> None:
    rogue = EncryptedRogue().reach("certificate")
    assert calls(rogue) == ["", ""]
    insider = -rogue.shape.slots.offset  # plaintext 0: not even the offset
    total = sum(rogue.values.values()) + insider
    assert np.array_equal(rogue.opened(rogue.product(), 3), total)


# --- headers of the insider -------------------------------------------------------------------------------------------


def cancelling(patch: pytest.MonkeyPatch, *, checked: bool) -> EncryptedRogue:
    rogue = EncryptedRogue().reach("input")
    rogue.put(rogue.forge.make(rogue.forge.inverse([rogue.blocks(OTHER)])))
    if not checked:
        without_proofs(patch)
    return rogue.reach("certificate")


def test_a_cancelling_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: the insider does not know the exponent of another's inverse."""
    assert calls(cancelling(monkeypatch, checked=True)) == ["bad_input_proof"] * 2


def test_a_cancelling_header_would_open_one_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    rogue = cancelling(monkeypatch, checked=False)
    assert calls(rogue) == ["", ""]
    assert np.array_equal(rogue.opened(rogue.product(), 1), rogue.values[VICTIM])


def minus_one(patch: pytest.MonkeyPatch) -> EncryptedRogue:
    """The insider's header makes the product of all headers -1."""
    rogue = EncryptedRogue().reach("input")
    n, (made,) = rogue.key.group.n, rogue.forge.made()
    others = rogue.product([VICTIM, OTHER])[0].header
    rogue.put(rogue.forge.make([replace(made, header=n - gmpy2.invert(others, n))]))
    without_proofs(patch)
    return rogue.reach("certificate")


def test_a_product_of_small_order_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1 refuses such a header; behind it stands that squares alone are raised."""
    rogue = minus_one(monkeypatch)
    assert rogue.product()[0].header == rogue.key.group.n - 1
    assert rogue.call(VICTIM) == ""
    assert rogue.rows(VICTIM) == [(1,)]


def test_a_product_of_small_order_would_tell_a_bit_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    rogue = minus_one(monkeypatch)
    honest = lifting.checked_bases

    def unsquared(*parts: Any) -> CheckedBases:
        made = honest(*parts)
        made.squares = made.lifts
        return made

    monkeypatch.setattr(lifting, "checked_bases", unsquared)
    assert rogue.call(VICTIM) == ""
    (exponent,) = rogue.exponents(VICTIM)
    assert rogue.rows(VICTIM) == [((1, rogue.key.group.cipher - 1)[exponent % 2],)]


def copied(patch: pytest.MonkeyPatch, without: str) -> EncryptedRogue:
    """The victim's input with its proof, under the insider's name."""
    rogue = EncryptedRogue().reach("input")
    theirs = body_of(rogue.header(VICTIM))
    assert isinstance(theirs, CipherHeader)
    rogue.put(rogue.forge.claim(rogue.blocks(VICTIM), proof_of(theirs)))
    if without:
        without_proofs(patch)
    if without == "everything":
        patch.setattr(answering, "_refuse_repeated", lambda inputs: None)
        patch.setattr(
            lifting, "product_of_headers", lambda inputs, n: [product(one, n) for one in zip(*inputs, strict=True)]
        )
    return rogue.reach("certificate")


@pytest.mark.parametrize(("without", "code"), [("", "bad_input_proof"), ("the proof", "header_repeated")])
def test_another_s_header_under_the_own_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, without: str, code: str
) -> None:
    """P1 is bound to its sender; behind it stands that no header is multiplied twice."""
    assert calls(copied(monkeypatch, without)) == [code] * 2


def test_another_s_header_under_the_own_name_would_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rogue = copied(monkeypatch, "everything")
    assert calls(rogue) == ["", ""]
    assert np.array_equal(rogue.opened(rogue.product(), 3), 2 * rogue.values[VICTIM] + rogue.values[OTHER])


def again(rogue: EncryptedRogue) -> EncryptedRogue:
    """The attempt is aborted with the members' own votes, and the next one offered."""
    rogue.everyone(lambda org: rogue.abort_order(), [rogue.insider])
    certificate = rogue.abort_certificate(rogue.honest)
    rogue.offered = rogue.manifest(key=replace(rogue.body.key, attempt=2), abort_certificates=(certificate,))
    return rogue.reach("input")


def replayed(patch: pytest.MonkeyPatch, *, checked: bool) -> tuple[EncryptedRogue, NDArray[np.int64]]:
    """What the victim sent in the first attempt, as the insider's input of the second; and what was in it."""
    if not checked:
        unbound = input_proof.Context(bytes(32), 1, 1)
        patch.setattr(input_proof, "input_context", lambda *parts: unbound)
    rogue = EncryptedRogue().reach("input")
    leaves, theirs, old = rogue.blocks(VICTIM), body_of(rogue.header(VICTIM)), rogue.values[VICTIM]
    assert isinstance(theirs, CipherHeader)
    again(rogue)
    rogue.put(rogue.forge.claim(leaves, proof_of(theirs)))
    return rogue.reach("certificate"), old


def test_an_old_header_in_a_new_attempt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1 is bound to T0: attempt, round, run and offer."""
    rogue, _ = replayed(monkeypatch, checked=True)
    assert calls(rogue) == ["bad_input_proof"] * 2


def test_an_old_header_in_a_new_attempt_would_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    rogue, old = replayed(monkeypatch, checked=False)
    assert calls(rogue) == ["", ""]
    assert np.array_equal(rogue.opened(rogue.product(), 3), sum(rogue.values.values()) + old)


def test_a_proof_made_for_anything_else_is_refused() -> None:
    """The insider knows its exponents: it proves them for another round, member, length or offer."""
    rogue = EncryptedRogue().reach("input")
    other_round = transcript.t0(rogue.manifest(key=replace(rogue.body.key, round=2)).body)
    made = rogue.forge.made()
    contexts = [
        rogue.forge.context(t0=other_round),
        rogue.forge.context(VICTIM),
        input_proof.input_context(rogue.t0, INSIDER, rogue.body.length + 1, 1, 1),
        input_proof.noise_context(rogue.body.federation_id, RUN, 1, 1, rogue.body.nonce, 1, 1),
    ]
    for context in contexts:
        one = EncryptedRogue().reach("input") if context is not contexts[0] else rogue
        one.put(one.forge.make(made, context))
        one.reach("certificate")
        assert one.call(VICTIM) == "bad_input_proof"


def test_headers_that_are_no_units_below_n_are_refused() -> None:
    """`check_short`: a header lives in Z*_n. What is longer is refused as it arrives: (1+n)^a has no place."""
    rogue = EncryptedRogue().reach("input")
    n, (made,) = rogue.key.group.n, rogue.forge.made()
    rogue.put(rogue.forge.make([replace(made, header=n + 2)]))
    rogue.reach("certificate")
    assert rogue.call(VICTIM) == "bad_group_element"
    honest = rogue.served()
    poisoned = made.header * rogue.key.group.one_plus(1 << 500) % rogue.key.group.cipher
    rogue.puppet.serve = lambda: [
        (name, block, integer(poisoned, rogue.shape.long_bytes) if name == INSIDER else data)
        for name, block, data in honest
    ]
    assert rogue.call(VICTIM) == "bad_headers"


# --- what the coordinator serves and multiplies -----------------------------------------------------------------------


def singled_out(rogue: EncryptedRogue) -> Served:
    """Numbers whose product is the victim's header alone."""
    n = rogue.key.group.n
    told = {VICTIM: rogue.blocks(VICTIM)[0].header, OTHER: gmpy2.mpz(4), INSIDER: gmpy2.invert(gmpy2.mpz(4), n)}
    return [one for org, value in told.items() for one in rogue.numbers(org, [value])] + rogue.numbers(
        "", [rogue.blocks(VICTIM)[0].lift]
    )


def test_headers_that_nobody_signed_are_refused() -> None:
    """`headers_hash`: what is multiplied is what the survivors signed. One served for another, and one singled out."""
    rogue = EncryptedRogue().reach("certificate")
    swapped = {VICTIM: OTHER, OTHER: VICTIM, INSIDER: INSIDER, "": ""}
    honest = rogue.served()
    for lie in (singled_out(rogue), [(swapped[name], block, data) for name, block, data in honest]):
        rogue.puppet.serve = lambda lie=lie: lie  # type: ignore[misc]
        assert calls(rogue) == ["headers_differ"] * 2
    rogue.puppet.serve = rogue.served
    assert calls(rogue) == ["", ""]


def test_headers_that_nobody_signed_would_open_one_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    rogue = EncryptedRogue().reach("certificate")
    rogue.puppet.serve = lambda: singled_out(rogue)
    monkeypatch.setattr(answering, "_check", lambda *parts: None)
    assert calls(rogue) == ["", ""]
    assert np.array_equal(rogue.opened(rogue.blocks(VICTIM), 1), rogue.values[VICTIM])


LISTS: dict[str, Callable[[EncryptedRogue, Served], Served]] = {
    "dropped": lambda rogue, told: [one for one in told if one[0] != OTHER],
    "twice": lambda rogue, told: [*told, told[0]],
    "of a stranger": lambda rogue, told: [*told, ("delta", 0, told[0][2])],
    "beyond the blocks": lambda rogue, told: [*told, (VICTIM, 1, told[0][2])],
    "a block of -1": lambda rogue, told: [*told, (VICTIM, -1, told[0][2])],
    "too short": lambda rogue, told: [(VICTIM, 0, told[0][2][:-1]), *told[1:]],
    "a megabyte": lambda rogue, told: [(VICTIM, 0, bytes(1 << 20)), *told[1:]],
    "no lift": lambda rogue, told: told[:-1],
    "nothing": lambda rogue, told: [],
}


def test_lists_of_headers_of_every_wrong_kind() -> None:
    """`gather`: bounded by what this holder voted for, whatever arrives; after so many failures it looks no more."""
    rogue = EncryptedRogue().reach("certificate")
    honest = rogue.served()
    for holder, names in ((VICTIM, list(LISTS)[:5]), (OTHER, list(LISTS)[5:])):
        for name in names:
            rogue.puppet.serve = lambda name=name: LISTS[name](rogue, honest)  # type: ignore[misc]
            assert rogue.call(holder) == "bad_headers", name


def test_lifts_of_one_block_are_the_holder_s_own() -> None:
    """P2: for one or two blocks whatever is served as lift changes nothing, and tells nothing."""
    rogue = EncryptedRogue().reach("certificate")
    honest = rogue.served()
    rogue.puppet.serve = lambda: [*honest[:-1], *rogue.numbers("", [rogue.key.group.one_plus(1)])]
    assert calls(rogue) == ["", ""]
    insider = -rogue.shape.slots.offset
    assert np.array_equal(rogue.opened(rogue.product(), 3), sum(rogue.values.values()) + insider)


def wide() -> EncryptedRogue:
    """Three blocks, whose lifts a holder checks."""
    return EncryptedRogue(plan=wide_plan(), columns=1).reach("certificate")


def lifts_of(rogue: EncryptedRogue, what: str) -> list[int]:
    group, true = rogue.key.group, [one.lift for one in rogue.product()]
    return {
        "times (1+n)": [true[0] * group.one_plus(1) % group.cipher, *true[1:]],
        "(1+n) alone": [group.one_plus(1)] * 3,
        "of the victim alone": [one.lift for one in rogue.blocks(VICTIM)],
        "of fewer inputs": [one.lift for one in rogue.product([VICTIM, OTHER])],
        "one input twice": [one.lift for one in rogue.product([*THREE, OTHER])],
        "-1": [group.cipher - 1, *true[1:]],
        "zero": [gmpy2.mpz(0), *true[1:]],
        "swapped": [true[1], true[0], true[2]],
    }[what]


def serve_lifts(rogue: EncryptedRogue, lifts: Sequence[int]) -> None:
    headers = [one for one in rogue.served() if one[0]]
    rogue.puppet.serve = lambda: headers + rogue.numbers("", lifts)


def test_lifts_of_anything_but_the_product_are_refused() -> None:
    """P2: eight tries, each with the holder's fresh coins; what is right is answered in between."""
    rogue = wide()
    wrong = ["times (1+n)", "(1+n) alone", "of the victim alone", "of fewer inputs", "one input twice", "-1", "swapped"]
    for what in wrong:
        serve_lifts(rogue, lifts_of(rogue, what))
        assert rogue.call(VICTIM) == "bad_lift", what
    serve_lifts(rogue, lifts_of(rogue, "zero"))
    assert rogue.call(OTHER) == "bad_group_element"
    rogue.puppet.serve = rogue.served
    assert calls(rogue) == ["", ""]
    insider = -rogue.shape.slots.offset
    assert np.array_equal(rogue.opened(rogue.product(), 3), sum(rogue.values.values()) + insider)


def test_after_eight_failures_a_holder_leaves_it_to_the_others() -> None:
    rogue = wide()
    serve_lifts(rogue, lifts_of(rogue, "times (1+n)"))
    assert [rogue.call(VICTIM) for _ in range(8)] == ["bad_lift"] * 8
    rogue.puppet.serve = rogue.served
    assert rogue.call(VICTIM) == "too_many_failures"


def test_a_power_of_one_plus_n_as_lift_would_tell_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    without_lift_check(monkeypatch)
    rogue = wide()
    serve_lifts(rogue, lifts_of(rogue, "(1+n) alone"))
    assert rogue.call(VICTIM) == ""
    found = [int(rogue.key.group.log(one)) // 2 for one in rogue.rows(VICTIM)[0]]
    assert found == rogue.exponents(VICTIM)


def test_the_lifts_of_one_victim_would_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_lift_check(monkeypatch)
    rogue = wide()
    serve_lifts(rogue, lifts_of(rogue, "of the victim alone"))
    assert calls(rogue) == ["", ""]
    assert np.array_equal(rogue.opened(rogue.blocks(VICTIM), 1), rogue.values[VICTIM])


@pytest.mark.parametrize("orgs", [(VICTIM,), (VICTIM, OTHER), (*THREE, VICTIM)], ids=["one", "fewer", "one twice"])
def test_answers_open_no_other_product(orgs: tuple[OrgId, ...]) -> None:
    """c = D mod n: the answers are about the holders' own product, whatever the coordinator multiplies."""
    rogue = EncryptedRogue().reach("certificate")
    assert calls(rogue) == ["", ""]
    with pytest.raises(IntegrityError, match="not_opened"):
        rogue.opened(rogue.product(orgs), len(set(orgs)))


def test_fewer_answers_than_the_threshold_open_nothing() -> None:
    rogue = EncryptedRogue().reach("certificate")
    assert calls(rogue) == ["", ""]
    (whole,) = rogue.product()
    for holder in (VICTIM, OTHER):
        with pytest.raises(IntegrityError, match="not_opened"):
            sum_leaves.open_block(rogue.key.group, rogue.shape, 0, whole.bodies, rogue.rows(holder)[:1], 3)
