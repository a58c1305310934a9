"""FLSA/1 sections 2.1 to 2.6 on integers: hashes, keys, shares, masks, rounding, drop recovery."""

import hashlib
import hmac
import math
from fractions import Fraction

from tests.reference import aes, curves

FIELD = 2**256 + 297
RING = 2**32
LEAF = 16_384


def lp(data: bytes) -> bytes:
    """u32be length, then the bytes."""
    return len(data).to_bytes(4, "big") + data


def labelled(label: str, *fields: bytes) -> bytes:
    """LP("FLSA/1/"+label) || LP(f) ..."""
    return lp(b"FLSA/1/" + label.encode()) + b"".join(map(lp, fields))


def h(label: str, *fields: bytes) -> bytes:
    """SHA-256 of the labelled fields."""
    return hashlib.sha256(labelled(label, *fields)).digest()


def hkdf(salt: bytes, ikm: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256."""
    prk = hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()
    out = block = b""
    count = 0
    while len(out) < size:
        count += 1
        block = hmac.new(prk, block + info + bytes([count]), hashlib.sha256).digest()
        out += block
    return out[:size]


def kdf(salt: bytes, ikm: bytes, label: str, *fields: bytes) -> bytes:
    """32 bytes for one labelled use."""
    return hkdf(salt, ikm, labelled(label, *fields), 32)


# --- transcript -------------------------------------------------------------------------------------------------------


def t0(manifest: bytes) -> bytes:
    """Section 2.2."""
    return h("T0", manifest)


def _per_member(label: str, inner: str, before: bytes, bodies: dict[str, bytes]) -> bytes:
    fields = [before]
    for member in sorted(bodies, key=str.encode):
        fields += [member.encode(), h(inner, bodies[member])]
    return h(label, *fields)


def t1(before: bytes, adverts: dict[str, bytes]) -> bytes:
    """Section 2.2."""
    return _per_member("T1", "advert", before, adverts)


def t2(before: bytes, dealers: list[str]) -> bytes:
    """Section 2.2."""
    return h("T2", before, *sorted(d.encode() for d in dealers))


def t3(before: bytes, headers: dict[str, bytes]) -> bytes:
    """Section 2.2."""
    return _per_member("T3", "header", before, headers)


def input_leaves(transcript: bytes, member: str, vector: list[int]) -> list[bytes]:
    """M5: h_l over 16,384 little-endian u32 each."""
    packed = b"".join(v.to_bytes(4, "little") for v in vector)
    pieces = [packed[i : i + 4 * LEAF] for i in range(0, len(packed), 4 * LEAF)]
    return [h("chunk", transcript, member.encode(), i.to_bytes(4, "big"), piece) for i, piece in enumerate(pieces)]


def sum_leaves(transcript: bytes, vector: list[int]) -> list[bytes]:
    """A18."""
    packed = b"".join(v.to_bytes(4, "little") for v in vector)
    pieces = [packed[i : i + 4 * LEAF] for i in range(0, len(packed), 4 * LEAF)]
    return [h("sumleaf", transcript, i.to_bytes(4, "big"), piece) for i, piece in enumerate(pieces)]


def model_hash(model: bytes) -> bytes:
    """A18: 64 KiB leaves."""
    pieces = [model[i : i + 65536] for i in range(0, len(model), 65536)]
    return h("model", *[h("modelleaf", i.to_bytes(4, "big"), piece) for i, piece in enumerate(pieces)])


def blob_signature(private: bytes, kind: str, signer: str, body: bytes) -> bytes:
    """Section 2.1: Ed25519 over LP("FLSA/1/sig/"+type) || LP(signer) || LP(body)."""
    return curves.ed25519_sign(private, labelled("sig/" + kind, signer.encode(), body))


# --- shares -----------------------------------------------------------------------------------------------------------


def deal(secret: bytes, coefficients: list[int], xs: list[int]) -> dict[int, bytes]:
    """The polynomial at each x, by powers (no Horner)."""
    terms = [int.from_bytes(secret, "big"), *coefficients]
    return {x: (sum(c * x**k for k, c in enumerate(terms)) % FIELD).to_bytes(33, "big") for x in xs}


def at_zero(points: dict[int, int]) -> int:
    """The interpolating polynomial's value at 0."""
    total = 0
    for x, y in points.items():
        others = [o for o in points if o != x]
        total += y * math.prod(others) * pow(math.prod(o - x for o in others), -1, FIELD)
    return total % FIELD


def share_message(
    t1_hash: bytes, dealer: str, recipient: str, x: int, private: bytes, public: bytes, body: dict[str, bytes]
) -> dict[str, bytes]:
    """M3 and all it is made of. `body`: key_share, self_share, kappa, nonce; `version` overrides 0x01."""
    who = (dealer.encode(), recipient.encode())
    shared = curves.x25519(private, public)
    key = kdf(t1_hash, shared, "share/key", *who)
    plaintext = (
        body.get("version", b"\1") + x.to_bytes(2, "big") + body["key_share"] + body["self_share"] + body["kappa"]
    )
    aad = h("share/aad", t1_hash, *who)
    return {
        "shared_secret": shared,
        "key": key,
        "aad": aad,
        "plaintext": plaintext,
        "ciphertext": aes.gcm_seal(key, body["nonce"], plaintext, aad),
        "key_share_commit": h("sharecommit/s", t1_hash, *who, body["key_share"]),
        "self_share_commit": h("sharecommit/b", t1_hash, *who, body["self_share"]),
    }


# --- masks ------------------------------------------------------------------------------------------------------------


def self_key(t2_hash: bytes, seed: bytes, member: str) -> bytes:
    """k_self of section 2.3."""
    return kdf(t2_hash, seed, "mask/self/vec", member.encode())


def pair_key(t2_hash: bytes, private: bytes, member: str, publics: dict[str, bytes], other: str) -> bytes:
    """k_pair of section 2.3 from `member`'s side."""
    low, high = sorted([member, other])
    shared = curves.x25519(private, publics[other])
    return kdf(t2_hash, shared, "mask/pair/vec", low.encode(), high.encode(), publics[low], publics[high])


def masked(
    t2_hash: bytes, member: str, private: bytes, seed: bytes, publics: dict[str, bytes], vector: list[int]
) -> list[int]:
    """y_i: the vector plus its own stream, plus pair streams with higher ids, minus those with lower ids."""
    out = [a + b for a, b in zip(vector, aes.words(self_key(t2_hash, seed, member), 0, len(vector)), strict=True)]
    for other in publics:
        if other == member:
            continue
        stream = aes.words(pair_key(t2_hash, private, member, publics, other), 0, len(vector))
        out = [a + (b if member < other else -b) for a, b in zip(out, stream, strict=True)]
    return [v % RING for v in out]


def opened(
    t2_hash: bytes,
    masked_inputs: dict[str, list[int]],
    seeds: dict[str, bytes],
    dropped_privates: dict[str, bytes],
    publics: dict[str, bytes],
) -> list[int]:
    """The sum of the survivors' vectors: subtract what is known to be on it."""
    size = len(next(iter(masked_inputs.values())))
    acc = [sum(column) for column in zip(*masked_inputs.values(), strict=True)]
    for member in masked_inputs:
        acc = [a - b for a, b in zip(acc, aes.words(self_key(t2_hash, seeds[member], member), 0, size), strict=True)]
        for gone, private in dropped_privates.items():
            stream = aes.words(pair_key(t2_hash, private, gone, publics, member), 0, size)
            acc = [a - (b if member < gone else -b) for a, b in zip(acc, stream, strict=True)]
    return [v % RING for v in acc]


# --- the checksum of a sum (section 4.1) ------------------------------------------------------------------------------

TAGS = 2**61 - 1


def tag_key(t2_hash: bytes, kappas: dict[str, bytes]) -> bytes:
    """K, from the parts of all dealers."""
    return h("mackey", t2_hash, *[kappas[member] for member in sorted(kappas)])


def weight(key: bytes, coordinate: int) -> int:
    """r_l: 61 bits of the u64 at byte 8 l."""
    block = aes.ctr(key, coordinate // 2, 16)
    return int.from_bytes(block[8 * (coordinate % 2) :][:8], "little") % 2**61


def tag(key: bytes, vector: list[int]) -> int:
    """The weighted sum of signed integers."""
    return sum(weight(key, place) * value for place, value in enumerate(vector)) % TAGS


def tag_mask(t2_hash: bytes, member: str, private: bytes, seed: bytes, publics: dict[str, bytes]) -> int:
    """What `member` adds to its tag."""
    total = mask_number(kdf(t2_hash, seed, "mask/self/tag", member.encode()))
    for other, public in publics.items():
        if other != member:
            low, high = sorted([member, other])
            shared = curves.x25519(private, public)
            key = kdf(t2_hash, shared, "mask/pair/tag", low.encode(), high.encode(), publics[low], publics[high])
            total += mask_number(key) if member < other else -mask_number(key)
    return total % TAGS


def mask_number(key: bytes) -> int:
    """16 bytes of the stream, modulo 2^61-1."""
    return int.from_bytes(aes.ctr(key, 0, 16), "little") % TAGS


# --- numbers ----------------------------------------------------------------------------------------------------------


def quantise(values: list[float], scale: float, limit: int, key: bytes, start: int) -> tuple[list[int], int]:
    """Section 2.5.3 in exact fractions after the one float64 product; (integers, clamped coordinates)."""
    stream = aes.words(key, 2 * start, 2 * len(values))
    out, clamps = [], 0
    for i, value in enumerate(values):
        product = value * scale
        clamps += abs(product) > limit
        v = Fraction(min(max(product, -limit), limit))
        uniform = Fraction((stream[2 * i] | stream[2 * i + 1] << 32) >> 11, 2**53)
        out.append(math.floor(v) + (uniform < v - math.floor(v)))
    return out, clamps
