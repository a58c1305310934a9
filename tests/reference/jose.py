"""JOSE from its RFCs alone: JWS (7515) with Ed25519 (8037), JWE (7516) with ECDH-ES+A256KW and RSA-OAEP-256 (7518)."""

import base64
import hashlib
import hmac
import json
import math

from tests.reference import aes, curves

Header = dict[str, object]


def b64(data: bytes) -> str:
    """RFC 7515 section 2."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def text(header: Header | list[object]) -> bytes:
    """A header as most writers make it."""
    return json.dumps(header, separators=(",", ":")).encode()


def thumbprint(key: dict[str, str]) -> str:
    """RFC 7638: SHA-256 over the required members, sorted."""
    return b64(hashlib.sha256(json.dumps(key, separators=(",", ":"), sort_keys=True).encode()).digest())


def okp(curve: str, public: bytes) -> dict[str, str]:
    """RFC 8037 section 2."""
    return {"crv": curve, "kty": "OKP", "x": b64(public)}


def jws(private: bytes, header: bytes, payload: bytes) -> str:
    """RFC 7515 section 5.1."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(curves.ed25519_sign(private, signed.encode()))}"


def hs256(secret: bytes, header: bytes, payload: bytes) -> str:
    """RFC 7518 section 3.2: what an attacker makes who hopes that a public key is taken for a secret."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), 'sha256').digest())}"


def concat_kdf(z: bytes, algorithm: bytes, apu: bytes, apv: bytes, bits: int) -> bytes:
    """RFC 7518 section 4.6.2; SP 800-56A section 5.8.1 with SHA-256."""

    def sized(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    info = sized(algorithm) + sized(apu) + sized(apv) + bits.to_bytes(4, "big")
    rounds = -(-bits // 256)
    made = b"".join(hashlib.sha256(i.to_bytes(4, "big") + z + info).digest() for i in range(1, rounds + 1))
    return made[: bits // 8]


def key_wrap(kek: bytes, key: bytes) -> bytes:
    """RFC 3394 section 2.2.1 under a key of 32 bytes."""
    schedule = aes.expand_key(kek)
    a, r = b"\xa6" * 8, [key[i : i + 8] for i in range(0, len(key), 8)]
    for j in range(6):
        for i in range(len(r)):
            b = aes.encrypt_block(schedule, a + r[i])
            a = (int.from_bytes(b[:8], "big") ^ (len(r) * j + i + 1)).to_bytes(8, "big")
            r[i] = b[8:]
    return a + b"".join(r)


def mgf1(seed: bytes, size: int, digest: str = "sha256") -> bytes:
    """RFC 8017 appendix B.2.1."""
    made, counter = b"", 0
    while len(made) < size:
        made += hashlib.new(digest, seed + counter.to_bytes(4, "big")).digest()
        counter += 1
    return made[:size]


def oaep(
    message: bytes, size: int, seed: bytes, digest: str = "sha256", mask: str = "", label: bytes = b"", first: int = 0
) -> bytes:
    """RFC 8017 section 7.1.1, encoding alone; `first` is 0 in all that is well made."""
    width = hashlib.new(digest).digest_size
    seed = seed[:width]
    hashed = hashlib.new(digest, label).digest()
    block = hashed + bytes(size - len(message) - 2 * width - 2) + b"\x01" + message
    masked = _xor(block, mgf1(seed, len(block), mask or digest))
    return bytes([first]) + _xor(seed, mgf1(masked, width, mask or digest)) + masked


def pkcs1(message: bytes, size: int) -> bytes:
    """RFC 8017 section 7.2.1 with padding that is no secret."""
    return b"\0\x02" + b"\x5a" * (size - len(message) - 3) + b"\0" + message


class Rsa:
    """A key from two names: the primes are the first behind what SHAKE-256 makes of them."""

    def __init__(self, p: tuple[bytes, int], q: tuple[bytes, int], size: int) -> None:
        self.p, self.q = (_near(name, steps, size) for name, steps in (p, q))
        self.n, self.e = self.p * self.q, 65_537
        self.d = pow(self.e, -1, math.lcm(self.p - 1, self.q - 1))
        self.octets = -(-self.n.bit_length() // 8)

    @property
    def jwk(self) -> dict[str, str]:
        """Public members, RFC 7518 section 6.3.1."""
        return {"e": b64(self.e.to_bytes(3, "big")), "kty": "RSA", "n": b64(self.n.to_bytes(self.octets, "big"))}

    def encrypt(self, block: bytes) -> bytes:
        """RSAEP on octets."""
        return pow(int.from_bytes(block, "big"), self.e, self.n).to_bytes(self.octets, "big")


def _near(name: bytes, steps: int, size: int) -> int:
    drawn = hashlib.shake_256(b"fedveil/tests/jose/" + name).digest(size)
    return (int.from_bytes(drawn, "big") | 3 << (8 * size - 2) | 1) + 2 * steps


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def jwe(header: bytes, wrapped: bytes, nonce: bytes, key: bytes, payload: bytes) -> str:
    """RFC 7516 section 5.1, A256GCM, the content key being wrapped already."""
    sealed = aes.gcm_seal(key, nonce, payload, b64(header).encode())
    return ".".join([b64(header), b64(wrapped), b64(nonce), b64(sealed[:-16]), b64(sealed[-16:])])
