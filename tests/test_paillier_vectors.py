"""The product against the second implementation of Paillier protection: every number, and every refusal."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
import pytest
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId
from fedveil_common.paillier import encryption, input_proof, lifting, opening, partial, partial_proof, shares
from fedveil_common.paillier.input_proof import InputHeader
from fedveil_common.paillier.packing import Blocks, Slots
from fedveil_common.paillier.partial_proof import PartialProof
from fedveil_common.paillier.public_key import PublicKey, Terms
from fedveil_common.paillier.rsa_2048 import N
from fedveil_common.paillier.tables import WINDOW, digits_for
from fedveil_common.secret import Seed

VECTORS = json.loads((Path(__file__).parent / "vectors" / "paillier.json").read_text())
ATTEMPTS = {case["name"]: case for case in VECTORS["attempts"]}
ORGS = "org-001", "org-002"


def num(text: str) -> int:
    found: int = gmpy2.mpz(int(text, 16))
    return found


def nums(texts: list[str]) -> list[int]:
    return [num(text) for text in texts]


def rows(texts: list[list[str]]) -> list[list[int]]:
    return [nums(row) for row in texts]


class Scripted:
    """Entropy that gives out what the vectors say was drawn."""

    def __init__(self, *data: bytes) -> None:
        self._data: Iterator[bytes] = iter(data)

    def take(self, size: int) -> bytes:
        found = next(self._data)
        assert len(found) == size
        return found


def drawn(exponents: list[int]) -> Scripted:
    digits = [(int(r) >> (WINDOW * place)) % (1 << WINDOW) for r in exponents for place in range(digits_for(256))]
    return Scripted(bytes(digits))


class Attempt:
    """The public side of a case, as a receiver has it; secrets only where a sender is replayed."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, given = case, case["in"]
        terms = Terms(
            given["federation"],
            given["key_id"],
            N,
            given["s"],
            given["K"],
            given["l"],
            tuple(OrgId(one) for one in given["holders"]),
            given["t"],
        )
        lists = {tuple(map(int, name.split())): nums(found) for name, found in case["key"]["h_A"].items()}
        self.key = PublicKey(terms, given["epoch"], lists)
        self.group, self.t3 = self.key.group, bytes.fromhex(given["T3"])
        caps = {"noise_cap": given["W"], "coordinator_cap": given["W_c"]}
        self.members = [org for org in given["values"] if org != "coordinator"]
        self.slots = Slots(2048 * given["s"], given["d"], len(self.members), given["V"], **caps)
        self.blocks = Blocks.of(self.slots.plaintexts, given["K"])
        self.encryptor = encryption.Encryptor(self.key)

    def context(self, org: str) -> input_proof.Context:
        if org == "coordinator":
            noise, shape = self.case["in"]["noise"], (self.blocks.count, self.blocks.width)
            place = noise["run"], noise["round"], noise["attempt"], bytes.fromhex(noise["offer_nonce"])
            return input_proof.noise_context(self.case["in"]["federation"], *place, *shape)
        t0, length = bytes.fromhex(self.case["in"]["T0"]), self.case["in"]["d"]
        return input_proof.input_context(t0, OrgId(org), length, self.blocks.count, self.blocks.width)

    def header(self, org: str) -> InputHeader:
        one = self.case["inputs"][org]
        numbers = num(one["T"]), num(one["T'"]), num(one["z"])
        return InputHeader(tuple(nums(one["c"])), self.blocks.width, bytes.fromhex(one["bodies_hash"]), *numbers)

    def quorum(self, name: str) -> tuple[int, ...]:
        return tuple(map(int, name))

    def bases(self) -> lifting.CheckedBases:
        made = self.case["product"]
        # so few blocks a holder lifts itself: the check is made all the same
        lifting.check_lifts(self.group, nums(made["c"]), nums(made["L"]), Scripted(bytes(range(16 * len(made["c"])))))
        return lifting.CheckedBases(nums(made["L"]), self.group, lifting._MADE_HERE)


