"""What other systems get wrong and Fedveil must not, by the numbers that the tests carry in their names. Rows
with files of their own: R1, R6 test_rivals_masks; R2, R3, R8, R9, R13, R22 test_dropouts; R4 test_attacks_round; R5
test_repository; R9, R11 test_rivals_private; R12 test_dp_distributions; R14 test_edges; R15 test_five_commands; R17
test_masking_risk; R18, R19 test_rival_consent; R21 test_wheel; R23 test_demo.
"""

import ast
import pathlib
import tracemalloc

import numpy as np
import pytest
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks
from fedveil_common.masking.opening import Unmasking
from fedveil_common.masking.ring import Ring, zeros
from fedveil_common.ringfile import leaf_length
from fedveil_common.secret import Seed
from fedveil_coordinator.opening import open_leaves

ROOT = pathlib.Path(__file__).parent.parent
ROOTS = ("common", "coordinator", "participant", "simulation", "cli")

STREAMS = {
    "common/fedveil_common/crypto/prg.py": "masks",
    "common/fedveil_common/initial.py": "the first model's draws",
}
STREAMS["participant/fedveil_participant/training/descent.py"] = "the order of the rows"
"""Where a bare cipher may be used: as a stream of numbers, never on a message."""


def bare_ciphers(tree: ast.AST) -> list[str]:
    """Uses of a cipher without authentication."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="Cipher")):
                found.append("Cipher")
            case ast.Attribute(value=ast.Name(id="modes"), attr=mode):
                found.append(mode)
            case ast.Attribute(attr="decryptor" as name):
                found.append(name)
            case _:
                pass
    return found


def test_rival_R24_messages_are_encrypted_only_with_authentication() -> None:
    seen = {}
    for root in ROOTS:
        for path in sorted((ROOT / root).rglob("*.py")):
            if found := bare_ciphers(ast.parse(path.read_text(encoding="utf-8"))):
                seen[path.relative_to(ROOT).as_posix()] = set(found)
    assert set(seen) == set(STREAMS)
    assert all(found == {"Cipher", "CTR"} for found in seen.values()), "a counter stream, and nothing is deciphered"


@pytest.mark.parametrize(
    "text", ["Cipher(a, modes.CBC(b)).encryptor()", "c.decryptor()", "modes.ECB()", "Cipher(ChaCha20(k, n), None)"]
)
def test_a_bare_cipher_is_found(text: str) -> None:
    assert bare_ciphers(ast.parse(text))


BITS = 24


def peak_of_opening(members: int, length: int) -> int:
    """Most bytes held while a sum of `members` inputs is opened; the inputs are made as they are read."""
    orgs = tuple(OrgId(f"org-{index:02}") for index in range(members))

    def read(org: OrgId, index: int) -> Ring:
        return zeros(leaf_length(length, index), BITS) + np.uint32(orgs.index(org) + 1)

    keys = tuple(bytes([index]) * 32 for index in range(members))
    residual = tuple(masks.MaskKey(Seed(key), subtract=True) for key in keys)
    seen = 0

    def write(index: int, data: bytearray) -> None:
        nonlocal seen
        seen += len(data)

    tracemalloc.start()
    try:
        unmasking = Unmasking(bytes(32), length, BITS, orgs, masks.opening_keys(keys, residual))
        open_leaves(unmasking, read, write)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen >= length * BITS // 8
    return peak


def test_rival_R20_memory_does_not_grow_with_the_number_of_participants() -> None:
    few, many = peak_of_opening(4, 300_000), peak_of_opening(64, 300_000)
    assert many < 1.1 * few + 64 * 1024  # a name and a key for each, no vector
    assert peak_of_opening(4, 3_000_000) < 1.1 * few, "a few chunks, whatever the length"
