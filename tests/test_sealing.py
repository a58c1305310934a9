"""Sealed files: what opens them, and every way in which one that was changed, cut, moved or made by others does not."""

import functools
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from fedveil_common import jcs
from fedveil_common.crypto import aead
from fedveil_common.crypto.labels import h
from fedveil_common.errors import ConfigError, FedveilError, SealedError
from fedveil_common.sealing import chunks, files, header, key_files, recipients
from fedveil_common.sealing.header import CHUNK, Header, Slot, Subject
from fedveil_common.secret import Passphrase, Seed
from fedveil_simulation.ports import SeededEntropy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import passphrase_costs
from tests.reference import curves

SUBJECT = Subject("data", "hospitals-1", "visits")
ENTROPY = SeededEntropy(1, "sealing")
OURS, OTHER = X25519PrivateKey.from_private_bytes(b"\1" * 32), X25519PrivateKey.from_private_bytes(b"\2" * 32)
RSA = rsa.generate_private_key(65_537, 3072)
WORD = Passphrase(b"a long passphrase")
LENGTHS = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK)


def content(length: int) -> bytes:
    return (hashlib.sha256(str(length).encode()).digest() * (length // 32 + 1))[:length]


def for_keys(*keys: recipients.PublicRecipient, subject: Subject = SUBJECT) -> files.Wrap:
    return lambda data_key: recipients.wrap_for(keys, data_key, subject)


def by(key: recipients.PrivateRecipient) -> files.Unwrap:
    return lambda found: recipients.unwrap(found, key)


def anything(subject: Subject) -> None:
    """Whatever the file says it is."""


def sealed(folder: Path, data: bytes, wrap: files.Wrap | None = None, subject: Subject = SUBJECT) -> bytes:
    out = folder / "sealed"
    files.seal(io.BytesIO(data), len(data), out, subject, wrap or for_keys(OURS.public_key()), ENTROPY)
    return out.read_bytes()


def opened(folder: Path, data: bytes, unwrap: files.Unwrap | None = None) -> bytes:
    out = folder / "opened"
    files.unseal(io.BytesIO(data), out, unwrap or by(OURS), anything)
    return out.read_bytes()


def refused(folder: Path, data: bytes, code: str, unwrap: files.Unwrap | None = None) -> FedveilError:
    """Refused with this code, and nothing of it is there."""
    before = sorted(folder.iterdir())
    with pytest.raises(FedveilError) as caught:
        opened(folder, data, unwrap)
    assert caught.value.code == code
    assert sorted(folder.iterdir()) == before
    return caught.value


def parts(data: bytes) -> tuple[Header, int]:
    return header.parse(io.BytesIO(data))


# --- what opens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("key", [OURS, RSA], ids=["x25519", "rsa"])
def test_what_was_sealed_comes_out(length: int, key: recipients.PrivateRecipient, tmp_path: Path) -> None:
    data = sealed(tmp_path, content(length), for_keys(key.public_key(), OTHER.public_key()))
    for one in (key, OTHER):
        assert opened(tmp_path, data, by(one)) == content(length)
    assert (tmp_path / "opened").stat().st_mode & 0o777 == 0o600
    _, start = parts(data)
    assert len(data) == start + length + 16 * max(1, -(-length // CHUNK))
    assert length < 64 or content(length)[:64] not in data


def test_a_passphrase_opens_alone(tmp_path: Path) -> None:
    data = sealed(tmp_path, b"secret", lambda key: recipients.wrap_passphrase(WORD, key, SUBJECT, ENTROPY))
    assert opened(tmp_path, data, lambda found: recipients.unwrap_passphrase(found, WORD)) == b"secret"
    wrong = refused(
        tmp_path, data, "passphrase_wrong", lambda found: recipients.unwrap_passphrase(found, Passphrase(b"x"))
    )
    assert isinstance(wrong, SealedError)
    refused(tmp_path, data, "not_a_recipient")
    keyed = sealed(tmp_path, b"secret")
    refused(tmp_path, keyed, "not_a_recipient", lambda found: recipients.unwrap_passphrase(found, WORD))


def test_two_seals_of_the_same_have_nothing_in_common(tmp_path: Path) -> None:
    one, two = sealed(tmp_path, content(1000)), sealed(tmp_path, content(1000))
    (first, start), (second, _) = parts(one), parts(two)
    assert first.salt != second.salt
    assert first.commitment != second.commitment
    assert sum(a == b for a, b in zip(one[start:], two[start:], strict=True)) < 30


def test_a_stranger_s_key_opens_nothing(tmp_path: Path) -> None:
    refused(tmp_path, sealed(tmp_path, b"x"), "not_a_recipient", by(OTHER))


# --- what is changed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sealed(
        tmp_path_factory.mktemp("whole"), content(2 * CHUNK + 5), for_keys(OURS.public_key(), RSA.public_key())
    )


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bit_can_be_changed(whole: bytes, tmp_path: Path, data: st.DataObject) -> None:
    _, start = parts(whole)
    where = data.draw(st.one_of(st.integers(0, start + 20), st.integers(0, len(whole) - 1)))
    changed = bytearray(whole)
    changed[where] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FedveilError) as caught:
        opened(tmp_path, bytes(changed))
    expected = (
        {"sealed_chunk_damaged"}
        if where >= start
        else {"not_sealed", "sealed_version_unknown", "sealed_header_damaged", "not_a_recipient"}
    )
    assert caught.value.code in expected
    assert not (tmp_path / "opened").exists()
    assert list(tmp_path.iterdir()) == []


def test_chunks_are_neither_moved_nor_repeated_nor_cut_nor_added(whole: bytes, tmp_path: Path) -> None:
    _, start = parts(whole)
    head, step = whole[:start], chunks.SEALED_CHUNK
    first, second, last = whole[start : start + step], whole[start + step : start + 2 * step], whole[start + 2 * step :]
    assert opened(tmp_path, head + first + second + last) == content(2 * CHUNK + 5)
    (tmp_path / "opened").unlink()
    for data, index in (
        (second + first + last, 0),
        (first + first + last, 1),
        (first + last, 1),
        (first + second, 2),
        (first + second + last[:-1], 2),
        (first, 1),
        (b"", 0),
        (first + second + last + b"\0", 3),
        (first + second + last + last, 3),
    ):
        error = refused(tmp_path, head + data, "sealed_chunk_damaged")
        assert f"chunk {index} " in error.what
    for length in range(0, start, 7):
        with pytest.raises(FedveilError):
            opened(tmp_path, whole[:length])


def test_chunks_of_another_file_do_not_fit(whole: bytes, tmp_path: Path) -> None:
    other = sealed(tmp_path, content(2 * CHUNK + 5), for_keys(OURS.public_key(), RSA.public_key()))
    (tmp_path / "sealed").unlink()
    _, start = parts(whole)
    assert parts(other)[1] == start
    refused(tmp_path, whole[:start] + other[start:], "sealed_chunk_damaged")


def forged(data: bytes, change: Callable[[Header], Header]) -> bytes:
    """With another header, whose MAC stays what it was."""
    found, start = parts(data)
    return header.to_bytes(change(found)) + data[start:]


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, length=one.length - CHUNK),
        lambda one: replace(one, subject=replace(one.subject, object_id="other")),
        lambda one: replace(one, subject=replace(one.subject, kind="model")),
        lambda one: replace(one, subject=replace(one.subject, federation_id="elsewhere")),
        lambda one: replace(one, salt=bytes(16)),
        lambda one: replace(one, commitment=bytes(32)),
        lambda one: replace(one, slots=one.slots[:1]),
        lambda one: replace(one, slots=(*one.slots, one.slots[0])),
        lambda one: replace(one, mac=bytes(32)),
    ],
)
def test_a_header_is_the_one_that_was_written(whole: bytes, tmp_path: Path, change: Callable[[Header], Header]) -> None:
    refused(tmp_path, forged(whole, change), "sealed_header_damaged")