@pytest.fixture(scope="module", params=[name for name in ATTEMPTS if name.startswith("s =")])
def attempt(request: pytest.FixtureRequest) -> Attempt:
    return Attempt(ATTEMPTS[request.param])


def test_key(attempt: Attempt) -> None:
    key, made, given = attempt.key, attempt.case["key"], attempt.case["in"]
    assert key.g == num(made["g"])
    assert attempt.group.lift(key.g) == num(made["G"])
    assert list(key.columns) == nums(made["h"])
    assert list(key.lifted) == nums(made["H"])
    assert key.fingerprint.hex() == made["fp"]
    for name, text in given["seeds"].items():
        absent, seed = tuple(map(int, name.split())), Seed(bytes.fromhex(text))
        place = given["federation"], given["key_id"], given["epoch"], absent
        assert [shares.exponent(seed, *place, k) for k in range(given["K"])] == nums(made["x"][name])
        assert shares.next_seed(seed, *place).expose().hex() == made["next_seeds"][name]


def test_layout(attempt: Attempt) -> None:
    slots, blocks = attempt.slots, attempt.blocks
    made = {"sb": slots.slot_bytes, "S": slots.per_plaintext, "cts": slots.plaintexts}
    assert made | {"B": blocks.count, "width": blocks.width} == attempt.case["layout"]


