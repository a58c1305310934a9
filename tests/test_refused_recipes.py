"""The well-known bad recipes of docs/decisions/0029: each weakness shown at work, and its absence in ours.

Laplace noise on floats has its own test (`test_dp_distributions`, R12).
"""

import base64
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from fedveil_common.crypto import prg
from fedveil_common.errors import FedveilError
from fedveil_common.modelfile import read_model
from fedveil_common.sealing import files, header, recipients
from fedveil_common.sealing.header import CHUNK, Subject
from fedveil_common.secret import Seed
from fedveil_participant.masking import tokens
from fedveil_simulation.ports import SeededEntropy

SUBJECT = Subject("model", "hospitals-1", "sepsis")
OURS = X25519PrivateKey.from_private_bytes(b"\1" * 32)
RSA = rsa.generate_private_key(65_537, 3072)
MODEL = b"weights " * 2 * (CHUNK // 8)
"""Two chunks of one block of 16 bytes, over and over."""


def sealed(folder: Path, data: bytes, draw: int = 1) -> bytes:
    out = folder / "sealed"
    wrap = lambda key: recipients.wrap_for([OURS.public_key()], key, SUBJECT)  # noqa: E731
    files.seal(io.BytesIO(data), len(data), out, SUBJECT, wrap, SeededEntropy(draw, "recipes"))
    return out.read_bytes()


def code_of_opening(folder: Path, data: bytes) -> str:
    out = folder / "opened"
    with pytest.raises(FedveilError) as caught:
        files.unseal(io.BytesIO(data), out, lambda found: recipients.unwrap(found, OURS), lambda subject: None)
    assert not out.exists()
    return caught.value.code


def distinct_blocks(data: bytes) -> int:
    return len({data[at : at + 16] for at in range(0, len(data) - 15, 16)})


def test_ecb_shows_which_blocks_are_equal(tmp_path: Path) -> None:
    ecb = Cipher(algorithms.AES(bytes(range(32))), modes.ECB()).encryptor().update(MODEL)
    assert distinct_blocks(ecb) == 1
    ours = sealed(tmp_path, MODEL)
    _, start = header.parse(io.BytesIO(ours))
    body = ours[start:]
    assert distinct_blocks(body) == len(body) // 16
    one, two = body[:CHUNK], body[CHUNK + 16 : 2 * CHUNK + 16]
    assert one != two, "equal chunks differ too"


def test_cbc_without_authentication_lets_anybody_change_the_plaintext(tmp_path: Path) -> None:
    key, vector = bytes(range(32)), bytes(16)
    plain = b'{"stage":"draft"' + b',"n":1}         '
    cbc = bytearray(Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor().update(plain))
    wanted = b',"n":9}         '
    for at in range(16):
        cbc[at] ^= plain[16 + at] ^ wanted[at]
    opened = Cipher(algorithms.AES(key), modes.CBC(vector)).decryptor().update(bytes(cbc))
    assert opened[16:] == wanted, "changed at will without the key, and nothing notices"
    ours = sealed(tmp_path, plain)
    _, start = header.parse(io.BytesIO(ours))
    for at in range(start, len(ours)):
        changed = ours[:at] + bytes([ours[at] ^ 1]) + ours[at + 1 :]
        assert code_of_opening(tmp_path, changed) == "sealed_chunk_damaged"


def test_des_has_keys_under_which_twice_is_nothing() -> None:
    """DES by triple DES with one key thrice; 56 bits would be searched in hours, which is no test."""
    weak = b"\x01" * 8
    des = Cipher(TripleDES(weak * 3), modes.ECB())
    assert des.encryptor().update(des.encryptor().update(b"8 bytes!")) == b"8 bytes!"
    for source in Path(header.__file__).parents[2].rglob("*.py"):
        words = source.read_text()
        assert not any(bad in words for bad in ("TripleDES", "modes.ECB", "modes.CBC", "ARC4", "Blowfish")), source


def test_textbook_rsa_multiplies_and_repeats(tmp_path: Path) -> None:
    public, private = RSA.public_key().public_numbers(), RSA.private_numbers()
    amount = 1000
    raw = pow(amount, public.e, public.n)
    assert raw == pow(amount, public.e, public.n), "the same text is the same ciphertext: it can be guessed"
    doubled = raw * pow(2, public.e, public.n) % public.n
    assert pow(doubled, private.d, public.n) == 2 * amount, "doubled without the private key"
    data_key = Seed(bytes(range(32)))
    (one,), (two,) = (recipients.wrap_for([RSA.public_key()], data_key, SUBJECT) for _ in range(2))
    assert one.wrapped != two.wrapped
    made = header.make(data_key, SUBJECT, bytes(16), 0, (one,))
    assert recipients.unwrap(made, RSA).expose() == data_key.expose()
    number = int.from_bytes(one.wrapped, "big") * pow(2, public.e, public.n) % public.n
    forged = header.Slot(one.way, one.recipient, number.to_bytes(384, "big"))
    with pytest.raises(FedveilError) as caught:
        recipients.unwrap(header.make(data_key, SUBJECT, bytes(16), 0, (forged,)), RSA)
    assert caught.value.code == "sealed_header_damaged"


def test_a_model_in_the_payload_of_a_token_is_signed_and_not_secret(tmp_path: Path) -> None:
    weights = np.arange(1000, dtype="<f4").tobytes()
    head = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps({"model": base64.b64encode(weights).decode()}).encode()).rstrip(b"=")
    token = head + b"." + body + b"." + base64.urlsafe_b64encode(bytes(32)).rstrip(b"=")
    read = token.split(b".")[1]
    payload = json.loads(base64.urlsafe_b64decode(read + b"=" * (-len(read) % 4)))
    assert base64.b64decode(payload["model"]) == weights, "read without any key"
    ours = sealed(tmp_path, weights)
    for shape in (weights, base64.b64encode(weights), base64.urlsafe_b64encode(weights)):
        assert all(shape[at : at + 16] not in ours for at in range(0, len(shape) - 15, 4))