def body(data: bytes) -> dict[str, jcs.Json]:
    size = int.from_bytes(data[8:12], "big")
    value = jcs.loads(data[12 : 12 + size])
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "aes-128-ecb"},
        {"chunk": 16},
        {"length": "-1"},
        {"length": "01"},
        {"length": str(2**60)},
        {"salt": ""},
        {"recipients": []},
        {"recipients": [{"way": "none", "recipient": "x", "wrapped": "zz"}]},
        {"more": 1},
        {"object": "A B"},
    ],
)
def test_a_header_that_no_writer_makes_is_refused_before_a_key_is_used(
    whole: bytes, tmp_path: Path, change: dict[str, jcs.Json]
) -> None:
    def never(found: Header) -> Seed:
        raise AssertionError("no key is looked at")

    _, start = parts(whole)
    text = jcs.dumps({**body(whole), **change})
    data = whole[:8] + len(text).to_bytes(4, "big") + text + whole[start - 32 :]
    refused(tmp_path, data, "sealed_header_damaged", never)
    loose = json.dumps(body(whole), indent=1).encode()
    data = whole[:8] + len(loose).to_bytes(4, "big") + loose + whole[start - 32 :]
    refused(tmp_path, data, "sealed_header_damaged", never)


def test_a_commitment_to_another_key_is_refused_though_its_mac_is_right() -> None:
    """By a sealer, who knows the data key and makes the MAC himself."""
    key = Seed(b"\5" * 32)
    made = header.make(key, SUBJECT, bytes(16), 5, recipients.wrap_for([OURS.public_key()], key, SUBJECT))
    lie = replace(made, commitment=header.commitment(Seed(b"\6" * 32), made.salt))
    lie = replace(lie, mac=header._mac(key, lie.salt, header._body(lie)))
    made.check(key)
    with pytest.raises(FedveilError) as caught:
        recipients.unwrap(lie, OURS)
    assert caught.value.code == "sealed_header_damaged"


