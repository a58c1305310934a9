"""The second implementation of protection `paillier` by itself: sums are exact for every quorum, nothing forged passes.

Small moduli with known factors make it fast, and let the owner's own decryption say what a body holds. The committed
vectors, under the real modulus, are read as a receiver would.
"""

import json
import math
import pathlib
from typing import Any

import pytest

from tests.reference import paillier_textbook as textbook
from tests.reference import replay_paillier as replay
from tests.reference.cases_paillier import number, values
from tests.reference.paillier_textbook import Key, Refused

P, Q = 2**521 - 1, 2**607 - 1
CAP, TAIL, NOISE_TAIL = 30_000, 500, 4_000
T0, T3 = bytes([1]) * 32, bytes([2]) * 32
VECTORS: dict[str, Any] = json.loads((pathlib.Path(__file__).parent / "vectors" / "paillier.json").read_text("ascii"))
ATTEMPTS = {case["name"]: case for case in VECTORS["attempts"]}


class Federation:
    """Holders, keys and two inputs of `dimension` coordinates."""

    def __init__(self, s: int, holders: int, threshold: int, keys: int, dimension: int) -> None:
        ids = [b"org-%03d" % i for i in range(holders)]
        self.key = Key(b"federation", b"key", P * Q, s, keys, 256, ids, threshold, 4)
        self.seeds = {a: bytes([i]) * 32 for i, a in enumerate(textbook.excluded_sets(self.key))}
        self.lists = textbook.parts(self.key, self.seeds)
        self.keys = textbook.encryption_keys(self.key, textbook.public(self.key, self.lists))
        self.fp = textbook.fingerprint(self.key, self.lists)
        self.dimension, self.big = dimension, textbook.top(self.key)
        self.slot = textbook.slot_bytes(2, CAP, TAIL, NOISE_TAIL)
        _, self.count, self.width = textbook.blocks(self.key, dimension, self.slot)
        self.generator = textbook.lift(self.key, textbook.base(self.key))
        self.values = [values(f"test/{i}", dimension, CAP + TAIL) for i in range(2)]
        self.r = [[number(f"test/r/{i}/{b}", 256) for b in range(self.count)] for i in range(2)]
        self.weights = [number(f"test/weights/{b}", 128) | 1 for b in range(self.count)]
        self.nonce = number("test/w", textbook.nonce_bits(self.key))
        self.plain = [textbook.pack(self.key, row, CAP + TAIL, self.slot) for row in self.values]
        made = [
            textbook.encrypt(self.key, self.generator, self.keys, plain, r)
            for plain, r in zip(self.plain, self.r, strict=True)
        ]
        self.headers, self.lifts, self.bodies = ([one[part] for one in made] for part in range(3))

    def context(self, i: int) -> bytes:
        return textbook.input_context(T0, b"org-%03d" % i, self.dimension, self.count, self.width)

    def receive(self, i: int) -> textbook.Header:
        """Proves and checks input number `i` as it now is."""
        named = (self.key, self.fp, self.context(i))
        header = textbook.prove_input(*named, self.keys, self.headers[i], self.bodies[i], self.r[i], self.nonce)
        textbook.check_header(*named, header, self.count)
        textbook.check_bodies(*named, self.keys, header, self.bodies[i], self.width)
        textbook.check_lifts(self.key, self.headers[i], self.lifts[i], self.weights)
        return header

    def products(self) -> tuple[list[int], list[int], list[list[int]]]:
        headers = textbook.multiply(self.headers, self.key.n)
        lifts = textbook.multiply(self.lifts, self.big)
        return headers, lifts, textbook.multiply_grids(self.bodies, self.big)

    def answer(self, quorum: tuple[int, ...], j: int, *, negated: bool = False) -> list[list[int]]:
        """Checked partials of one holder, who knows no more seeds than its own."""
        headers, lifts, _ = self.products()
        textbook.check_lifts(self.key, headers, lifts, self.weights)
        x = textbook.share(self.key, {a: seed for a, seed in self.seeds.items() if j not in a}, quorum, j)
        made = textbook.partial(self.key, lifts, x, self.width)
        if negated:
            made[0][0] = self.big - made[0][0]
        named = (self.key, self.fp, textbook.partial_context(T3, quorum, j), j, lifts, made)
        proof = textbook.prove_partial(*named, x, self.nonce)
        joined = textbook.public_share(self.key, self.lists, quorum, j)
        textbook.check_partial(*named, joined, proof, self.width)
        return made

    def opened(self, answers: list[list[list[int]]]) -> list[int]:
        plain = textbook.combine(self.key, self.products()[2], answers)
        return textbook.unpack(self.key, plain, self.dimension, self.slot, 2, CAP, TAIL, 0)

    def total(self) -> list[int]:
        return [sum(column) for column in zip(*self.values, strict=True)]


