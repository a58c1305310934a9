"""The ordinary key pair: against the textbook, against python-paillier, against hostile ciphertexts and files."""

import base64
import json
import pickle
from fractions import Fraction
from typing import Any

import phe
import pytest
from fedveil_common.errors import ConfigError, FedveilError, PeerError, SealedError
from fedveil_common.paillier import phe_format, single_holder_files
from fedveil_common.paillier.factors import Factor, FactorPair
from fedveil_common.paillier.phe_format import PheCiphertext
from fedveil_common.paillier.single_holder import SingleHolderKey, SingleHolderPrivateKey
from fedveil_common.pki import sealed_keys
from fedveil_common.secret import Passphrase
from paillier_numbers import OTHER_P, OTHER_Q, PRIME, Draws, P, Q, pair
from phe import command_line

N = P * Q
PRIVATE = {s: SingleHolderPrivateKey(pair(), s) for s in (1, 2, 3)}
PUBLIC = {s: private.public for s, private in PRIVATE.items()}
PHE_PUBLIC = phe.PaillierPublicKey(N)
PHE_PRIVATE = phe.PaillierPrivateKey(PHE_PUBLIC, P, Q)
PASSPHRASE = Passphrase(b"six words are a good passphrase")


# --- textbook arithmetic, with Python's integers ----------


def textbook_encrypt(message: int, r: int, s: int) -> int:
    """Damgard and Jurik 2001: (1+n)^m r^(n^s) mod n^(s+1)."""
    return pow(1 + N, message, N ** (s + 1)) * pow(r, N**s, N ** (s + 1)) % N ** (s + 1)


def textbook_decrypt(ciphertext: int, s: int) -> int:
    """The same source, section 3: c^d with d = 1 mod n^s and 0 mod lambda is (1+n)^m, read digit by digit."""
    totient = (P - 1) * (Q - 1)
    d = totient * pow(totient, -1, N**s)
    opened = pow(ciphertext, d, N ** (s + 1))
    i = 0
    for j in range(1, s + 1):
        t1 = (opened % N ** (j + 1) - 1) // N
        t2, falling, factorial = i, i, 1
        for k in range(2, j + 1):
            falling -= 1
            factorial *= k
            t2 = t2 * falling % N**j
            t1 = (t1 - t2 * N ** (k - 1) * pow(factorial, -1, N**j)) % N**j
        i = t1
    return i


