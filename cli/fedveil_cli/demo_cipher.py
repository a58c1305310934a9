"""The demo under protection paillier: what its coordinator received, who opened each sum, and what an attacker reads.

Promise: everything here is computed from bytes: from the copies that the coordinator's process wrote down, and from the
rounds that it publishes, which are verified as `fedveil verify` does. The attacker knows what is public, the key above
all, and tries every randomness of so many bits; what is left after that, it reads as if it were plain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gmpy2
import numpy as np
from fedveil_common import layout as layouts
from fedveil_common import private_sum
from fedveil_common.errors import IntegrityError, PeerError
from fedveil_common.ids import RunId
from fedveil_common.messages import Purpose
from fedveil_common.paillier import block_leaves
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape, shape_of
from fedveil_common.plan import Plan
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_cli import demo_coordinator, verifying
from fedveil_cli.world import World


@dataclass(frozen=True, slots=True)
class Uploads:
    """What the coordinator received in a run after TLS. Bytes of all inputs, and of all answers, together."""

    inputs: int
    input_bytes: int
    ciphertexts: int
    answers: int
    answer_bytes: int

    def to_json(self) -> dict[str, int]:
        """For `--json`."""
        return {
            "inputs": self.inputs,
            "input_bytes": self.input_bytes,
            "ciphertexts": self.ciphertexts,
            "partial_decryptions": self.answers,
            "partial_decryption_bytes": self.answer_bytes,
        }

    def line(self) -> str:
        """For a person."""
        return (
            f"{self.inputs} inputs ({self.ciphertexts} ciphertexts with their headers and lifts, {self.input_bytes} "
            f"bytes) and {self.answers} answers of partial decryptions ({self.answer_bytes} bytes); every number in "
            "them is a unit of the key's group, and there is nothing else"
        )


def shape_in(plan: Plan, key: PublicKey, purpose: Purpose) -> RoundShape:
    """How the vector of a purpose lies in ciphertexts, when everybody takes part: that is what the demo's plan asks."""
    length = layouts.layout_for(plan, purpose, 0).length
    members = plan.cohort.min_participants
    return shape_of(key.terms, length, members, private_sum.expected_bits(plan, members))


def uploads(folder: Path, plan: Plan, key: PublicKey, run_id: str, purposes: Mapping[int, Purpose]) -> Uploads:
    """Every copy of the run in `folder`, read number by number. `purposes`: of its rounds.

    IntegrityError `demo_upload_differs` for one that is anything but whole blocks of canonical units.
    """
    inputs = input_bytes = ciphertexts = answers = answer_bytes = 0
    for path in sorted(folder.glob(f"{run_id}.*")):
        copy = demo_coordinator.Copy.of(path.name)
        shape = shape_in(plan, key, purposes[copy.round])
        data = path.read_bytes()
        try:
            if copy.quorum:
                answers, answer_bytes = answers + 1, answer_bytes + len(data)
                for leaf in _leaves(data, shape.partial_leaf_bytes, shape):
                    key.group.check_long(block_leaves.read_row(leaf, shape), "partial decryption")
            else:
                inputs, input_bytes = inputs + 1, input_bytes + len(data)
                for leaf in _leaves(data, shape.input_leaf_bytes, shape):
                    block = block_leaves.read_block(leaf, shape)
                    key.group.check_short([block.header], "header")
                    key.group.check_long([block.lift, *block.bodies], "ciphertext")
                    ciphertexts += len(block.bodies)
        except PeerError as error:
            raise IntegrityError("demo_upload_differs", f"the upload {path.name}: {error.what}") from error
    return Uploads(inputs, input_bytes, ciphertexts, answers, answer_bytes)


def _leaves(data: bytes, size: int, shape: RoundShape) -> list[bytes]:
    if len(data) != size * shape.blocks.count:
        raise IntegrityError(
            "demo_upload_differs", f"an upload of {len(data)} bytes, not {shape.blocks.count} * {size}"
        )
    return [data[at : at + size] for at in range(0, len(data), size)]


def opened_by(home: Path, run_id: str, rounds: Sequence[int], world: World) -> dict[int, tuple[str, ...]]:
    """Whose answers opened each round: `fedveil verify` of all of them, with the operator's `home`."""
    with verifying.asking(home, None, world) as (questions, chain, fingerprint):
        seed = Seed(world.entropy.take(32))
        found = {
            number: verifying.check(questions.shown(RunId(run_id), number, chain), fingerprint, None, seed)
            for number in rounds
        }
    return {number: tuple(map(str, one.holders)) for number, one in found.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What an upload says to an attacker: int64, shape (length,). `guessed`: it found the randomness of every block."""

    integers: NDArray[np.int64]
    guessed: bool


def read(upload: bytes, plan: Plan, key: PublicKey, bits: int) -> Reading:
    """The slots of a train input, each block freed of its randomness if that has at most `bits` bits (even); where it
    has more, as they lie.
    """
    shape, group = shape_in(plan, key, Purpose.TRAIN), key.group
    plaintexts: list[int] = []
    guesses = []
    for leaf in _leaves(upload, shape.input_leaf_bytes, shape):
        block = block_leaves.read_block(leaf, shape)
        guess = _exponent_of(block.header, key, bits)
        guesses.append(guess)
        for body, mask in zip(block.bodies, key.lifted, strict=False):
            freed = body if guess is None else body * gmpy2.powmod(mask, -guess, group.cipher) % group.cipher
            plaintexts.append(freed // group.n)
    return Reading(_slots(plaintexts, shape), None not in guesses)


def _exponent_of(header: int, key: PublicKey, bits: int) -> int | None:
    """The r below 2^bits with g^r = header; None if there is none. Baby steps and giant steps (Shanks), 2^(bits/2) of
    each.
    """
    n, step = key.group.n, 1 << (bits // 2)
    babies: dict[int, int] = {}
    power = gmpy2.mpz(1)
    for small in range(step):
        babies[power] = small
        power = power * key.g % n
    back, left = gmpy2.invert(power, n), header
    for large in range(step):
        if left in babies:
            return large * step + babies[left]
        left = left * back % n
    return None


def _slots(plaintexts: Sequence[int], shape: RoundShape) -> NDArray[np.int64]:
    """As `Slots.unpack_part`, but of numbers that need not be plaintexts: their lowest bits, whatever they are."""
    slots = shape.slots
    width = slots.per_plaintext * slots.slot_bytes
    data = b"".join(int(one % (1 << (8 * width))).to_bytes(width, "little") for one in plaintexts)
    words = np.zeros((len(data) // slots.slot_bytes, 8), np.uint8)
    words[:, : slots.slot_bytes] = np.frombuffer(data, np.uint8).reshape(-1, slots.slot_bytes)
    return words.view("<u8").reshape(-1)[: slots.length].astype(np.int64) - np.int64(slots.offset)
