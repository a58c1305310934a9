"""AES-256 (FIPS 197), counter mode (SP 800-38A 6.5) and Galois/counter mode (SP 800-38D), on integers."""


def _double(a: int) -> int:
    a <<= 1
    return a ^ 0x11B if a & 0x100 else a


def _tables() -> tuple[list[int], list[list[int]]]:
    exp, log, a = [0] * 255, [0] * 256, 1
    for power in range(255):
        exp[power], log[a] = a, power
        a ^= _double(a)  # 3 generates the field's multiplicative group
    sbox = []
    for x in range(256):
        inverse = exp[(255 - log[x]) % 255] if x else 0
        spread = inverse
        for turn in range(1, 5):
            spread ^= (inverse << turn | inverse >> (8 - turn)) & 0xFF
        sbox.append(spread ^ 0x63)
    column = [(_double(s) << 24) | (s << 16) | (s << 8) | (_double(s) ^ s) for s in sbox]
    turned = [[(c >> (8 * r)) | (c << (32 - 8 * r)) & 0xFFFFFFFF for c in column] for r in range(4)]
    return sbox, turned


SBOX, MIX = _tables()


def _substitute(word: int) -> int:
    return int.from_bytes(bytes(SBOX[b] for b in word.to_bytes(4, "big")), "big")


def expand_key(key: bytes) -> list[int]:
    """The 60 round key words of a 32-byte key."""
    assert len(key) == 32
    w = [int.from_bytes(key[i : i + 4], "big") for i in range(0, 32, 4)]
    rcon = 1
    for i in range(8, 60):
        t = w[-1]
        if i % 8 == 0:
            t = _substitute((t << 8 | t >> 24) & 0xFFFFFFFF) ^ (rcon << 24)
            rcon = _double(rcon)
        elif i % 8 == 4:
            t = _substitute(t)
        w.append(w[i - 8] ^ t)
    return w


def encrypt_block(w: list[int], block: bytes) -> bytes:
    """One block under expanded key words."""
    m0, m1, m2, m3 = MIX
    s = [int.from_bytes(block[4 * i : 4 * i + 4], "big") ^ w[i] for i in range(4)]
    for r in range(4, 56, 4):
        s = [
            m0[s[i] >> 24]
            ^ m1[s[(i + 1) % 4] >> 16 & 255]
            ^ m2[s[(i + 2) % 4] >> 8 & 255]
            ^ m3[s[(i + 3) % 4] & 255]
            ^ w[r + i]
            for i in range(4)
        ]
    out = b""
    for i in range(4):
        taken = bytes(SBOX[s[(i + k) % 4] >> (24 - 8 * k) & 255] for k in range(4))
        out += (int.from_bytes(taken, "big") ^ w[56 + i]).to_bytes(4, "big")
    return out


def ctr(key: bytes, counter: int, size: int) -> bytes:
    """Keystream bytes from the block with this 128-bit counter on."""
    w = expand_key(key)
    blocks = -(-size // 16)
    return b"".join(encrypt_block(w, ((counter + i) % 2**128).to_bytes(16, "big")) for i in range(blocks))[:size]


def words(key: bytes, start: int, count: int) -> list[int]:
    """Little-endian 32-bit words start .. start+count of the stream whose counter begins at 0."""
    skip = start % 4
    stream = ctr(key, start // 4, 4 * (skip + count))[4 * skip :]
    return [int.from_bytes(stream[i : i + 4], "little") for i in range(0, len(stream), 4)]


def _multiply(x: int, y: int) -> int:
    z = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def _ghash(h: int, aad: bytes, text: bytes) -> int:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 16)

    data = padded(aad) + padded(text) + (8 * len(aad)).to_bytes(8, "big") + (8 * len(text)).to_bytes(8, "big")
    y = 0
    for i in range(0, len(data), 16):
        y = _multiply(y ^ int.from_bytes(data[i : i + 16], "big"), h)
    return y


def gcm_seal(key: bytes, nonce: bytes, text: bytes, aad: bytes) -> bytes:
    """Ciphertext and 16-byte tag for a 12-byte nonce."""
    h = int.from_bytes(encrypt_block(expand_key(key), bytes(16)), "big")
    first = int.from_bytes(nonce + b"\0\0\0\1", "big")
    body = bytes(a ^ b for a, b in zip(text, ctr(key, first + 1, len(text)), strict=True))
    tag = _ghash(h, aad, body) ^ int.from_bytes(ctr(key, first, 16), "big")
    return body + tag.to_bytes(16, "big")