def test_one_fixed_key_and_nonce_give_the_difference_of_two_models(tmp_path: Path) -> None:
    first, second = (np.full(64, value, dtype="<f8").tobytes() for value in (1.5, 2.5))
    fixed = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16)))
    one, two = (fixed.encryptor().update(each) for each in (first, second))
    difference = bytes(a ^ b for a, b in zip(first, second, strict=True))
    assert bytes(a ^ b for a, b in zip(one, two, strict=True)) == difference, "the key is not needed"
    ours = []
    for draw, each in ((2, first), (3, second)):
        data = sealed(tmp_path, each, draw)
        _, start = header.parse(io.BytesIO(data))
        ours.append(data[start : start + len(each)])
    assert bytes(a ^ b for a, b in zip(*ours, strict=True)) != difference
    same = [sealed(tmp_path, first, draw) for draw in (4, 5)]
    assert len({header.parse(io.BytesIO(each))[0].commitment for each in same}) == 2, "a data key for each file"


def test_masks_of_random_digits_leave_the_value_in_sight() -> None:
    """Digits added to the digits, without wrapping around a ring: sums of small numbers tell large ones apart."""
    draw = np.random.default_rng(1)
    values = np.array([12, 950_000] * 5_000)
    masked = values + draw.integers(0, 1000, values.shape)
    assert float(np.mean((masked > 500_000) == (values > 500_000))) == 1.0
    assert np.corrcoef(values, masked)[0, 1] > 0.999
    assert abs(float(masked[::2].mean()) - 499.5 - 12) < 20, "and many masks average out"
    stream = prg.words(hashlib.sha256(b"pair").digest(), 0, len(values))
    ours = values.astype(np.uint32) + stream
    assert abs(np.corrcoef(values, ours)[0, 1]) < 0.06, "of 10,000 words: 6 deviations"
    counts = np.bincount(ours >> 24, minlength=256)
    assert float(((counts - counts.mean()) ** 2 / counts.mean()).sum()) < 255 + 6 * np.sqrt(2 * 255)


def test_a_plain_hash_of_an_identifier_is_found_by_trying_them_all() -> None:
    """Insurance numbers of five digits here; ten digits take minutes, and no key is in the way."""
    everyone = [f"{number:05d}" for number in range(100_000)]
    mine = everyone[4711]
    table = {hashlib.sha256(one.encode()).digest(): one for one in everyone}
    assert table[hashlib.sha256(mine.encode()).digest()] == mine
    ours, other = (tokens.pseudonyms([mine], bytes([key]) * 32, 26, by_value=True)[0].as_py() for key in (1, 2))
    assert ours != other, "it is the key's"
    for key in (b"", bytes(32)):
        assert ours not in set(tokens.pseudonyms(everyone, key, 26, by_value=True).to_pylist())


def test_a_model_file_holds_no_program() -> None:
    """What pickle would run; a model file is a header and numbers, and is refused unless byte for byte ours."""
    harmful = b"cos\nsystem\n(S'true'\ntR."
    with pytest.raises(FedveilError) as caught:
        read_model(harmful)
    assert caught.value.code == "bad_model_file"