def federation(s: int = 1) -> Federation:
    """Three holders of whom two open; three blocks of two, one of the six ciphertexts is padding."""
    return Federation(s, 3, 2, 2, 5 * ((s * 1128 - 1) // 24) - 3)


def step(refusing: pytest.ExceptionInfo[Refused]) -> str:
    return refusing.value.step


@pytest.mark.parametrize("s", [1, 2, 3])
def test_every_quorum_opens_the_exact_sum(s: int) -> None:
    world = federation(s)
    assert (world.count, world.width, world.plain[0][2][1]) == (3, 2, 0)
    for i in range(2):
        world.receive(i)
    for quorum in textbook.subsets(3, 2):
        assert world.opened([world.answer(quorum, j) for j in quorum]) == world.total()


def test_four_of_five_open_and_three_do_not() -> None:
    world = Federation(1, 5, 4, 3, 30)
    assert len(world.seeds) == 10
    for quorum in textbook.subsets(5, 4):
        answers = [world.answer(quorum, j) for j in quorum]
        assert world.opened(answers) == world.total()
        with pytest.raises(Refused) as refusing:
            world.opened(answers[1:])
        assert step(refusing) == "body and partials differ"


@pytest.mark.parametrize("s", [1, 2, 3])
def test_a_body_is_a_ciphertext_that_the_owner_of_the_factors_opens(s: int) -> None:
    world = federation(s)
    order = math.lcm(P - 1, Q - 1)
    for rows, plain in zip(world.bodies[0], world.plain[0], strict=True):
        for body, m in zip(rows, plain, strict=True):
            power = textbook.logarithm(world.key, pow(body, order, world.big))
            assert power * pow(order, -1, world.key.n**s) % world.key.n**s == m


@pytest.mark.parametrize("s", [1, 2, 3])
def test_powers_of_1_plus_n_and_their_logarithms(s: int) -> None:
    key = federation(s).key
    for m in (0, 1, 2, 3, 4, 2**200, key.n - 1, key.n**s - 1, key.n**s // 3):
        assert textbook.embed(key, m) == pow(1 + key.n, m, textbook.top(key))
        assert textbook.logarithm(key, textbook.embed(key, m)) == m


@pytest.mark.parametrize("s", [1, 3])
def test_turned_signs_leave_the_sum_exact(s: int) -> None:
    """-body, -C_b, header n-c with the lift of c, -D; odd weights keep the signs."""
    world = federation(s)
    world.bodies[0][0][0] = world.big - world.bodies[0][0][0]
    world.lifts[0][1] = world.big - world.lifts[0][1]
    world.receive(0)
    world.headers[1][2] = world.key.n - world.headers[1][2]
    world.receive(1)
    world.lifts[1][0] = world.big - world.lifts[1][0]
    for quorum, negated in (((0, 1), False), ((1, 2), True)):
        answers = [world.answer(quorum, j, negated=negated and j == quorum[0]) for j in quorum]
        assert world.opened(answers) == world.total()


def test_in_the_committed_attempt_with_turned_signs_every_sign_counts() -> None:
    case = ATTEMPTS["signs and noise 11"]
    inputs, answer = case["inputs"], case["partials"]["01"]["0"]
    first, second = inputs["org-001"], inputs["org-002"]
    turned = {sender: random["turned"] for sender, random in case["in"]["random"].items()}
    assert turned == {"org-001": ["C", "bodies"], "org-002": ["c"], "coordinator": ["C"]}
    met = [first["e"], first["sigma"], second["e"], answer["rho"], answer["e"], case["in"]["weights"]]
    assert all(int(row[0], 16) % 2 for row in met)


def test_a_small_batch_of_lifts_may_be_made_by_the_holder_itself() -> None:
    world = federation()
    headers, lifts, _ = world.products()
    assert [textbook.lift(world.key, c) for c in headers] == lifts


def test_a_lift_with_a_part_of_1_plus_n_is_refused() -> None:
    world = federation(2)
    for a in (1, world.key.n, 2**900):
        world.lifts[0][0] = world.lifts[0][0] * textbook.embed(world.key, a) % world.big
        for refused in (lambda: world.receive(0), lambda: world.answer((0, 1), 0)):
            with pytest.raises(Refused) as refusing:
                refused()
            assert step(refusing) == "lift check"


def test_a_header_that_cancels_another_is_refused() -> None:
    """Who sends the inverse of another's header would open the sum without it."""
    world = federation()
    world.headers[0] = [pow(c, -1, world.key.n) for c in world.headers[1]]
    with pytest.raises(Refused) as refusing:
        world.receive(0)
    assert step(refusing) == "headers equation"


def test_no_body_goes_into_another_block_or_place() -> None:
    for other in ((0, 1), (1, 0)):
        world = federation()
        rows = world.bodies[0]
        rows[0][0], rows[other[0]][other[1]] = rows[other[0]][other[1]], rows[0][0]
        with pytest.raises(Refused) as refusing:
            world.receive(0)
        assert step(refusing) == "bodies equation"


def test_the_fingerprint_depends_on_the_grouping() -> None:
    """(5, 4, K = 32) is not (4, 2, K = 80), although both are the same flat list."""
    world = federation()
    flat = [number(f"h/{i}", 1100) for i in range(320)]
    prints = set()
    for holders, threshold, keys in ((5, 4, 32), (4, 2, 80)):
        key = world.key._replace(holders=[bytes([i]) for i in range(holders)], threshold=threshold, keys=keys)
        sets = textbook.excluded_sets(key)
        prints.add(textbook.fingerprint(key, {a: flat[i * keys :][:keys] for i, a in enumerate(sets)}))
        assert len(sets) * keys == 320
    assert len(prints) == 2


def test_every_named_part_of_the_key_is_in_the_fingerprint_and_in_the_root() -> None:
    world = federation()
    protocol_keys = [bytes([i]) * 32 for i in range(3)]
    changes: dict[str, Any] = {
        "federation": b"federatio",
        "key_id": b"nkey",
        "n": world.key.n + 2,
        "s": 2,
        "exponent_bits": 257,
        "holders": [b"org-000", b"org-001", b"org-003"],
    }
    prints, roots = {world.fp}, {textbook.root(world.key, protocol_keys)}
    for name, value in changes.items():
        other = world.key._replace(**{name: value})
        prints.add(textbook.fingerprint(other, world.lists))
        roots.add(textbook.root(other, protocol_keys))
    roots.add(textbook.root(world.key, protocol_keys[::-1]))
    later = world.key._replace(epoch=5)
    assert textbook.root(later, protocol_keys) in roots
    prints.add(textbook.fingerprint(later, world.lists))
    assert len(prints) == len(roots) == len(changes) + 2


def test_a_repeated_part_of_the_key_is_refused() -> None:
    world = federation()
    first, second, *_ = world.lists
    for value in (world.lists[first][0], textbook.base(world.key)):
        lists = {**world.lists, second: [value, world.lists[second][1]]}
        with pytest.raises(Refused) as refusing:
            textbook.public(world.key, lists)
        assert step(refusing) == "repeated h"


def test_slots_hold_the_ends_and_nothing_beyond() -> None:
    key = federation().key
    for value in (11, -11):
        with pytest.raises(Refused) as refusing:
            textbook.pack(key, [value], 10, 1)
        assert step(refusing) == "value range"
    assert textbook.pack(key, [-10, 10, 1], 10, 1) == [[0 + (20 << 8) + (11 << 16)]]
    assert [textbook.slot_bytes(n, 32_767, 0, 0) for n in (1, 2, 256, 257)] == [2, 3, 3, 4]
    assert textbook.slot_bytes(0, 0, 0, 0) == 1
    real = key._replace(n=textbook.RSA_2048)
    assert [textbook.slots(real._replace(s=s), 3) for s in (1, 2, 3)] == [85, 170, 255]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_receiver_accepts_the_committed_attempt(name: str) -> None:
    case = ATTEMPTS[name]
    for sender in case["inputs"]:
        assert replay.refused_at(case, ["input", sender]) is None, sender
    assert replay.refused_at(case, ["lifts"]) is None
    first = min(case["partials"])
    for holder in case["partials"][first]:
        assert replay.refused_at(case, ["partial", first, holder]) is None, holder
    assert replay.opened(case, first) == [int(value) for value in case["out"]["sum"].split()]


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_a_receiver_refuses_the_committed_forgery(case: dict[str, Any]) -> None:
    spoiled = replay.changed(ATTEMPTS[case["of"]], case["changes"])
    assert replay.refused_at(spoiled, case["check"]) == case["fails_at"]


def test_the_committed_vectors_are_small() -> None:
    assert (pathlib.Path(__file__).parent / "vectors" / "paillier.json").stat().st_size < 400_000
    assert {case["in"]["s"] for case in ATTEMPTS.values()} == {1, 2, 3}
