"""Protection `paillier` a second time: one attempt from seeds to the opened sum, on plain integers.

Every random number is an argument, so that equal arguments give equal bytes. Slow and not constant-time.

Where the specification leaves an encoding open, this file chooses:

 1. Hp applies LP to every field, and one field holds one value: list items are fields of their own, without a count.
 2. Federation, key id, run id and organisation ids are their bytes (UTF-8); nothing is normalised.
 3. I(n) of the fingerprint has nb bytes, as a number modulo n. SHAKE256 for the base g takes the label as it stands
    (no LP) and then I(n), and gives ceil((|n|+128)/8) bytes, read big-endian.
 4. Indices count from 0: holders (byte-sorted ids), keys k, blocks, epochs. A and Q are ascending u8, a byte each.
 5. ctx of an input: T0, org_id, u64 d, u32 B, u32 width.
 6. ctx of the coordinator's noise: Hp("noise", federation, run id, u32 round, u32 attempt, offer nonce, u32 B,
    u32 width). It stands in the place of ctx; the label has no "ctx/". Organisation id and d are not in it.
 7. ctx of a partial: T3, Q, u8 j. u8 j stands again, alone, before the first L.
 8. T, T', T1 are encoded modulo n; L, T2, bodies and D modulo n^(s+1). P and Y are in no hash.
 9. There are as many sigma, as many e of a partial, and as many factors of P as `width`, not K.
10. The root's fields end with I(g) itself; then one field per holder, in holder order: its 32-byte Ed25519 key.
11. The next seed: HKDF with info LP("fedveil/paillier/next") || LP(federation) || LP(key id) || u32 e || LP(A), where
    e is the epoch that ends. x_A,k always has 32 bytes, whatever l is.
12. Coordinate c lies in ciphertext c // S, slot c % S, slot 0 in the lowest bytes; ciphertext i is key i % width of
    block i // width. Padding ciphertexts come last; their plaintext is 0.
13. A slot has the fewest bytes that hold the bound for everybody who may take part, at least one.
14. Modulo n an element is in (1, n), modulo n^(s+1) in (0, n^(s+1)); all are units.
"""

import hashlib
import hmac
import math
from collections import namedtuple

RSA_2048 = int(
    "25195908475657893494027183240048398571429282126204032027777137836043662020707595556264018525880784406918290641249515"
    "08218929855914917618450280848912007284499268739280728777673597141834727026189637501497182469116507761337985909570009"
    "73304597488084284017974291006424586918171951187461215151726546322822168699875491824224336372590851418654620435767984"
    "23387184774447920739934236584823824281198163815010674810451660377306056201619676256133844143603833904414952634432190"
    "114657544454178424020924616515723350778707749817125772467962926386356373289912154831438167899885040445364023527381951"
    "378636564391212010397122822120720357"
)
"""The RSA-2048 number of RSA Laboratories' factoring challenge."""

Key = namedtuple("Key", "federation key_id n s keys exponent_bits holders threshold epoch")
"""What the fingerprint holds besides h: n, s, K, l, the holders' ids (bytes, sorted), t and the epoch."""

Header = namedtuple("Header", "headers t_base t_bodies z bodies_hash")
"""What a participant signs of its input: c_1..c_B, T, T', z, hash of the bodies."""

Proof = namedtuple("Proof", "t_base t_lifts z")
"""A holder's proof of its partials: T1, T2, z."""


class Refused(ValueError):
    """Something does not hold; `step` says what."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


def require(holds: bool, step: str) -> None:
    """Nothing, or Refused."""
    if not holds:
        raise Refused(step)


# --- encodings --------------------------------------------------------------------------------------------------------


def u8(value: int) -> bytes:
    """One byte."""
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Eight bytes, big-endian."""
    return value.to_bytes(8, "big")


def lp(data: bytes) -> bytes:
    """LP: u32 length, then the bytes."""
    return u32(len(data)) + data


