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


# --- points that a hostile member may send ------------------------------------------------------------------------

A = 486662
"""Curve25519: v^2 = u^3 + A u^2 + u; its twist has the u for which that is no square (RFC 7748 section 4.1)."""


def root(square: int) -> int | None:
    """A square root modulo p, if there is one (p = 5 mod 8)."""
    found = pow(square % P, (P + 3) // 8, P)
    for candidate in (found, found * ROOT % P):
        if (candidate * candidate - square) % P == 0:
            return candidate
    return None


def on_twist(u: int) -> bool:
    """Whether u is the coordinate of a point of the twist and not of the curve."""
    return root(u * u * u + A * u * u + u) is None


def low_order_u() -> set[int]:
    """The u of all points of order 2, 4 and 8, on curve and twist; times the cofactor they are nothing.

    Order 2: u = 0. Order 4: the double is 0, so (u^2 - 1)^2 = 0. Order 8: the double (u^2-1)^2 / 4u(u^2+Au+1) is 1 or
    -1; divided by u^2 and with w = u + 1/u that is w^2 - 4w - 4A - 4 = 0 or w^2 + 4w + 4A - 4 = 0.
    """
    found = {0, 1, P - 1}
    for sign in (1, -1):
        half = root(sign * A + 2)
        for w in () if half is None else (2 * sign + 2 * half, 2 * sign - 2 * half):
            other = root(w * w - 4)
            for numerator in () if other is None else (w + other, w - other):
                found.add(numerator * pow(2, -1, P) % P)
    return found


def encodings_u(u: int) -> list[bytes]:
    """Every string of 32 bytes that RFC 7748 decodes to u: u, u + p where it fits, each with bit 255 clear and set."""
    values = [value for value in (u, u + P) if value < 2**255]
    return [(value | high).to_bytes(32, "little") for value in values for high in (0, 2**255)]


def low_order_points() -> list[Point]:
    """The eight points of Ed25519 whose order divides 8: multiples of L times a point outside the prime group."""
    y = 2
    while True:
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = root(square)
        if x is not None:
            torsion = _times(L, (x, y))
            multiples = [_times(k, torsion) for k in range(8)]
            if len(set(multiples)) == 8:
                return multiples
        y += 1


def encodings(point: Point) -> list[bytes]:
    """Every string of 32 bytes that a lenient decoder takes for the point: y + p too, and either sign where x = 0."""
    values = [value for value in (point[1], point[1] + P) if value < 2**255]
    signs = (0, 1) if point[0] == 0 else (point[0] & 1,)
    return [(value | sign << 255).to_bytes(32, "little") for value in values for sign in signs]


def ed25519_sign_with(private: bytes, message: bytes, r: int, encoded_r: bytes | None = None) -> bytes:
    """A signature with a nonce of the signer's choice, and with an encoding of R of its choice."""
    a, _ = _expand(private)
    point = encoded_r or _encode(_times(r, BASE))
    k = int.from_bytes(hashlib.sha512(point + ed25519_public(private) + message).digest(), "little") % L
    return point + ((r + k * a) % L).to_bytes(32, "little")


def ed25519_sign_for_nobody(s: int) -> bytes:
    """What verifies for any message under a public key that is the neutral element: R = S B."""
    return _encode(_times(s, BASE)) + s.to_bytes(32, "little")