def test_a_header_beyond_its_bound_is_not_read(whole: bytes) -> None:
    class Measured(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 <= size <= header.MOST_HEADER
            return super().read(size)

    for size in (0, header.MOST_HEADER + 1, 2**32 - 1):
        data = whole[:8] + size.to_bytes(4, "big") + whole[12:]
        with pytest.raises(FedveilError) as caught:
            header.parse(Measured(data))
        assert caught.value.code == "sealed_header_damaged"


def code_of(slots: tuple[Slot, ...], key: Seed, unwrap: files.Unwrap) -> str:
    """Of a header that a sealer made as it pleased: commitment and MAC are right."""
    with pytest.raises(FedveilError) as caught:
        unwrap(header.make(key, SUBJECT, bytes(16), 5, slots))
    return caught.value.code


def test_slots_that_no_writer_makes_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipients, "_scrypt", lambda *_: bytes(32))  # it has its own test, and takes its time
    key = Seed(b"\5" * 32)
    (own,) = recipients.wrap_for([OURS.public_key()], key, SUBJECT)
    assert code_of((replace(own, way=recipients.RSA),), key, by(OURS)) == "not_a_recipient"
    (word,) = recipients.wrap_passphrase(WORD, key, SUBJECT, ENTROPY)
    by_word = lambda found: recipients.unwrap_passphrase(found, WORD)  # noqa: E731
    assert by_word(header.make(key, SUBJECT, bytes(16), 5, (word,))) == key
    assert code_of((word, own), key, by_word) == "not_a_recipient", "a passphrase is the only way, or none"
    for size in (0, 16, 33):
        text = aead.seal(bytes(32), bytes(12), bytes(size), recipients._bound(recipients.PASSPHRASE, SUBJECT))
        assert code_of((replace(word, wrapped=text),), key, by_word) == "sealed_header_damaged", (
            "a key of no such length"
        )


def test_half_a_surrogate_in_a_header_is_damage_and_no_defect(whole: bytes, tmp_path: Path) -> None:
    """JSON can write one, and nothing can write it again."""
    _, start = parts(whole)
    for name in ("way", "recipient"):
        said = body(whole)
        said["recipients"] = [{"way": "x", "recipient": "x", "wrapped": "00", name: "\ud800"}]
        text = json.dumps(said, separators=(",", ":"), sort_keys=True).encode()
        data = whole[:8] + len(text).to_bytes(4, "big") + text + whole[start - 32 :]
        refused(tmp_path, data, "sealed_header_damaged")