def hp(label: str, *fields: bytes) -> bytes:
    """Hp."""
    return hashlib.sha256(lp(b"fedveil/paillier/" + label.encode()) + b"".join(lp(field) for field in fields)).digest()


def xof(label: str, seed: bytes, count: int) -> list[int]:
    """XOF: 128-bit numbers."""
    stream = hashlib.shake_256(lp(b"fedveil/paillier/" + label.encode()) + lp(seed)).digest(16 * count)
    return [int.from_bytes(stream[16 * i : 16 * (i + 1)], "big") for i in range(count)]


def small(key: Key, value: int) -> bytes:
    """I(v) of a number modulo n."""
    return value.to_bytes((key.n.bit_length() + 7) // 8, "big")


def large(key: Key, value: int) -> bytes:
    """I(v) of a number modulo n^(s+1)."""
    return value.to_bytes((key.n.bit_length() + 7) // 8 * (key.s + 1), "big")


def nonce_bits(key: Key) -> int:
    """WB."""
    return max(key.exponent_bits, 272) + 288


def encode_z(key: Key, z: int) -> bytes:
    """z on the wire."""
    return z.to_bytes((nonce_bits(key) + 1 + 7) // 8, "big")


def grid_hash(key: Key, grid: list[list[int]]) -> bytes:
    """SHA-256 over numbers modulo n^(s+1), blocks outside, keys inside."""
    return hashlib.sha256(b"".join(large(key, value) for row in grid for value in row)).digest()


# --- the group --------------------------------------------------------------------------------------------------------


def top(key: Key) -> int:
    """n^(s+1)."""
    return int(key.n ** (key.s + 1))


def product(numbers: list[int], modulus: int) -> int:
    """Of all of them."""
    out = 1
    for number in numbers:
        out = out * number % modulus
    return out


def powers(bases: list[int], exponents: list[int], modulus: int) -> int:
    """The product of bases to their exponents."""
    return product([pow(base, e, modulus) for base, e in zip(bases, exponents, strict=True)], modulus)


def base(key: Key) -> int:
    """g."""
    size = (key.n.bit_length() + 128 + 7) // 8
    y = int.from_bytes(hashlib.shake_256(b"fedveil/paillier/base" + small(key, key.n)).digest(size), "big") % key.n
    return y * y % key.n


def lift(key: Key, number: int) -> int:
    """a^(n^s) mod n^(s+1)."""
    return pow(number, key.n**key.s, top(key))


def embed(key: Key, m: int) -> int:
    """(1+n)^m, by the binomial theorem: terms beyond n^s vanish."""
    return sum(math.prod(range(m - i + 1, m + 1)) // math.factorial(i) * key.n**i for i in range(key.s + 1)) % top(key)


def logarithm(key: Key, number: int) -> int:
    """m of (1+n)^m, as log(1+nu) / log(1+n) with log(1+x) = x - x^2/2 + x^3/3 - ..., both divided by n, modulo n^s."""
    require(number % key.n == 1, "not a power of 1+n")
    modulus = key.n**key.s

    def series(u: int) -> int:
        terms = [(-1) ** (i + 1) * key.n ** (i - 1) * u**i * pow(i, -1, modulus) for i in range(1, key.s + 1)]
        return sum(terms) % modulus

    return series(number // key.n) * pow(series(1), -1, modulus) % modulus


def check_elements(key: Key, smalls: list[int], larges: list[int]) -> None:
    """Canonical and invertible."""
    require(all(1 < v < key.n for v in smalls) and all(0 < v < top(key) for v in larges), "canonical")
    require(math.gcd(product([*smalls, *larges], key.n), key.n) == 1, "unit")


# --- shares of the key ------------------------------------------------------------------------------------------------


def subsets(count: int, size: int, start: int = 0) -> list[tuple[int, ...]]:
    """Ascending index sets of one size, in lexicographic order."""
    if size == 0:
        return [()]
    return [(i, *rest) for i in range(start, count) for rest in subsets(count, size - 1, i + 1)]


def excluded_sets(key: Key) -> list[tuple[int, ...]]:
    """Every A: the t-1 holders who do not know its seed."""
    return subsets(len(key.holders), key.threshold - 1)


def hkdf(ikm: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256 and no salt, one block."""
    return hmac.digest(hmac.digest(bytes(32), ikm, "sha256"), info + b"\1", "sha256")


def _info(key: Key, label: bytes, excluded: tuple[int, ...]) -> bytes:
    who = lp(key.federation) + lp(key.key_id) + u32(key.epoch) + lp(bytes(excluded))
    return lp(b"fedveil/paillier/" + label) + who


def exponents(key: Key, excluded: tuple[int, ...], seed: bytes) -> list[int]:
    """x_A,0 .. x_A,K-1."""
    return [int.from_bytes(hkdf(seed, _info(key, b"x", excluded) + u32(k)), "big") for k in range(key.keys)]


def next_seed(key: Key, excluded: tuple[int, ...], seed: bytes) -> bytes:
    """The seed of A in the next epoch."""
    return hkdf(seed, _info(key, b"next", excluded))


def parts(key: Key, seeds: dict[tuple[int, ...], bytes]) -> dict[tuple[int, ...], list[int]]:
    """h_A,0 .. h_A,K-1 of every A."""
    return {a: [pow(base(key), x, key.n) for x in exponents(key, a, seed)] for a, seed in seeds.items()}


def public(key: Key, lists: dict[tuple[int, ...], list[int]]) -> list[int]:
    """h_0 .. h_K-1, after the check that all h and g differ and none is 1."""
    require(list(lists) == excluded_sets(key) and all(len(row) == key.keys for row in lists.values()), "count")
    joined = [product([row[k] for row in lists.values()], key.n) for k in range(key.keys)]
    every = [h for row in lists.values() for h in row]
    check_elements(key, [*every, *joined], [])
    require(len({*every, *joined, base(key)}) == len(every) + len(joined) + 1, "repeated h")
    return joined


def encryption_keys(key: Key, joined: list[int]) -> list[int]:
    """H_k of h_k."""
    return [lift(key, h * h % key.n) for h in joined]


def _named(key: Key) -> list[bytes]:
    sizes = [u8(key.s), u16(key.keys), u16(key.exponent_bits), u8(len(key.holders)), u8(key.threshold)]
    return [key.federation, key.key_id, small(key, key.n), *sizes, *key.holders, small(key, base(key))]


def fingerprint(key: Key, lists: dict[tuple[int, ...], list[int]]) -> bytes:
    """fp."""
    fields = [*_named(key), u32(key.epoch)]
    for excluded in excluded_sets(key):
        fields += [bytes(excluded), *(small(key, h) for h in lists[excluded])]
    return hp("key", *fields)


def root(key: Key, protocol_keys: list[bytes]) -> bytes:
    """What participants pin."""
    return hp("root", *_named(key), *protocol_keys)


# --- slots ------------------------------------------------------------------------------------------------------------


def sum_bound(count: int, cap: int, tail: int, noise_tail: int) -> int:
    """The largest slot of a sum of `count` inputs: V, W, W_c."""
    return count * 2 * (cap + tail) + 2 * noise_tail


def slot_bytes(count: int, cap: int, tail: int, noise_tail: int) -> int:
    """sb for at most `count` inputs."""
    return max(1, (sum_bound(count, cap, tail, noise_tail).bit_length() + 7) // 8)


def slots(key: Key, width: int) -> int:
    """S for slots of `width` bytes."""
    return (key.s * key.n.bit_length() - 1) // (8 * width)


def blocks(key: Key, dimension: int, width: int) -> tuple[int, int, int]:
    """(ciphertexts, B, width of a block) for `dimension` coordinates in slots of `width` bytes."""
    ciphertexts = -(-dimension // slots(key, width))
    count = -(-ciphertexts // key.keys)
    return ciphertexts, count, -(-ciphertexts // count)


def pack(key: Key, values: list[int], offset: int, width: int) -> list[list[int]]:
    """The plaintexts of every block: values in [-offset, offset], each in its slot as value + offset."""
    require(all(-offset <= value <= offset for value in values), "value range")
    capacity = slots(key, width)
    shifted = [value + offset for value in values]
    plain = [
        sum(slot << (8 * width * place) for place, slot in enumerate(shifted[start : start + capacity]))
        for start in range(0, len(values), capacity)
    ]
    _, count, columns = blocks(key, len(values), width)
    plain += [0] * (count * columns - len(plain))
    return [plain[b * columns : (b + 1) * columns] for b in range(count)]


def unpack(
    key: Key, plain: list[list[int]], dimension: int, width: int, survivors: int, cap: int, tail: int, noise_tail: int
) -> list[int]:
    """The sum of every coordinate, or Refused: top bits, padding, a slot above its bound."""
    _, count, columns = blocks(key, dimension, width)
    require(len(plain) == count and all(len(row) == columns for row in plain), "count")
    capacity = slots(key, width)
    found: list[int] = []
    for m in (m for row in plain for m in row):
        require(m < 2 ** (8 * width * capacity), "top bits")
        found += [(m >> (8 * width * place)) % 2 ** (8 * width) for place in range(capacity)]
    require(not any(found[dimension:]), "padding")
    require(all(slot <= sum_bound(survivors, cap, tail, noise_tail) for slot in found), "slot bound")
    return [slot - survivors * (cap + tail) - noise_tail for slot in found[:dimension]]


# --- inputs: B and P1 -------------------------------------------------------------------------------------------------


def encrypt(
    key: Key, generator: int, keys: list[int], plain: list[list[int]], r: list[int]
) -> tuple[list[int], list[int], list[list[int]]]:
    """(headers c_b, lifts C_b, bodies) of one input: `generator` is G, `keys` are H_k, `r` has a number per block."""
    big = top(key)
    headers = [pow(base(key), r_b, key.n) for r_b in r]
    lifts = [pow(generator, r_b, big) for r_b in r]
    bodies = [
        [embed(key, m) * pow(h, r_b, big) % big for m, h in zip(row, keys, strict=False)]
        for row, r_b in zip(plain, r, strict=True)
    ]
    return headers, lifts, bodies


def input_context(t0: bytes, org_id: bytes, dimension: int, count: int, width: int) -> bytes:
    """ctx of a participant's input."""
    return hp("ctx/input", t0, org_id, u64(dimension), u32(count), u32(width))


def noise_context(
    federation: bytes, run: bytes, round_: int, attempt: int, nonce: bytes, count: int, width: int
) -> bytes:
    """ctx of the coordinator's noise."""
    return hp("noise", federation, run, u32(round_), u32(attempt), nonce, u32(count), u32(width))


def input_seed(key: Key, fp: bytes, ctx: bytes, headers: list[int], bodies_hash: bytes) -> bytes:
    """The seed of sigma and e."""
    return hp("input", fp, ctx, *(small(key, c) for c in headers), bodies_hash)


def input_base(key: Key, keys: list[int], seed: bytes, width: int) -> tuple[list[int], int]:
    """(sigma, P)."""
    sigma = xof("input/sigma", seed, width)
    return sigma, powers([h % key.n for h in keys[:width]], sigma, key.n)


def input_challenges(key: Key, seed: bytes, t_base: int, t_bodies: int, count: int) -> list[int]:
    """e_b."""
    return xof("input/e", hp("input/e", seed, small(key, t_base), small(key, t_bodies)), count)


def prove_input(
    key: Key, fp: bytes, ctx: bytes, keys: list[int], headers: list[int], bodies: list[list[int]], r: list[int], w: int
) -> Header:
    """P1 with the nonce `w`."""
    bodies_hash = grid_hash(key, bodies)
    seed = input_seed(key, fp, ctx, headers, bodies_hash)
    _, p = input_base(key, keys, seed, len(bodies[0]))
    t_base, t_bodies = pow(base(key), w, key.n), pow(p, w, key.n)
    e = input_challenges(key, seed, t_base, t_bodies, len(headers))
    z = w + sum(e_b * r_b for e_b, r_b in zip(e, r, strict=True))
    return Header(headers, t_base, t_bodies, z, bodies_hash)


def check_header(key: Key, fp: bytes, ctx: bytes, header: Header, count: int) -> None:
    """P1's first equation: what every holder checks of every input."""
    require(len(header.headers) == count, "count")
    check_elements(key, [*header.headers, header.t_base, header.t_bodies], [])
    require(len(set(header.headers)) == count, "repeated header")
    require(0 <= header.z < 2 ** (nonce_bits(key) + 1), "z")
    seed = input_seed(key, fp, ctx, header.headers, header.bodies_hash)
    e = input_challenges(key, seed, header.t_base, header.t_bodies, count)
    right = header.t_base * powers(header.headers, e, key.n)
    require((pow(base(key), header.z, key.n) ** 2 - right**2) % key.n == 0, "headers equation")


def check_bodies(
    key: Key, fp: bytes, ctx: bytes, keys: list[int], header: Header, bodies: list[list[int]], width: int
) -> None:
    """P1's second equation, after `check_header`: what the coordinator checks too."""
    require(len(bodies) == len(header.headers) and all(len(row) == width for row in bodies), "count")
    check_elements(key, [], [body for row in bodies for body in row])
    require(grid_hash(key, bodies) == header.bodies_hash, "bodies hash")
    seed = input_seed(key, fp, ctx, header.headers, header.bodies_hash)
    sigma, p = input_base(key, keys, seed, width)
    e = input_challenges(key, seed, header.t_base, header.t_bodies, len(bodies))
    columns = [powers([row[k] % key.n for row in bodies], e, key.n) for k in range(width)]
    right = header.t_bodies * powers(columns, sigma, key.n)
    require((pow(p, header.z, key.n) ** 2 - right**2) % key.n == 0, "bodies equation")


# --- opening: P2, P3, combination -------------------------------------------------------------------------------------


def check_lifts(key: Key, headers: list[int], lifts: list[int], weights: list[int]) -> None:
    """P2 with the verifier's own `weights`: the lifts are those of the headers, up to signs."""
    require(len(headers) == len(lifts) == len(weights), "count")
    check_elements(key, headers, lifts)
    left = powers(lifts, weights, top(key))
    right = lift(key, powers(headers, weights, key.n))
    require((left**2 - right**2) % top(key) == 0, "lift check")


def served(key: Key, quorum: tuple[int, ...], holder: int) -> list[tuple[int, ...]]:
    """Every A that `holder` answers for in `quorum`."""
    return [a for a in excluded_sets(key) if min(set(quorum) - set(a)) == holder]


def share(key: Key, seeds: dict[tuple[int, ...], bytes], quorum: tuple[int, ...], holder: int) -> list[int]:
    """x_j,k; `seeds` need hold only those that the holder knows."""
    rows = [exponents(key, a, seeds[a]) for a in served(key, quorum, holder)]
    return [sum(column) for column in zip(*rows, strict=True)]


def public_share(key: Key, lists: dict[tuple[int, ...], list[int]], quorum: tuple[int, ...], holder: int) -> list[int]:
    """h_j,k."""
    rows = [lists[a] for a in served(key, quorum, holder)]
    return [product(list(column), key.n) for column in zip(*rows, strict=True)]


def partial(key: Key, lifts: list[int], x: list[int], width: int) -> list[list[int]]:
    """D_j,b,k = (L_b^2)^(x_j,k)."""
    return [[pow(l_b * l_b, x_k, top(key)) for x_k in x[:width]] for l_b in lifts]


def partial_context(t3: bytes, quorum: tuple[int, ...], holder: int) -> bytes:
    """ctx of a partial."""
    return hp("ctx/partial", t3, bytes(quorum), u8(holder))


def partial_seed(key: Key, fp: bytes, ctx: bytes, holder: int, lifts: list[int], made: list[list[int]]) -> bytes:
    """The seed of rho and e."""
    return hp("partial", fp, ctx, u8(holder), *(large(key, l_b) for l_b in lifts), grid_hash(key, made))


def partial_base(key: Key, seed: bytes, lifts: list[int]) -> tuple[list[int], int]:
    """(rho, Y)."""
    rho = xof("partial/rho", seed, len(lifts))
    return rho, powers(lifts, [2 * rho_b for rho_b in rho], top(key))


def partial_challenges(key: Key, seed: bytes, t_base: int, t_lifts: int, width: int) -> list[int]:
    """e_k."""
    return xof("partial/e", hp("partial/e", seed, small(key, t_base), large(key, t_lifts)), width)


def prove_partial(
    key: Key, fp: bytes, ctx: bytes, holder: int, lifts: list[int], made: list[list[int]], x: list[int], w: int
) -> Proof:
    """P3 with the nonce `w`."""
    seed = partial_seed(key, fp, ctx, holder, lifts, made)
    _, y = partial_base(key, seed, lifts)
    t_base, t_lifts = pow(base(key), w, key.n), pow(y, w, top(key))
    e = partial_challenges(key, seed, t_base, t_lifts, len(made[0]))
    return Proof(t_base, t_lifts, w + sum(e_k * x_k for e_k, x_k in zip(e, x, strict=False)))


def check_partial(
    key: Key,
    fp: bytes,
    ctx: bytes,
    holder: int,
    lifts: list[int],
    made: list[list[int]],
    joined: list[int],
    proof: Proof,
    width: int,
) -> None:
    """P3; `joined` are h_j,k."""
    require(len(made) == len(lifts) and all(len(row) == width for row in made), "count")
    check_elements(key, [proof.t_base], [proof.t_lifts, *lifts, *(d for row in made for d in row)])
    require(0 <= proof.z < 2 ** (nonce_bits(key) + 1), "z")
    seed = partial_seed(key, fp, ctx, holder, lifts, made)
    rho, y = partial_base(key, seed, lifts)
    e = partial_challenges(key, seed, proof.t_base, proof.t_lifts, width)
    right = proof.t_base * powers(joined[:width], e, key.n)
    require((pow(base(key), proof.z, key.n) ** 2 - right**2) % key.n == 0, "shares equation")
    columns = [powers([row[k] for row in made], rho, top(key)) for k in range(width)]
    right = proof.t_lifts * powers(columns, e, top(key))
    require((pow(y, proof.z, top(key)) ** 2 - right**2) % top(key) == 0, "partials equation")


def multiply(rows: list[list[int]], modulus: int) -> list[int]:
    """Numbers of several senders, place by place: the survivors' headers, lifts."""
    return [product(list(column), modulus) for column in zip(*rows, strict=True)]


def multiply_grids(grids: list[list[list[int]]], modulus: int) -> list[list[int]]:
    """The same for bodies and partials."""
    return [multiply(list(rows), modulus) for rows in zip(*grids, strict=True)]


def combine(key: Key, bodies: list[list[int]], made: list[list[list[int]]]) -> list[list[int]]:
    """The plaintexts of the multiplied `bodies` by the partials of a whole quorum."""
    return [
        [_open(key, body, d) for body, d in zip(row, divisors, strict=True)]
        for row, divisors in zip(bodies, multiply_grids(made, top(key)), strict=True)
    ]


def _open(key: Key, body: int, divisor: int) -> int:
    if (body + divisor) % key.n == 0:
        body = top(key) - body
    require((body - divisor) % key.n == 0, "body and partials differ")
    return logarithm(key, body * pow(divisor, -1, top(key)) % top(key))
