"""X25519 (RFC 7748) and Ed25519 (RFC 8032) on integers."""

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def x25519(scalar: bytes, u: bytes) -> bytes:
    """RFC 7748 section 5: clamp, ladder, encode."""
    k = int.from_bytes(scalar, "little") & ~7 & (2**255 - 1) | 2**254
    x1 = (int.from_bytes(u, "little") & (2**255 - 1)) % P
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        e = aa - bb
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def x25519_public(scalar: bytes) -> bytes:
    """The public key: the scalar times the base point u = 9."""
    return x25519(scalar, (9).to_bytes(32, "little"))


Point = tuple[int, int]  # affine, on -x^2 + y^2 = 1 + d x^2 y^2


def _add(p: Point, q: Point) -> Point:
    (x1, y1), (x2, y2) = p, q
    t = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def _times(k: int, p: Point) -> Point:
    out = (0, 1)
    while k:
        if k & 1:
            out = _add(out, p)
        p, k = _add(p, p), k >> 1
    return out


def _encode(p: Point) -> bytes:
    return (p[1] | (p[0] & 1) << 255).to_bytes(32, "little")


def _base() -> Point:
    y = 4 * pow(5, -1, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    return (P - x if x & 1 else x), y


BASE = _base()


def _expand(private: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(private).digest()
    return int.from_bytes(digest[:32], "little") & ~7 & (2**255 - 1) | 2**254, digest[32:]


def ed25519_public(private: bytes) -> bytes:
    """RFC 8032 section 5.1.5."""
    return _encode(_times(_expand(private)[0], BASE))


def ed25519_sign(private: bytes, message: bytes) -> bytes:
    """RFC 8032 section 5.1.6."""
    a, prefix = _expand(private)
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    point = _encode(_times(r, BASE))
    k = int.from_bytes(hashlib.sha512(point + ed25519_public(private) + message).digest(), "little") % L
    return point + ((r + k * a) % L).to_bytes(32, "little")