def test_one_ciphertext_under_two_keys_is_stopped_by_the_commitment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sealer wraps another data key for one recipient, so that the two see different texts. AES-GCM alone cannot tell
    (the attack below makes one ciphertext that both keys open); the commitment is of one key.
    """
    keys, nonce = (b"\1" * 32, b"\2" * 32), bytes(11) + b"\1"
    text = two_faced(keys, nonce)
    faces = [AESGCM(key).decrypt(nonce, text, b"") for key in keys]
    assert faces[0] != faces[1]

    def lying(data_key: Seed) -> tuple[Slot, ...]:
        mine, theirs = recipients.wrap_for([OURS.public_key()], data_key, SUBJECT), Seed(b"\7" * 32)
        return (*mine, *recipients.wrap_for([OTHER.public_key()], theirs, SUBJECT))

    data = sealed(tmp_path, b"to you", lying)
    assert opened(tmp_path, data) == b"to you"
    (tmp_path / "opened").unlink()
    refused(tmp_path, data, "sealed_header_damaged", by(OTHER))
    monkeypatch.setattr(Header, "check", lambda self, key: None)
    refused(tmp_path, data, "sealed_chunk_damaged", by(OTHER))


def two_faced(keys: tuple[bytes, bytes], nonce: bytes) -> bytes:
    """A ciphertext of two blocks and its tag that authenticates under both keys: one block is solved for in GF(2^128)
    so that both GHASH equations give the same tag (Len, Grubbs, Ristenpart 2021).
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    def block(key: bytes, value: bytes) -> int:
        cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        return int.from_bytes(cipher.update(value), "big")

    subkeys = [block(key, bytes(16)) for key in keys]
    masks = [block(key, nonce + (1).to_bytes(4, "big")) for key in keys]
    first = int.from_bytes(b"sixteen bytes ok", "big")
    lengths = (32 * 8).to_bytes(16, "big")
    size = int.from_bytes(lengths, "big")
    # tag_k = first*H^3 + second*H^2 + size*H + mask: equal for both keys
    total = 0
    for subkey, mask in zip(subkeys, masks, strict=True):
        square = times(subkey, subkey)
        total ^= times(first, times(square, subkey)) ^ times(size, subkey) ^ mask
    factor = times(subkeys[0], subkeys[0]) ^ times(subkeys[1], subkeys[1])
    second = times(total, inverse(factor))
    square = times(subkeys[0], subkeys[0])
    tag = times(first, times(square, subkeys[0])) ^ times(second, square) ^ times(size, subkeys[0]) ^ masks[0]
    return b"".join(one.to_bytes(16, "big") for one in (first, second, tag))


def times(one: int, other: int) -> int:
    """In GF(2^128) as GCM writes it: the first bit is the coefficient of 1."""
    product, value = 0, other
    for bit in range(127, -1, -1):
        if one >> bit & 1:
            product ^= value
        value = value >> 1 ^ (0xE1 << 120 if value & 1 else 0)
    return product


def inverse(value: int) -> int:
    """value^(2^128 - 2)."""
    power, found = value, 1 << 127
    for _ in range(127):
        power = times(power, power)
        found = times(found, power)
    return found


# --- recipients -------------------------------------------------------------------------------------------------------


def test_a_wrapped_key_is_bound_to_what_it_is_for(tmp_path: Path) -> None:
    """A slot that is taken over into a file of another name, kind or federation does not open there."""
    data_key = Seed(b"\5" * 32)
    for keys in ([OURS.public_key()], [RSA.public_key()]):
        slots = recipients.wrap_for(keys, data_key, SUBJECT)
        key = OURS if keys == [OURS.public_key()] else RSA
        for other in (
            replace(SUBJECT, object_id="other"),
            replace(SUBJECT, kind="model"),
            replace(SUBJECT, federation_id="elsewhere"),
        ):
            made = header.make(data_key, other, bytes(16), 5, slots)
            with pytest.raises(FedveilError) as caught:
                recipients.unwrap(made, key)
            assert caught.value.code == "sealed_header_damaged"
        assert recipients.unwrap(header.make(data_key, SUBJECT, bytes(16), 5, slots), key) == data_key


def test_a_passphrase_is_stretched_at_full_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    passphrase_costs.restore(monkeypatch)
    (slot,) = recipients.wrap_passphrase(WORD, Seed(bytes(32)), SUBJECT, ENTROPY)
    assert slot.recipient.startswith("17/")
    made = header.make(Seed(bytes(32)), SUBJECT, bytes(16), 5, (slot,))
    assert recipients.unwrap_passphrase(made, WORD) == Seed(bytes(32))


def test_weak_and_doubled_recipients_are_refused() -> None:
    weak = rsa.generate_private_key(65_537, 2048).public_key()
    for keys, code in (([weak], "recipient_key_weak"), ([OURS.public_key()] * 2, "recipient_twice")):
        with pytest.raises(ConfigError) as caught:
            recipients.wrap_for(keys, Seed(bytes(32)), SUBJECT)
        assert caught.value.code == code


