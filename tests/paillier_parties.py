"""Holders, participants and a coordinator of Paillier protection in one place, for tests: real keys, small blocks."""

import functools
import itertools
from dataclasses import dataclass

import gmpy2
import numpy as np
from fedveil_common.ids import OrgId
from fedveil_common.paillier import encryption, input_proof, lifting, opening, partial, partial_proof, shares
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.lifting import CheckedBases
from fedveil_common.paillier.packing import Blocks, Slots
from fedveil_common.paillier.public_key import PublicKey, Terms, base
from fedveil_common.paillier.rsa_2048 import N
from fedveil_common.secret import Seed
from fedveil_simulation.ports import SeededEntropy
from numpy.typing import NDArray

T0, T3 = b"\x10" * 32, b"\x33" * 32
NAMES = tuple(OrgId(name) for name in ("acme", "borealis", "cygnus", "delta", "echo"))
VALUE_CAP = 32_767


@dataclass
class Parties:
    """A key with all its seeds, and tables for everybody."""

    key: PublicKey
    seeds: dict[shares.SeedSet, Seed]
    encryptor: encryption.Encryptor
    entropy: SeededEntropy

    @property
    def group(self) -> Group:
        return self.key.group

    def quorums(self) -> list[tuple[int, ...]]:
        return list(itertools.combinations(range(len(self.key.terms.holders)), self.key.terms.threshold))

    def exponents(self, holder: int, quorum: tuple[int, ...], width: int) -> list[int]:
        terms = self.key.terms
        all_of = {
            one: [shares.exponent(seed, terms.federation, terms.key_id, self.key.epoch, one, k) for k in range(width)]
            for one, seed in self.seeds.items()
        }
        return shares.holder_exponents(all_of, shares.served_by(holder, quorum, terms.sets), width)

    def own(self) -> Seed:
        return Seed(self.entropy.take(32))

    def slots(self, length: int, members: int = 5, **caps: int) -> Slots:
        return Slots(int(self.group.n).bit_length() * self.group.s, length, members, VALUE_CAP, **caps)

    def input(self, org: OrgId, plaintexts: list[int], length: int, t0: bytes = T0) -> "Input":
        blocks = Blocks.of(len(plaintexts), self.key.terms.width)
        made = self.encryptor.encrypt(plaintexts, blocks, self.entropy)
        return self.proven(org, made, length, t0)

    def proven(self, org: OrgId, made: list[encryption.Block], length: int, t0: bytes = T0) -> "Input":
        context = input_proof.input_context(t0, org, length, len(made), len(made[0].bodies))
        return Input(org, context, made, input_proof.prove(self.encryptor, context, made, self.own(), self.entropy))

    def check(self, one: "Input") -> None:
        """What the coordinator checks of an input on receipt."""
        input_proof.check_header(self.key, self.encryptor.short, one.context, one.header, one.org)
        input_proof.check_bodies(self.key, one.context, one.header, [block.bodies for block in one.blocks], one.org)
        lifts = [block.lift for block in one.blocks]
        lifting.check_lifts(self.group, one.header.headers, lifts, self.entropy, one.org)

    def total(self, inputs: list["Input"]) -> list[int]:
        bodies = inputs[0].bodies
        for one in inputs[1:]:
            bodies = opening.add(bodies, one.bodies, self.group.cipher)
        return bodies

    def bases(self, inputs: list["Input"], lifts: list[int] | None = None) -> CheckedBases:
        """A holder's, from the headers; `lifts`: what a coordinator sent."""
        products = lifting.product_of_headers([one.header.headers for one in inputs], self.group.n)
        sent = [self.group.lift(one) for one in products] if lifts is None else lifts
        return lifting.checked_bases(self.group, products, sent, self.entropy)

    def answer(
        self, holder: int, quorum: tuple[int, ...], bases: CheckedBases, width: int
    ) -> tuple[list[list[int]], partial_proof.PartialProof]:
        exponents = self.exponents(holder, quorum, width)
        found = partial.partial(self.group, bases, partial.plan(exponents))
        return found, self.prove(holder, quorum, bases, found, exponents)

    def prove(
        self,
        holder: int,
        quorum: tuple[int, ...],
        bases: CheckedBases,
        found: list[list[int]],
        exponents: list[int],
    ) -> partial_proof.PartialProof:
        context = partial_proof.partial_context(T3, quorum, holder)
        return partial_proof.prove(
            self.key, self.encryptor.short, context, holder, bases, found, exponents, self.own(), self.entropy
        )

    def check_answer(
        self,
        holder: int,
        quorum: tuple[int, ...],
        bases: CheckedBases,
        found: list[list[int]],
        proof: partial_proof.PartialProof,
    ) -> None:
        context = partial_proof.partial_context(T3, quorum, holder)
        columns = self.key.of_holder(holder, quorum, len(found[0]))
        name = self.key.terms.holders[holder]
        partial_proof.check(self.key, self.encryptor.short, context, holder, bases.lifts, found, columns, proof, name)

    def open(self, inputs: list["Input"], quorum: tuple[int, ...], bodies: list[int] | None = None) -> list[int]:
        """The plaintexts of the sum, every proof checked on the way."""
        bases, width = self.bases(inputs), len(inputs[0].blocks[0].bodies)
        answers = []
        for holder in quorum:
            found, proof = self.answer(holder, quorum, bases, width)
            self.check_answer(holder, quorum, bases, found, proof)
            answers.append(flat(found))
        return opening.combine(self.group, self.total(inputs) if bodies is None else bodies, answers)


@dataclass
class Input:
    """What a participant sends."""

    org: OrgId
    context: input_proof.Context
    blocks: list[encryption.Block]
    header: input_proof.InputHeader

    @property
    def bodies(self) -> list[int]:
        return [body for block in self.blocks for body in block.bodies]


def flat(rows: list[list[int]]) -> list[int]:
    return [one for row in rows for one in row]


@functools.cache
def parties(
    s: int = 1,
    width: int = 3,
    holders: int = 3,
    threshold: int = 2,
    n: int = N,
    bits: int = 256,
    federation: str = "hospitals",
) -> Parties:
    """Made once for each shape: tables take a second."""
    entropy = SeededEntropy(1, "paillier")
    terms = Terms(federation, "key-1", n, s, width, bits, NAMES[:holders], threshold)
    seeds = {one: Seed(entropy.take(32)) for one in terms.sets}
    g = base(Group(n, s))
    lists = {
        one: [gmpy2.powmod(g, shares.exponent(seed, federation, "key-1", 0, one, k), n) for k in range(width)]
        for one, seed in seeds.items()
    }
    key = PublicKey(terms, 0, lists)
    return Parties(key, seeds, encryption.Encryptor(key), entropy)


def updates(count: int, length: int) -> list[NDArray[np.int64]]:
    """Deterministic signed values, the caps among them."""
    made = []
    for one in range(count):
        values = (np.arange(length, dtype=np.int64) * (7919 + 104_729 * one)) % (2 * VALUE_CAP + 1) - VALUE_CAP
        values[:2] = (VALUE_CAP, -VALUE_CAP)[: min(2, length)]
        made.append(values)
    return made
