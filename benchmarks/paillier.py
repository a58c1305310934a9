"""What Paillier protection costs a parameter on one core, beside python-paillier (`phe`, with gmpy2) in the same run.

    python benchmarks/paillier.py [--bits 2048] [--s 1] [--columns 32] [--blocks 16] [--repeats 5] [--json]

One key of --bits bits with K = --columns columns, held by 5 of whom 3 open; 16-bit values in 3-byte slots (a sum of up
to 256). Each repetition measures everything in turn and ratios are medians of ratios of CPU time within a repetition
(the machine may be shared). Tables are built before; how long that took stands beside.

- `encrypt`: packing, headers, lifts and bodies, inline; `encrypt_pool`: the same from masks made before.
- `add`: one input's ciphertexts onto a running product. `open`: three partial decryptions, combination, unpacking.
- `crt_decrypt`: our ordinary key pair, one holder of all, by the factors.
- Beside them, per parameter: making and checking the proof of an input, checking lifts, proving and checking a partial
  decryption.

`ratio_to_phe` is parameters a second of ours over parameters a second of phe, which puts one number in a ciphertext.
`fair_ratio` is the same against a phe that packed as we do: what is not owed to packing. `open` is set against phe's
decryption by the key's owner. Goals at 2048 / 3072 bits, K = 32: encrypt 4,000 / 12,000, with pool 100,000, add 120 /
150, open 150 / 400, at most 6.5 bytes a parameter at s = 1 and 4.8 at s = 2.
"""

import argparse
import itertools
import json
import secrets
import statistics
import sys
import time
from collections.abc import Callable

import gmpy2
import numpy as np
import phe
from fedveil_cli.world import real_world
from fedveil_common.ids import OrgId
from fedveil_common.paillier import encryption, input_proof, lifting, opening, partial, partial_proof, shares
from fedveil_common.paillier.factors import Factor, FactorPair
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.packing import Blocks, Slots
from fedveil_common.paillier.public_key import PublicKey, Terms, base
from fedveil_common.paillier.single_holder import SingleHolderPrivateKey
from fedveil_common.secret import Seed

HOLDERS, THRESHOLD, MEMBERS, VALUE_CAP = 5, 3, 256, 32_767
QUORUM = (0, 2, 4)
T0, T3 = b"\x10" * 32, b"\x33" * 32
PHE_OPERATIONS = 8
ME = OrgId("acme")


def prime(bits: int) -> int:
    """A random prime of exactly `bits` bits, the upper two of them set."""
    while True:
        found = int(gmpy2.next_prime(secrets.randbits(bits) | (3 << (bits - 2))))
        if found.bit_length() == bits:
            return found


def cpu(work: Callable[[], object], count: int) -> float:
    """CPU seconds of one call, divided by `count`."""
    before = time.process_time()
    work()
    return (time.process_time() - before) / count