@pytest.mark.parametrize("org", ORGS)
def test_inputs(attempt: Attempt, org: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, made = attempt.case["in"], attempt.case["inputs"][org]
    values = np.array([int(one) for one in given["values"][org].split()], np.int64)
    plaintexts = attempt.slots.pack(values)
    assert [f"{int(one):x}" for one in attempt.blocks.pad(plaintexts)] == [
        one for row in made["plaintexts"] for one in row
    ]
    blocks = attempt.encryptor.encrypt(plaintexts, attempt.blocks, drawn(nums(given["random"][org]["r"])))
    assert [block.header for block in blocks] == nums(made["c"])
    assert [block.lift for block in blocks] == nums(made["C"])
    assert [list(block.bodies) for block in blocks] == rows(made["bodies"])
    hidden = num(given["random"][org]["w"])
    monkeypatch.setattr(input_proof, "nonce", lambda own, seed, bits, entropy: hidden)
    context = attempt.context(org)
    assert context.digest.hex() == made["ctx"]
    assert input_proof.prove(attempt.encryptor, context, blocks, Seed(bytes(32)), Scripted()) == attempt.header(org)
    accept_input(attempt, org)


def accept_input(attempt: Attempt, org: str) -> None:
    """Everything that is checked of an input on receipt."""
    made, header, name = attempt.case["inputs"][org], attempt.header(org), OrgId(org)
    if len(header.headers) != attempt.blocks.count:
        raise lifting._bad_lift("another number of blocks", org)
    input_proof.check_header(attempt.key, attempt.encryptor.short, attempt.context(org), header, name)
    input_proof.check_bodies(attempt.key, attempt.context(org), header, rows(made["bodies"]), name)
    weights = Scripted(bytes(range(1, 16 * len(header.headers) + 1)))
    lifting.check_lifts(attempt.group, header.headers, nums(made["C"]), weights, org)


def accept_partial(attempt: Attempt, name: str, holder: int) -> None:
    made, quorum = attempt.case["partials"][name][str(holder)], attempt.quorum(name)
    proof = PartialProof(num(made["T1"]), num(made["T2"]), num(made["z"]))
    context = partial_proof.partial_context(attempt.t3, quorum, holder)
    columns = attempt.key.of_holder(holder, quorum, attempt.blocks.width)
    bases, short, answer = attempt.bases(), attempt.encryptor.short, rows(made["D"])
    partial_proof.check(attempt.key, short, context, holder, bases.lifts, answer, columns, proof, "holder")


def accept_sum(attempt: Attempt, name: str) -> Any:
    bodies = [one for row in rows(attempt.case["product"]["bodies"]) for one in row]
    flat = [[one for row in rows(made["D"]) for one in row] for made in attempt.case["partials"][name].values()]
    plaintexts = opening.combine(attempt.group, bodies, flat)
    return attempt.slots.unpack(plaintexts, len(attempt.members))


def test_products(attempt: Attempt) -> None:
    made, inputs, group = attempt.case["product"], attempt.case["inputs"], attempt.group
    headers = [nums(one["c"]) for one in inputs.values()]
    assert lifting.product_of_headers(headers, group.n) == nums(made["c"])
    first, second = ([one for row in rows(found["bodies"]) for one in row] for found in inputs.values())
    assert opening.add(first, second, group.cipher) == [one for row in rows(made["bodies"]) for one in row]
    assert list(lifting.own_bases(group, nums(made["c"])).lifts) == nums(made["L"])


def test_partials(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    given, bases, width = attempt.case["in"], attempt.bases(), attempt.blocks.width
    exponents = {tuple(map(int, name.split())): nums(found) for name, found in attempt.case["key"]["x"].items()}
    hidden = num(given["partial_w"])
    monkeypatch.setattr(partial_proof, "nonce", lambda own, seed, bits, entropy: hidden)
    for name, answers in attempt.case["partials"].items():
        quorum = attempt.quorum(name)
        for index, made in answers.items():
            holder = int(index)
            served = shares.served_by(holder, quorum, attempt.key.terms.sets)
            xs = shares.holder_exponents(exponents, served, width)
            assert xs == nums(made["x"])
            assert attempt.key.of_holder(holder, quorum, width) == nums(made["h"])
            found = partial.partial(attempt.group, bases, partial.plan(xs))
            if "D" in made:
                assert found == rows(made["D"])
            context = partial_proof.partial_context(attempt.t3, quorum, holder)
            assert context.hex() == made["ctx"]
            key, short = attempt.key, attempt.encryptor.short
            proof = partial_proof.prove(key, short, context, holder, bases, found, xs, Seed(bytes(32)), Scripted())
            assert proof == PartialProof(num(made["T1"]), num(made["T2"]), num(made["z"]))


def test_sum(attempt: Attempt) -> None:
    accept_partial(attempt, "01", 0)
    accept_partial(attempt, "01", 1)
    assert accept_sum(attempt, "01").tolist() == [int(one) for one in attempt.case["out"]["sum"].split()]


def test_turned_signs_and_noise_leave_the_sum_exact() -> None:
    """An input of the coordinator, -C, -body, n - c and -D by different parties, each under an odd challenge."""
    turned = Attempt(ATTEMPTS["signs and noise 11"])
    accept_partial(turned, "01", 0)
    accept_partial(turned, "01", 1)
    assert set(turned.case["inputs"]) == {"coordinator", *turned.members}
    for org in turned.case["inputs"]:
        accept_input(turned, org)
    assert accept_sum(turned, "01").tolist() == [int(one) for one in turned.case["out"]["sum"].split()]


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_what_the_second_implementation_refuses_is_refused(case: dict[str, Any]) -> None:
    changed = copy.deepcopy(ATTEMPTS[case["of"]])
    for change in case["changes"]:
        at = changed
        for step in change["at"][:-1]:
            at = at[step]
        at[change["at"][-1]] = change["value"]
    attempt = Attempt(changed)
    if case["changes"][0]["at"] == ["key", "fp"]:
        attempt.key.fingerprint = bytes.fromhex(changed["key"]["fp"])
    check, *where = case["check"]
    accept: dict[str, Callable[[], object]] = {
        "input": lambda: accept_input(attempt, where[0]),
        "lifts": attempt.bases,
        "partial": lambda: accept_partial(attempt, where[0], int(where[1])),
        "open": lambda: accept_sum(attempt, where[0]),
    }
    with pytest.raises(FedveilError):
        accept[check]()