def messages(s: int) -> list[int]:
    """The two ends of the range first, a middle, and each digit's boundary."""
    return [N**s - 1, 0, N**s // 3, 1, *(N**j - 1 for j in range(1, s)), *(N**j for j in range(1, s))]


@pytest.mark.parametrize("s", [1, 2, 3])
def test_both_ways_against_the_textbook(s: int) -> None:
    draws = Draws(s)
    for index, message in enumerate(messages(s)):
        made = PUBLIC[s].encrypt(message, draws)
        assert PRIVATE[s].decrypt(made) == message
        if index in {0, 2}:  # Python's own powers are slow
            assert PRIVATE[s].decrypt(textbook_encrypt(message, 3, s)) == message
        if index == 2:
            assert textbook_decrypt(int(made), s) == message


@pytest.mark.parametrize("s", [1, 2, 3])
def test_sums_wrap_at_n_to_the_s(s: int) -> None:
    draws = Draws(s)
    values = [N**s - 1, 5, N**s // 3]
    total = PUBLIC[s].add(PUBLIC[s].encrypt(value, draws) for value in values)
    assert PRIVATE[s].decrypt(total) == sum(values) % N**s


def test_the_mask_is_a_power_of_a_residue_that_nobody_chose() -> None:
    """With message 0 the ciphertext is h^r, r the bytes drawn: h is derived anew here."""
    import hashlib

    seed = b"fedveil/paillier/base" + N.to_bytes(256, "big")
    y = int.from_bytes(hashlib.shake_256(seed).digest(272), "big") % N
    for bits in (256, 1024):
        r = int.from_bytes(Draws(9).take(bits // 8), "big")
        key = SingleHolderKey(N, 2048, 1, bits)
        assert key.encrypt(0, Draws(9)) == pow(pow(y, 2 * N, N * N), r, N * N)


def test_two_ciphertexts_of_one_message_differ() -> None:
    draws = Draws()
    assert PUBLIC[1].encrypt(7, draws) != PUBLIC[1].encrypt(7, draws)


@pytest.mark.parametrize("message", [-1, N, N + 1])
def test_plaintexts_out_of_range(message: int) -> None:
    with pytest.raises(ValueError, match="plaintext"):
        PUBLIC[1].encrypt(message, Draws())


def test_a_sum_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        PUBLIC[1].add([])


@pytest.mark.parametrize("bits", [0, 128, 255, 257, 1032])
def test_lengths_of_randomness_that_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="randomness"):
        SingleHolderKey(N, 2048, 1, bits)


@pytest.mark.parametrize(
    ("n", "bits", "s", "code"),
    [
        (N, 1024, 1, "modulus_too_short"),
        (PRIME, 2048, 1, "modulus_prime"),
        (N, 2048, 0, "bad_exponent"),
        (N, 2048, 4, "bad_exponent"),
    ],
)
def test_public_keys_that_are_refused(n: int, bits: int, s: int, code: str) -> None:
    with pytest.raises(ConfigError) as refused:
        SingleHolderKey(n, bits, s)
    assert refused.value.code == code


# --- hostile ciphertexts ----------


@pytest.mark.parametrize("s", [1, 2, 3])
@pytest.mark.parametrize(
    "name", ["zero", "one", "n", "factor", "other factor", "multiple", "modulus", "beyond", "negative", "big"]
)
def test_hostile_ciphertexts(s: int, name: str) -> None:
    cipher = N ** (s + 1)
    value = {
        "zero": 0,
        "one": 1,
        "n": N,
        "factor": P,
        "other factor": Q * 12345,
        "multiple": N * 5,
        "modulus": cipher,
        "beyond": cipher + int(PUBLIC[s].encrypt(3, Draws())),
        "negative": -int(PUBLIC[s].encrypt(3, Draws())),
        "big": cipher**2 + 1,
    }[name]
    good = PUBLIC[s].encrypt(4, Draws(4))
    for use in (
        lambda: PRIVATE[s].decrypt(value),
        lambda: PUBLIC[s].add([good, value]),
        lambda: PUBLIC[s].check([good, value], "acme"),
    ):
        with pytest.raises(PeerError) as refused:
            use()
        assert refused.value.code == "bad_group_element"
        assert str(P)[:30] not in str(refused.value)
    assert refused.value.peer == "acme"


def test_every_unit_is_somebodys_ciphertext() -> None:
    """n - 1 is canonical and a unit: it opens, as the textbook says, and nothing fails on the way."""
    assert PRIVATE[1].decrypt(N * N - 1) == textbook_decrypt(N * N - 1, 1)


# --- the private key is a secret ----------


def test_a_private_key_shows_nothing() -> None:
    private = PRIVATE[2]
    for shown in (repr(private), str(private), f"{private}", repr(private.factors), repr(private._halves)):
        assert str(P)[:20] not in shown
        assert str(Q)[:20] not in shown
        assert f"{P:x}"[:20] not in shown
    with pytest.raises(TypeError):
        vars(private)
    with pytest.raises(TypeError):
        pickle.dumps(private)


# --- files of our own ----------


@pytest.mark.parametrize("s", [1, 2, 3])
def test_our_files_read_back(s: int) -> None:
    data = single_holder_files.encode_public(PUBLIC[s])
    public = single_holder_files.decode_public(data + b"\n")
    assert (public.group.n, public.group.s, public.fingerprint) == (N, s, PUBLIC[s].fingerprint)
    sealed = single_holder_files.seal_private(PRIVATE[s], PASSPHRASE, Draws())
    assert f"{P:x}".encode() not in sealed
    again = single_holder_files.open_private(sealed, PASSPHRASE)
    assert again.factors == PRIVATE[s].factors
    assert again.decrypt(PUBLIC[s].encrypt(11, Draws())) == 11


def test_fingerprints_tell_keys_apart() -> None:
    assert len({key.fingerprint for key in PUBLIC.values()}) == 3


def test_a_private_file_yields_nothing_without_its_passphrase() -> None:
    sealed = single_holder_files.seal_private(PRIVATE[1], PASSPHRASE, Draws())
    for given, code in ((None, "passphrase_missing"), (Passphrase(b"another one"), "passphrase_wrong")):
        with pytest.raises(SealedError) as refused:
            single_holder_files.open_private(sealed, given)
        assert refused.value.code == code
    other = sealed_keys.seal_key(b"{}", PASSPHRASE, "governance", Draws())
    with pytest.raises(SealedError):
        single_holder_files.open_private(other, PASSPHRASE)


@pytest.mark.parametrize(
    ("inside", "code"),
    [
        (b"", "bad_key_file"),
        (b"{}", "bad_key_file"),
        (b'{"format":"x","p":"03","q":"07","s":1}', "bad_key_file"),
        (b'{"format":"fedveil/paillier-private/v1","p":"3","q":"07","s":1}', "bad_key_file"),
        (b'{"format":"fedveil/paillier-private/v1","p":"07","q":"0b","s":1}', "modulus_too_short"),
        (b'{"format":"fedveil/paillier-private/v1","p":"","q":"0b","s":1}', "modulus_too_short"),
    ],
)
def test_sealed_things_that_are_no_key(inside: bytes, code: str) -> None:
    sealed = sealed_keys.seal_key(inside, PASSPHRASE, "paillier", Draws())
    with pytest.raises(ConfigError) as refused:
        single_holder_files.open_private(sealed, PASSPHRASE)
    assert refused.value.code == code
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_document"),
        (b"{}", "bad_document"),
        (single_holder_files.encode_public(PUBLIC[1]).replace(b"public/v1", b"public/v2"), "bad_document"),
        (single_holder_files.encode_public(PUBLIC[1]).replace(b":2048", b":20480"), "bad_document"),
        (single_holder_files.encode_public(PUBLIC[1]).replace(b":2048", b":2040"), "bad_document"),
        (single_holder_files.encode_public(PUBLIC[1]).replace(b":2048", b":2047"), "modulus_too_short"),
        (single_holder_files.encode_public(PUBLIC[1]).replace(b'"s":1', b'"s":7'), "bad_exponent"),
    ],
)
def test_public_files_that_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(FedveilError) as refused:
        single_holder_files.decode_public(data)
    assert refused.value.code == code


# --- python-paillier ----------


def test_phe_opens_ours_and_we_open_theirs() -> None:
    draws = Draws()
    for value in (0, 1, 424242, N // 3 - 1):
        ours = int(PUBLIC[1].encrypt(value, draws))
        assert PHE_PRIVATE.raw_decrypt(ours) == value
        assert PRIVATE[1].decrypt(PHE_PUBLIC.raw_encrypt(value)) == value
    assert PHE_PRIVATE.decrypt(phe.EncryptedNumber(PHE_PUBLIC, int(PUBLIC[1].encrypt(N - 5, draws)))) == -5


def test_ciphertexts_of_both_kinds_add_up() -> None:
    ours, theirs = int(PUBLIC[1].encrypt(1000, Draws())), PHE_PUBLIC.raw_encrypt(234)
    by_us = int(PUBLIC[1].add([ours, theirs]))
    by_them = (phe.EncryptedNumber(PHE_PUBLIC, ours) + phe.EncryptedNumber(PHE_PUBLIC, theirs)).ciphertext()
    for total in (by_us, by_them):
        assert PRIVATE[1].decrypt(total) == PHE_PRIVATE.raw_decrypt(total) == 1234


def pheutil_private(p: int = P, q: int = Q, n: int | None = None) -> dict[str, Any]:
    """The key as `pheutil genpkey` writes it."""
    text = phe.util.int_to_base64
    public = {"kty": "DAJ", "alg": "PAI-GN1", "key_ops": ["encrypt"], "n": text(n or p * q), "kid": "a comment"}
    return {"kty": "DAJ", "key_ops": ["decrypt"], "p": text(p), "q": text(q), "pub": public, "kid": "a comment"}


def test_their_key_files_come_in() -> None:
    private = phe_format.decode_key(json.dumps(pheutil_private()).encode() + b"\n")
    assert isinstance(private, SingleHolderPrivateKey)
    assert private.factors == pair()
    public = phe_format.decode_key(json.dumps(pheutil_private()["pub"]).encode())
    assert isinstance(public, SingleHolderKey)
    assert public.fingerprint == private.public.fingerprint == PUBLIC[1].fingerprint


def test_our_key_files_go_out_to_them() -> None:
    public = command_line.load_public_key(json.loads(phe_format.encode_public(PUBLIC[1])))
    assert public == PHE_PUBLIC
    value = json.loads(phe_format.encode_private(PRIVATE[1]))
    ours = {name: member for name, member in value.items() if name not in {"kid", "pub"}}
    theirs = {name: member for name, member in pheutil_private().items() if name not in {"kid", "pub"}}
    assert ours == theirs
    assert phe_format.decode_key(phe_format.encode_private(PRIVATE[1])).factors == pair()  # type: ignore[union-attr]
    for s in (2, 3):
        for encode in (
            lambda s=s: phe_format.encode_public(PUBLIC[s]),
            lambda s=s: phe_format.encode_private(PRIVATE[s]),
        ):
            with pytest.raises(ConfigError) as refused:
                encode()
            assert refused.value.code == "phe_needs_s_1"


def test_a_key_that_phe_drew_itself() -> None:
    """Its primes are not safe ones; the factors do the rest."""
    public, private = phe.generate_paillier_keypair(n_length=2048)
    ours = phe_format.decode_key(json.dumps(pheutil_private(private.p, private.q)).encode())
    assert isinstance(ours, SingleHolderPrivateKey)
    assert ours.decrypt(public.raw_encrypt(77)) == 77
    assert private.raw_decrypt(int(ours.public.encrypt(78, Draws()))) == 78


def edited(**members: Any) -> bytes:
    value = {**pheutil_private(), **members}
    return json.dumps({name: member for name, member in value.items() if member is not None}).encode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_phe_key"),
        (b"[]", "bad_phe_key"),
        (b"{}", "bad_phe_key"),
        (b'{"kty":1,"kty":2}', "bad_phe_key"),
        (b" " * 70_000, "bad_phe_key"),
        (edited(pub=5), "bad_phe_key"),
        (edited(pub={}), "bad_phe_key"),
        (edited(kty="RSA"), "bad_phe_key"),
        (edited(key_ops=["encrypt"]), "bad_phe_key"),
        (edited(p=None), "bad_phe_key"),
        (edited(mu="AA"), "bad_phe_key"),
        (edited(p=5), "bad_phe_key"),
        (edited(p="A"), "bad_phe_key"),
        (edited(p="A+/="), "bad_phe_key"),
        (edited(p="A" * 2000), "bad_phe_key"),
        (edited(pub={**pheutil_private()["pub"], "alg": "PAI-GN2"}), "bad_phe_key"),
        (json.dumps(pheutil_private(n=OTHER_P * OTHER_Q)).encode(), "factors_of_another"),
        (json.dumps(pheutil_private(p=P * Q, q=1)).encode(), "bad_factors"),
        (json.dumps(pheutil_private(p=1009, q=1013)).encode(), "modulus_too_short"),
        (json.dumps(pheutil_private(p=P, q=P)).encode(), "modulus_power"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_their_key_files_that_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(ConfigError) as refused:
        phe_format.decode_key(data)
    assert refused.value.code == code
    assert phe.util.int_to_base64(P)[:20] not in str(refused.value)


def test_ciphertext_files_both_ways() -> None:
    """A number with a fraction, as `pheutil encrypt` scales it, opened by us; ours opened by phe."""
    theirs = command_line.serialise_encrypted(PHE_PUBLIC.encrypt(-12.25))
    read = PheCiphertext.decode(theirs.encode())
    opened = PRIVATE[1].decrypt(read.value)
    assert (opened - N) * Fraction(16) ** read.exponent == Fraction("-12.25")
    scaled = 3 * 16**32
    ours = PheCiphertext(PUBLIC[1].encrypt(scaled, Draws()), -32)
    total = PheCiphertext(PUBLIC[1].add([ours.value, read.value]), -32)
    for ciphertext, expected in ((ours, 3), (total, -9.25)):
        value = json.loads(ciphertext.encode())
        number = phe.EncryptedNumber(PHE_PUBLIC, int(value["v"]), exponent=value["e"])
        assert PHE_PRIVATE.decrypt(number) == expected
    assert PheCiphertext.decode(ours.encode()) == ours


def test_a_ciphertext_longer_than_python_reads_as_an_integer() -> None:
    """8192-bit keys have ciphertexts of 4932 decimal digits; int() and str() stop at 4300."""
    long = PheCiphertext(1 << 16000, 0)
    assert PheCiphertext.decode(long.encode()) == long


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"v":"1"}',
        b'{"e":0}',
        b'{"v":1,"e":0}',
        b'{"v":"-1","e":0}',
        b'{"v":"0","e":0}',
        b'{"v":"1_0","e":0}',
        '{"v":"١","e":0}'.encode(),
        b'{"v":"1\\n","e":0}',
        b'{"v":"1","e":true}',
        b'{"v":"1","e":0.5}',
        b'{"v":"1","e":-2000000}',
        b'{"v":"' + b"1" * 20_000 + b'","e":0}',
    ],
)
def test_ciphertext_files_that_are_refused(data: bytes) -> None:
    with pytest.raises(ConfigError) as refused:
        PheCiphertext.decode(data)
    assert refused.value.code == "bad_phe_ciphertext"


def test_padding_in_their_base64_is_as_they_write_it() -> None:
    """Every remainder of a length by 4 that base64 can have."""
    for length in (1, 2, 3, 4):
        number = int.from_bytes(b"\x9f" * length, "big")
        assert phe_format._text(number.to_bytes(length, "big")) == phe.util.int_to_base64(number)
        assert base64.urlsafe_b64decode(phe.util.int_to_base64(number) + "==")


def test_factors_of_a_key_do_not_have_to_be_in_order() -> None:
    swapped = SingleHolderPrivateKey(FactorPair(Factor.of(Q), Factor.of(P)))
    assert swapped.decrypt(PUBLIC[1].encrypt(99, Draws())) == 99