def measure(bits: int, s: int, columns: int, block_count: int, repeats: int) -> dict[str, object]:
    """Everything in turn, `repeats` times."""
    entropy, factors = real_world().entropy, (prime(bits // 2), prime(bits // 2))
    n = factors[0] * factors[1]
    terms = Terms("bench", "key", n, s, columns, 256, tuple(OrgId(f"holder-{i}") for i in range(HOLDERS)), THRESHOLD)
    group, g = Group(n, s), base(Group(n, s))
    seeds = {one: Seed(entropy.take(32)) for one in terms.sets}
    exponents = {
        one: [shares.exponent(seed, "bench", "key", 0, one, k) for k in range(columns)] for one, seed in seeds.items()
    }
    key = PublicKey(terms, 0, {one: [gmpy2.powmod(g, x, n) for x in xs] for one, xs in exponents.items()})
    before = time.process_time()
    encryptor = encryption.Encryptor(key)
    tables_s = time.process_time() - before
    per = Slots(bits * s, 1, MEMBERS, VALUE_CAP).per_plaintext
    length = per * columns * block_count
    slots, blocks = Slots(bits * s, length, MEMBERS, VALUE_CAP), Blocks(block_count, columns)
    cts = block_count * columns
    values = np.frombuffer(entropy.take(2 * length), "<i2").astype(np.int64).clip(-VALUE_CAP, VALUE_CAP)
    served = {j: shares.holder_exponents(exponents, shares.served_by(j, QUORUM, terms.sets), columns) for j in QUORUM}
    plans = {j: partial.plan(xs) for j, xs in served.items()}
    context = input_proof.input_context(T0, ME, length, block_count, columns)
    public, private = phe.PaillierPublicKey(n), phe.PaillierPrivateKey(phe.PaillierPublicKey(n), *factors)
    alone = SingleHolderPrivateKey(FactorPair(Factor.of(factors[0]), Factor.of(factors[1])), s)
    own, numbers = Seed(entropy.take(32)), [int(one) + VALUE_CAP for one in values[:PHE_OPERATIONS]]

    def once() -> dict[str, float]:
        cost: dict[str, float] = {}
        made: list[list[encryption.Block]] = []
        cost["encrypt"] = cpu(
            lambda made=made: made.append(encryptor.encrypt(slots.pack(values), blocks, entropy)), length
        )
        pool: list[encryption.Mask] = []
        cost["pool"] = cpu(lambda pool=pool: pool.extend(encryptor.masks(block_count, columns, entropy)), length)
        cost["encrypt_pool"] = cpu(
            lambda made=made, pool=pool: made.append(encryption.encrypt_with(key, pool, slots.pack(values), blocks)),
            length,
        )
        one, other = ([body for block in blocks_of for body in block.bodies] for blocks_of in made)
        totals: list[list[int]] = []
        cost["add"] = cpu(lambda: totals.append(opening.add(one, other, group.cipher)), length)
        headers: list[input_proof.InputHeader] = []
        for blocks_of in made:
            cost["prove_input"] = cpu(
                lambda b=blocks_of: headers.append(input_proof.prove(encryptor, context, b, own, entropy)), length
            )
        first = headers[0]
        rows = [block.bodies for block in made[0]]
        cost["check_header"] = cpu(
            lambda: input_proof.check_header(key, encryptor.short, context, first, ME),
            length,
        )
        cost["check_bodies"] = cpu(lambda: input_proof.check_bodies(key, context, first, rows, ME), length)
        products = lifting.product_of_headers([header.headers for header in headers], n)
        lifts = [a.lift * b.lift % group.cipher for a, b in zip(*made, strict=True)]
        cost["check_lifts"] = cpu(lambda: lifting.check_lifts(group, products, lifts, entropy), length)
        bases = lifting.checked_bases(group, products, lifts, entropy)
        answers: dict[int, list[list[int]]] = {}
        cost["partial"] = statistics.mean(
            cpu(lambda j=j: answers.update({j: partial.partial(group, bases, plans[j])}), length) for j in QUORUM
        )
        proofs: dict[int, partial_proof.PartialProof] = {}

        def prove(j: int) -> None:
            bound = partial_proof.partial_context(T3, QUORUM, j)
            proofs[j] = partial_proof.prove(
                key,
                encryptor.short,
                bound,
                j,
                bases,
                answers[j],
                served[j],
                own,
                entropy,
            )

        def check(j: int) -> None:
            bound = partial_proof.partial_context(T3, QUORUM, j)
            held = key.of_holder(j, QUORUM, columns)
            partial_proof.check(key, encryptor.short, bound, j, bases.lifts, answers[j], held, proofs[j], "holder")

        cost["prove_partial"] = statistics.mean(cpu(lambda j=j: prove(j), length) for j in QUORUM)
        cost["check_partial"] = statistics.mean(cpu(lambda j=j: check(j), length) for j in QUORUM)
        sums: list[np.ndarray] = []

        def combine() -> None:
            flat = [[body for row in answers[j] for body in row] for j in QUORUM]
            sums.append(slots.unpack(opening.combine(group, totals[0], flat), 2))

        cost["combine"] = cpu(combine, length)
        cost["open"] = THRESHOLD * cost["partial"] + cost["combine"]
        if not np.array_equal(sums[0], 2 * values):
            raise SystemExit("the sum is wrong: no measurement")
        few = one[: 2 * PHE_OPERATIONS]
        cost["crt_decrypt"] = cpu(lambda: [alone.decrypt(body) for body in few], len(few) * per)
        theirs: list[int] = []
        cost["phe_encrypt"] = cpu(lambda: theirs.extend(public.raw_encrypt(x) for x in numbers), len(numbers))
        wrapped = [phe.EncryptedNumber(public, c) for c in theirs] * 16
        cost["phe_add"] = cpu(lambda: [a._add_encrypted(b) for a, b in itertools.pairwise(wrapped)], len(wrapped) - 1)
        found: list[int] = []
        cost["phe_decrypt"] = cpu(lambda: found.extend(private.raw_decrypt(c) for c in theirs), len(theirs))
        if found != numbers:
            raise SystemExit("phe decrypts otherwise: no measurement")
        return cost

    runs = [once() for _ in range(repeats)]
    beside = {"encrypt": "phe_encrypt", "encrypt_pool": "phe_encrypt", "add": "phe_add", "open": "phe_decrypt"}
    beside["crt_decrypt"] = "phe_decrypt"
    ratio = {ours: statistics.median(run[peer] / run[ours] for run in runs) for ours, peer in beside.items()}
    return {
        "bits": bits,
        "s": s,
        "columns": columns,
        "parameters": length,
        "slots_per_ciphertext": per,
        "tables_s": tables_s,
        "bytes_per_parameter": (cts * group.long_bytes + block_count * (group.long_bytes + group.short_bytes)) / length,
        "ratio_to_phe": ratio,
        "fair_ratio": {name: found / per for name, found in ratio.items()},
        "microseconds_per_parameter": {name: 1e6 * statistics.median(run[name] for run in runs) for name in runs[0]},
    }


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=2048)
    parser.add_argument("--s", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.bits < 2048 or arguments.bits % 16 or min(arguments.columns, arguments.blocks, arguments.repeats) < 1:
        parser.error("--bits is a multiple of 16 from 2048 on; the others are positive")
    result = measure(arguments.bits, arguments.s, arguments.columns, arguments.blocks, arguments.repeats)
    if arguments.json:
        print(json.dumps(result))
        return 0
    for name, value in result.items():
        if isinstance(value, dict):
            print(name)
            for part, number in value.items():
                print(f"    {part:<24} {number:,.4g}" if number < 1000 else f"    {part:<24} {number:,.0f}")
        else:
            print(f"{name:<28} {value:.2f}" if isinstance(value, float) else f"{name:<28} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
