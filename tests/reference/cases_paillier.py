"""Our own vectors for protection `paillier`: whole attempts with every intermediate, then what is refused, and where.

Numbers modulo n and n^(s+1) are I(v) in hexadecimal, z too; values are decimal. D and Y stand in the first quorum only,
the hash of D in all. A refused case is a good one (`of`) with changes: `at` is a path in it, `value` what stands there
instead, `check` what then refuses.
"""

import functools
import hashlib

from tests.reference import paillier_textbook as textbook
from tests.reference import replay_paillier as replay
from tests.reference.cases_crypto import Case, seed
from tests.reference.paillier_textbook import Key

Spoiled = tuple[str, str, list[tuple[str, object]]]
"""Name, step that refuses, fields with what stands in them instead."""

HOLDERS = [b"org-001", b"org-002", b"org-003"]
PARTICIPANTS = ["org-001", "org-002"]
QUORUMS = textbook.subsets(3, 2)
LABELS = ["".join(map(str, quorum)) for quorum in QUORUMS]


def number(name: str, bits: int) -> int:
    """A number below 2^bits that anyone can recompute: SHAKE256 of the name, big-endian, top bits cut off."""
    return int.from_bytes(hashlib.shake_256(f"paillier/{name}".encode()).digest(-(-bits // 8)), "big") % 2**bits


def values(name: str, count: int, limit: int) -> list[int]:
    """Both ends, zero, then numbers in [-limit, limit] by `number`."""
    ends = [limit, -limit, 0]
    return [*ends, *(number(f"{name}/{i}", 64) % (2 * limit + 1) - limit for i in range(3, count))][:count]


def spaced(numbers: list[int]) -> str:
    """Decimal, with spaces between: one line of a file."""
    return " ".join(map(str, numbers))


class Hexadecimal:
    """The forms of one key's numbers in a file."""

    def __init__(self, key: Key) -> None:
        self.key = key

    def small(self, numbers: list[int]) -> list[str]:
        """Modulo n."""
        return [textbook.small(self.key, v).hex() for v in numbers]

    def large(self, numbers: list[int]) -> list[str]:
        """Modulo n^(s+1)."""
        return [textbook.large(self.key, v).hex() for v in numbers]

    def grid(self, grid: list[list[int]]) -> list[list[str]]:
        """Blocks outside, keys inside, modulo n^(s+1)."""
        return [self.large(row) for row in grid]

    def z(self, z: int) -> str:
        """As on the wire."""
        return textbook.encode_z(self.key, z).hex()


def words(numbers: list[int]) -> list[str]:
    """Challenges and weights."""
    return [v.to_bytes(16, "big").hex() for v in numbers]


def _input(
    name: str, key: Key, public: dict[str, object], ctx: bytes, plain: list[list[int]], turned: list[str]
) -> Case:
    """One sender's input with its proof; of what `turned` names ("c", "C", "bodies") the first is negated."""
    fp, keys, generator = public["fp"], public["H"], public["G"]
    hexa, big = Hexadecimal(key), textbook.top(key)
    r = [number(f"{name}/r/{b}", 256) for b in range(len(plain))]
    w = number(f"{name}/w", textbook.nonce_bits(key))
    headers, lifts, bodies = textbook.encrypt(key, generator, keys, plain, r)
    for numbers, modulo, part in ((headers, key.n, "c"), (lifts, big, "C"), (bodies[0], big, "bodies")):
        if part in turned:
            numbers[0] = modulo - numbers[0]
    header = textbook.prove_input(key, fp, ctx, keys, headers, bodies, r, w)
    width, count = len(plain[0]), len(plain)
    hash_seed = textbook.input_seed(key, fp, ctx, headers, header.bodies_hash)
    sigma, p = textbook.input_base(key, keys, hash_seed, width)
    e = textbook.input_challenges(key, hash_seed, header.t_base, header.t_bodies, count)
    random = {"r": [v.to_bytes(32, "big").hex() for v in r], "w": hexa.z(w), "turned": turned}
    made = {
        "ctx": ctx.hex(),
        "plaintexts": [[f"{m:x}" for m in row] for row in plain],
        "c": hexa.small(headers),
        "C": hexa.large(lifts),
        "bodies": hexa.grid(bodies),
        "bodies_hash": header.bodies_hash.hex(),
        "seed": hash_seed.hex(),
        "sigma": words(sigma),
        "P": hexa.small([p])[0],
        "T": hexa.small([header.t_base])[0],
        "T'": hexa.small([header.t_bodies])[0],
        "e": words(e),
        "z": hexa.z(header.z),
    }
    return {"random": random, "made": made, "numbers": (headers, lifts, bodies)}


def _partial(
    name: str, key: Key, public: dict[str, object], quorum: tuple[int, ...], j: int, total: dict[str, object]
) -> tuple[Case, list[list[int]]]:
    """One holder's answer in one quorum, and its partials as numbers."""
    fp, lifts, width = public["fp"], total["L"], total["width"]
    hexa = Hexadecimal(key)
    x = textbook.share(key, public["seeds"], quorum, j)
    made = textbook.partial(key, lifts, x, width)
    if total["turned"] == (quorum, j):
        made[-1][-1] = textbook.top(key) - made[-1][-1]
    ctx = textbook.partial_context(total["t3"], quorum, j)
    proof = textbook.prove_partial(key, fp, ctx, j, lifts, made, x, total["w"])
    hash_seed = textbook.partial_seed(key, fp, ctx, j, lifts, made)
    rho, y = textbook.partial_base(key, hash_seed, lifts)
    answer = {
        "serves": [list(a) for a in textbook.served(key, quorum, j)],
        "x": [f"{v:x}" for v in x],
        "h": hexa.small(textbook.public_share(key, public["lists"], quorum, j)),
        "ctx": ctx.hex(),
        "D_hash": textbook.grid_hash(key, made).hex(),
        "seed": hash_seed.hex(),
        "rho": words(rho),
        "T1": hexa.small([proof.t_base])[0],
        "T2": hexa.large([proof.t_lifts])[0],
        "e": words(textbook.partial_challenges(key, hash_seed, proof.t_base, proof.t_lifts, width)),
        "z": hexa.z(proof.z),
    }
    whole = {"D": hexa.grid(made), "Y": hexa.large([y])[0]} if quorum == QUORUMS[0] else {}
    return answer | whole, made


def _public(name: str, key: Key) -> dict[str, object]:
    """The key of one case: from seeds to fp."""
    seeds = {a: seed(f"paillier/{name}/seed/{a}") for a in textbook.excluded_sets(key)}
    lists = textbook.parts(key, seeds)
    joined = textbook.public(key, lists)
    generator = textbook.lift(key, textbook.base(key))
    keys = textbook.encryption_keys(key, joined)
    fp = textbook.fingerprint(key, lists)
    return {"seeds": seeds, "lists": lists, "joined": joined, "G": generator, "H": keys, "fp": fp}


def _attempt(
    name: str,
    s: int,
    epoch: int,
    dimension: int,
    caps: tuple[int, int, int],
    *,
    noise: bool,
    turned: dict[str, list[str]],
) -> Case:
    """Key, inputs, sum and its opening by every quorum; `caps` are V, W, W_c."""
    key = Key(b"hospitals-north", b"key-1", textbook.RSA_2048, s, 2, 256, HOLDERS, 2, epoch)
    hexa, modulus, public = Hexadecimal(key), textbook.top(key), _public(name, key)
    cap, tail, noise_tail = caps
    slot = textbook.slot_bytes(len(PARTICIPANTS), *caps)
    ciphertexts, count, width = textbook.blocks(key, dimension, slot)
    t0, t3, offer = seed(f"paillier/{name}/t0"), seed(f"paillier/{name}/t3"), seed(f"paillier/{name}/offer")
    given = {i: values(f"{name}/{i}", dimension, cap + tail) for i in PARTICIPANTS}
    contexts = {i: textbook.input_context(t0, i.encode(), dimension, count, width) for i in PARTICIPANTS}
    plain = {i: textbook.pack(key, given[i], cap + tail, slot) for i in PARTICIPANTS}
    if noise:
        given["coordinator"] = values(f"{name}/coordinator", dimension, noise_tail)
        plain["coordinator"] = textbook.pack(key, given["coordinator"], noise_tail, slot)
        contexts["coordinator"] = textbook.noise_context(key.federation, b"run-1", 7, 2, offer, count, width)
    inputs = {i: _input(f"{name}/{i}", key, public, contexts[i], plain[i], turned.get(i, [])) for i in given}
    headers, lifts, bodies = zip(*(made["numbers"] for made in inputs.values()), strict=True)
    product, lifted = textbook.multiply(list(headers), key.n), textbook.multiply(list(lifts), modulus)
    total = textbook.multiply_grids(list(bodies), modulus)
    weights = [number(f"{name}/weights/{b}", 128) | 1 for b in range(count)]
    w = number(f"{name}/partial/w", textbook.nonce_bits(key))
    opening = {"L": lifted, "width": width, "t3": t3, "w": w, "turned": (QUORUMS[0], 0) if turned else None}
    answers, opened = {}, []
    for label, quorum in zip(LABELS, QUORUMS, strict=True):
        found = [_partial(name, key, public, quorum, j, opening) for j in quorum]
        answers[label] = {str(j): answer for j, (answer, _) in zip(quorum, found, strict=True)}
        opened.append(textbook.combine(key, total, [made for _, made in found]))
    assert all(plain == opened[0] for plain in opened)
    result = textbook.unpack(key, opened[0], dimension, slot, len(PARTICIPANTS), *caps)
    assert result == [sum(column) for column in zip(*given.values(), strict=True)]
    protocol_keys = [seed(f"paillier/protocol key/{i}") for i in range(len(HOLDERS))]
    sets = {"".join(map(str, a)): a for a in textbook.excluded_sets(key)}
    return {
        "name": name,
        "in": {
            "federation": key.federation.decode(),
            "key_id": key.key_id.decode(),
            "epoch": epoch,
            "s": s,
            "K": key.keys,
            "l": key.exponent_bits,
            "t": key.threshold,
            "holders": [i.decode() for i in HOLDERS],
            "protocol_keys": [k.hex() for k in protocol_keys],
            "seeds": {label: public["seeds"][a].hex() for label, a in sets.items()},
            "d": dimension,
            "V": cap,
            "W": tail,
            "W_c": noise_tail,
            "T0": t0.hex(),
            "T3": t3.hex(),
            "noise": {"run": "run-1", "round": 7, "attempt": 2, "offer_nonce": offer.hex()},
            "values": {i: spaced(row) for i, row in given.items()},
            "random": {i: made["random"] for i, made in inputs.items()},
            "weights": words(weights),
            "partial_w": hexa.z(w),
        },
        "key": {
            "g": hexa.small([textbook.base(key)])[0],
            "G": hexa.large([public["G"]])[0],
            "x": {k: [f"{x:064x}" for x in textbook.exponents(key, a, public["seeds"][a])] for k, a in sets.items()},
            "next_seeds": {k: textbook.next_seed(key, a, public["seeds"][a]).hex() for k, a in sets.items()},
            "h_A": {k: hexa.small(public["lists"][a]) for k, a in sets.items()},
            "h": hexa.small(public["joined"]),
            "H": hexa.large(public["H"]),
            "fp": public["fp"].hex(),
            "root": textbook.root(key, protocol_keys).hex(),
        },
        "layout": {"sb": slot, "S": textbook.slots(key, slot), "cts": ciphertexts, "B": count, "width": width},
        "inputs": {i: made["made"] for i, made in inputs.items()},
        "product": {"c": hexa.small(product), "L": hexa.large(lifted), "bodies": hexa.grid(total)},
        "partials": answers,
        "out": {"plaintexts": [[f"{m:x}" for m in row] for row in opened[0]], "sum": spaced(result)},
    }


@functools.cache
def _all() -> tuple[Case, ...]:
    signs = {PARTICIPANTS[0]: ["C", "bodies"], PARTICIPANTS[1]: ["c"], "coordinator": ["C"]}
    return (
        _attempt("s = 1", 1, 0, 400, (32_767, 100_000, 0), noise=False, turned={}),
        _attempt("s = 2", 2, 1, 330, (32_767, 0, 0), noise=False, turned={}),
        _attempt("s = 3", 3, 0, 300, (2**20, 2**28, 0), noise=False, turned={}),
        _attempt("signs and noise 11", 1, 0, 50, (1_000, 20, 500), noise=True, turned=signs),
    )


def attempts() -> list[Case]:
    """Each s; blocks that need padding and such that do not; noise of the coordinator; signs turned without harm.

    11 is the first number for which everything that multiplies a turned sign is odd: without squares nothing passes.
    """
    return list(_all())


def _refused_inputs(case: Case) -> list[Spoiled]:
    """(name, step, changes in the first input) of what its receiver refuses."""
    key, made = replay.key_of(case), case["inputs"][PARTICIPANTS[0]]
    hexa, modulus = Hexadecimal(key), textbook.top(key)
    headers, bodies = replay.numbers(made["c"]), replay.grid(made["bodies"])
    r = replay.numbers(case["in"]["random"][PARTICIPANTS[0]]["r"])
    w = int(case["in"]["random"][PARTICIPANTS[0]]["w"], 16)
    public = (bytes.fromhex(case["key"]["fp"]), bytes.fromhex(made["ctx"]), replay.numbers(case["key"]["H"]))

    def proved(headers: list[int], bodies: list[list[int]], places: str) -> list[tuple[str, object]]:
        """The changes of a sender who makes the proof anew; of c and the bodies only those in `places`."""
        found = textbook.prove_input(key, *public, headers, bodies, r, w)
        ours = [("c", hexa.small(headers))] if "c" in places else []
        ours += [("bodies", hexa.grid(bodies))] if "b" in places else []
        small = [("T", hexa.small([found.t_base])[0]), ("T'", hexa.small([found.t_bodies])[0])]
        return [*ours, *small, ("z", hexa.z(found.z)), ("bodies_hash", found.bodies_hash.hex())]

    spoiled = [[2 * bodies[0][0] % modulus, *bodies[0][1:]], *bodies[1:]]
    z = int(made["z"], 16)
    shorter, other = made["c"][:-1], case["inputs"][PARTICIPANTS[1]]
    doubled = headers[0] * 2 % key.n
    return [
        ("a header too few", "count", [("c", shorter)]),
        ("a header of 1", "canonical", [("c", [*hexa.small([1]), *made["c"][1:]])]),
        ("a header of n", "canonical", [("c", [*hexa.small([key.n]), *made["c"][1:]])]),
        ("a header twice", "repeated header", [("c", [made["c"][0], made["c"][0], *made["c"][2:]])]),
        ("another's header", "headers equation", [("c", [other["c"][0], *made["c"][1:]])]),
        ("twice a header, proof anew", "headers equation", proved([doubled, *headers[1:]], bodies, "c")),
        ("T another", "headers equation", [("T", other["T"])]),
        ("T' of n", "canonical", [("T'", hexa.small([key.n])[0])]),
        ("z one higher", "headers equation", [("z", hexa.z(z + 1))]),
        ("z too long", "z", [("z", hexa.z(z % 2**512 + 2 ** (textbook.nonce_bits(key) + 1)))]),
        ("another's proof", "headers equation", [(name, other[name]) for name in ("c", "T", "T'", "z")]),
        ("a body of n", "unit", [("bodies", [[*hexa.large([key.n]), *made["bodies"][0][1:]], *made["bodies"][1:]])]),
        ("a body of n^2", "canonical", [("bodies", [[f"{modulus:x}", *made["bodies"][0][1:]], *made["bodies"][1:]])]),
        ("a block of bodies too few", "count", [("bodies", made["bodies"][:-1])]),
        ("another's bodies", "bodies hash", [("bodies", other["bodies"])]),
        ("twice a body, proof anew", "bodies equation", proved(headers, spoiled, "b")),
        ("a lift with a part of 1+n", "lift check", [("C", _times(key, made["C"], 0, 1 + key.n))]),
        ("a lift of 0", "canonical", [("C", [*hexa.large([0]), *made["C"][1:]])]),
    ]


def _times(key: Key, row: list[str], place: int, factor: int) -> list[str]:
    """A row with one number multiplied."""
    found = replay.numbers(row)
    found[place] = found[place] * factor % textbook.top(key)
    return Hexadecimal(key).large(found)


def _refused_partials(case: Case) -> list[Spoiled]:
    """(name, step, changes in the first answer of the first quorum)."""
    key, answer = replay.key_of(case), case["partials"][LABELS[0]]["0"]
    hexa, made, lifts = Hexadecimal(key), replay.grid(answer["D"]), replay.numbers(case["product"]["L"])
    public = (bytes.fromhex(case["key"]["fp"]), bytes.fromhex(answer["ctx"]), 0, lifts)
    x, w = replay.numbers(answer["x"]), int(case["in"]["partial_w"], 16)

    def proved(made: list[list[int]], x: list[int]) -> list[tuple[str, object]]:
        """The changes of a holder who makes the proof anew."""
        found = textbook.prove_partial(key, *public, made, x, w)
        small, big = hexa.small([found.t_base])[0], hexa.large([found.t_lifts])[0]
        return [("D", hexa.grid(made)), ("T1", small), ("T2", big), ("z", hexa.z(found.z))]

    factor = textbook.embed(key, 7)
    offset = [[made[0][0] * factor % textbook.top(key), *made[0][1:]], *made[1:]]
    squared = [[d * d % textbook.top(key) for d in row] for row in made]
    longer = [v + 1 for v in x]
    z = int(answer["z"], 16)
    return [
        ("a row of partials twice", "count", [("D", [*answer["D"], answer["D"][0]])]),
        ("a partial of 0", "canonical", [("D", [[*hexa.large([0]), *answer["D"][0][1:]], *answer["D"][1:]])]),
        ("a partial with a part of 1+n", "shares equation", [("D", hexa.grid(offset))]),
        ("a partial with a part of 1+n, proof anew", "partials equation", proved(offset, x)),
        ("another share", "shares equation", proved(textbook.partial(key, lifts, longer, len(made[0])), longer)),
        ("another share, proof of the right one", "partials equation", proved(squared, x)),
        ("z one higher", "shares equation", [("z", hexa.z(z + 1))]),
        ("z too long", "z", [("z", hexa.z(z % 2**512 + 2 ** (textbook.nonce_bits(key) + 1)))]),
        ("T1 of 1", "canonical", [("T1", hexa.small([1])[0])]),
        ("T2 of n", "unit", [("T2", hexa.large([key.n])[0])]),
    ]


def _refused_sums(case: Case) -> list[Spoiled]:
    """(name, step, changes in the multiplied bodies)."""
    key, rows = replay.key_of(case), case["product"]["bodies"]
    slot, first = 2 ** (8 * case["layout"]["sb"]), int(case["out"]["plaintexts"][0][0], 16)
    last = [("bodies", [*rows[:-1], _times(key, rows[-1], -1, textbook.embed(key, m))]) for m in (1, key.n**key.s - 1)]
    above = textbook.embed(key, slot - 1 - first % slot)
    return [
        ("twice a body", "body and partials differ", [("bodies", [_times(key, rows[0], 0, 2), *rows[1:]])]),
        ("1 in the padding", "padding", last[:1]),
        ("-1 in the padding", "top bits", last[1:]),
        ("a slot of ones", "slot bound", [("bodies", [_times(key, rows[0], 0, above), *rows[1:]])]),
    ]


def refused() -> list[Case]:
    """Every way to spoil an attempt, with the step that notices."""
    long, short = _all()[0], _all()[3]
    key, zeros = replay.key_of(long), bytes(32).hex()
    sender, answer = ["inputs", PARTICIPANTS[0]], ["partials", LABELS[0], "0"]
    lifts = _times(key, long["product"]["L"], 1, 1 + key.n)
    rows: list[tuple[Case, list[str], list[str], list[Spoiled]]] = [
        (long, ["input", PARTICIPANTS[0]], sender, _refused_inputs(long)),
        (long, ["input", PARTICIPANTS[0]], ["in"], [("under another T0", "headers equation", [("T0", zeros)])]),
        (long, ["input", PARTICIPANTS[0]], ["in"], [("of another length", "headers equation", [("d", 399)])]),
        (long, ["input", PARTICIPANTS[0]], ["key"], [("under another key", "headers equation", [("fp", zeros)])]),
        (long, ["lifts"], ["product"], [("a product with a part of 1+n", "lift check", [("L", lifts)])]),
        (short, ["partial", LABELS[0], "0"], answer, _refused_partials(short)),
        (short, ["partial", LABELS[0], "0"], ["in"], [("under another T3", "shares equation", [("T3", zeros)])]),
        (long, ["open", LABELS[0]], ["product"], _refused_sums(long)),
    ]
    cases: list[Case] = []
    for case, check, path, spoiled in rows:
        old = functools.reduce(lambda where, name: where[name], path, case)
        for name, step, fields in spoiled:
            changes = [change for field, new in fields for change in _least(old[field], new, [*path, field])]
            assert replay.refused_at(replay.changed(case, changes), check) == step, name
            title = f"{check[0]}: {name}"
            cases.append({"name": title, "of": case["name"], "check": check, "changes": changes, "fails_at": step})
    return cases


def _least(old: object, new: object, path: list[object]) -> list[Case]:
    """The changes that turn `old` into `new`, as deep in lists as they can stand."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [change for i, (was, now) in pairs for change in _least(was, now, [*path, i])]
    return [] if old == new else [{"at": path, "value": new}]