def test_keys_with_which_everybody_agrees_are_nobody_s() -> None:
    points = [X25519PublicKey.from_public_bytes(one) for u in curves.low_order_u() for one in curves.encodings_u(u)]
    even = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    at = even.index(RSA.public_key().public_numbers().n.to_bytes(384, "big")) + 383
    flipped = load_der_public_key(even[:at] + bytes([even[at] ^ 1]) + even[at + 1 :])
    assert isinstance(flipped, rsa.RSAPublicKey)
    assert len(points) == 14
    for key in (*points, flipped):
        with pytest.raises(ConfigError, match="nobody's") as caught:
            recipients.wrap_for([key], Seed(bytes(32)), SUBJECT)
        assert caught.value.code == "recipient_key_weak"
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(ConfigError, match="nobody's"):
            key_files.read_public(pem, "here")


@pytest.mark.parametrize(
    "parameters", ["19/" + "00" * 16, "99999999/" + "00" * 16, "9/" + "00" * 16, "17/00", "017/" + "00" * 16]
)
def test_parameters_of_a_passphrase_are_bounded_before_anything_is_derived(
    parameters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> bytes:
        raise AssertionError("derived")

    slot = Slot(recipients.PASSPHRASE, parameters, bytes(48))
    made = header.make(Seed(bytes(32)), SUBJECT, bytes(16), 5, (slot,))
    monkeypatch.setattr(recipients, "_scrypt", never)
    with pytest.raises(FedveilError) as caught:
        recipients.unwrap_passphrase(made, WORD)
    assert caught.value.code == "sealed_parameters"


def test_rewrapping_changes_recipients_and_nothing_else(whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "again"
    files.rewrap(io.BytesIO(whole), out, by(RSA), for_keys(OTHER.public_key()))
    again = out.read_bytes()
    out.unlink()
    (before, start), (after, begin) = parts(whole), parts(again)
    assert again[begin:] == whole[start:]
    assert before.commitment == after.commitment, "whoever knew the data key still does: see the next test"
    assert opened(tmp_path, again, by(OTHER)) == content(2 * CHUNK + 5)
    (tmp_path / "opened").unlink()
    refused(tmp_path, again, "not_a_recipient", by(OURS))
    for bent in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole + b"\0"):
        for rotate in (files.rewrap, functools.partial(files.reencrypt, entropy=ENTROPY)):
            with pytest.raises(FedveilError) as caught:
                rotate(io.BytesIO(bent), out, by(RSA), for_keys(OTHER.public_key()))
            assert caught.value.code == "sealed_chunk_damaged"
    assert list(tmp_path.iterdir()) == []


def test_reencrypting_shuts_earlier_recipients_out(whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "anew"
    files.reencrypt(io.BytesIO(whole), out, by(RSA), for_keys(OTHER.public_key()), ENTROPY)
    anew = out.read_bytes()
    out.unlink()
    assert opened(tmp_path, anew, by(OTHER)) == content(2 * CHUNK + 5)
    old_key = recipients.unwrap(parts(whole)[0], OURS)
    with pytest.raises(FedveilError):
        parts(anew)[0].check(old_key)


# --- reading without plaintext on disk --------------------------------------------------------------------------------


def test_a_stream_reads_like_the_file_in_any_order(whole: bytes) -> None:
    stream = files.Stream(files.Opened(io.BytesIO(whole), by(OURS), anything))
    exact = content(2 * CHUNK + 5)
    assert io.BufferedReader(stream, 1000).read() == exact
    for at, size in ((0, 10), (CHUNK - 3, 7), (2 * CHUNK, 100), (5, CHUNK + 1), (len(exact), 5)):
        reading = io.BufferedReader(files.Stream(files.Opened(io.BytesIO(whole), by(OURS), anything)))
        reading.seek(at)
        assert reading.read(size) == exact[at : at + size]
    assert stream.seek(-5, os.SEEK_END) == len(exact) - 5
    assert stream.read() == exact[-5:]
    with pytest.raises(ValueError, match="before"):
        stream.seek(-1)
    added = files.Stream(files.Opened(io.BytesIO(whole + b"x"), by(OURS), anything))
    with pytest.raises(FedveilError):
        added.read()


def test_parquet_is_read_from_a_sealed_file(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(200_000)), "b": [f"x{i}" for i in range(200_000)]})
    plain = io.BytesIO()
    pq.write_table(table, plain, row_group_size=20_000)
    data = sealed(tmp_path, plain.getvalue())
    stream = files.Stream(files.Opened(io.BytesIO(data), by(OURS), anything))
    assert pq.read_table(stream).equals(table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sealed"]


# --- an independent reading -------------------------------------------------------------------------------------------


def test_a_second_implementation_reads_what_is_written(whole: bytes) -> None:
    """From docs/sealing.md alone: HKDF and HMAC by hand, AES-GCM by the library."""
    import hmac

    def hkdf(secret: bytes, salt: bytes, label: str) -> bytes:
        def lp(one: bytes) -> bytes:
            return len(one).to_bytes(4, "big") + one

        key = hmac.digest(salt, secret, "sha256")
        return hmac.digest(key, lp(b"FLSA/1/" + label.encode()) + b"\1", "sha256")

    data_key = recipients.unwrap(parts(whole)[0], OURS).expose()
    said, size = body(whole), int.from_bytes(whole[8:12], "big")
    text, mac, at = whole[12 : 12 + size], whole[12 + size : 44 + size], 44 + size
    salt = bytes.fromhex(str(said["salt"]))
    assert hkdf(data_key, salt, "sealing/commit").hex() == said["commitment"]
    assert hmac.digest(hkdf(data_key, salt, "sealing/header"), text, "sha256") == mac
    fixed = h("sealing/fixed", jcs.dumps({key: value for key, value in said.items() if key != "recipients"}))
    found, cipher = b"", AESGCM(hkdf(data_key, salt, "sealing/chunks"))
    for index, size_ in enumerate((CHUNK, CHUNK, 5)):
        part = whole[at : at + size_ + 16]
        found += cipher.decrypt(index.to_bytes(11, "big") + bytes([index == 2]), part, fixed)
        at += size_ + 16
    assert (found, at) == (content(2 * CHUNK + 5), len(whole))


# --- what is given to them -------------------------------------------------------------------------------------------


def test_a_file_that_grows_or_shrinks_while_it_is_sealed_is_not_sealed(tmp_path: Path) -> None:
    for length in (99, 101):
        with pytest.raises(ConfigError) as caught:
            files.seal(io.BytesIO(bytes(100)), length, tmp_path / "out", SUBJECT, for_keys(OURS.public_key()), ENTROPY)
        assert caught.value.code == "file_changed"
    assert list(tmp_path.iterdir()) == []


def test_another_subject_than_was_asked_for_is_refused_before_a_key_is_used(whole: bytes, tmp_path: Path) -> None:
    for asked in (("model", None, None), ("data", "elsewhere", None), ("data", None, "other")):
        with pytest.raises(FedveilError) as caught:
            files.Opened(io.BytesIO(whole), by(OTHER), files.expect(*asked))
        assert caught.value.code == "sealed_for_another"
    files.Opened(io.BytesIO(whole), by(OURS), files.expect("data", "hospitals-1", "visits"))


# --- read twice -------------------------------------------------------------------------------------------------------


def test_what_is_read_again_is_what_was_read_first(tmp_path: Path) -> None:
    """Whoever has the data key can make another chunk that opens; between the two readings it does not pass."""
    data, plain = sealed(tmp_path, content(3 * CHUNK + 5)), content(3 * CHUNK + 5)
    source = io.BytesIO(data)
    chunked = files.ReadTwice(files.Opened(source, by(OURS), anything), ENTROPY)
    assert b"".join(chunked.first()) == plain
    assert b"".join(chunked.again()) == plain
    found, start = parts(data)
    key = AESGCM(found.chunk_key(recipients.unwrap(found, OURS)))
    other = key.encrypt((1).to_bytes(11, "big") + b"\0", b"x" * CHUNK, found.fixed)
    place = start + chunks.SEALED_CHUNK
    source.seek(place)
    source.write(other)
    assert files.Opened(io.BytesIO(source.getvalue()), by(OURS), anything).chunk(1) == b"x" * CHUNK
    again = chunked.again()
    assert next(again) == plain[:CHUNK]
    with pytest.raises(ConfigError, match="file_changed"):
        next(again)
    source.seek(place)
    source.write(data[place : place + 10])
    with pytest.raises(FedveilError, match="sealed_chunk_damaged"):
        list(chunked.again())
