"""The packed form of a leaf (A14) on integers: parts of b, low bits first, small parts strided."""

from tests.reference.cases_crypto import Case


def pack(residues: list[int], bits: int) -> bytes:
    """One leaf."""
    out, taken = b"", 0
    for width in (64, 32, 16, 8, 4, 2, 1):
        if not bits & width:
            continue
        parts = [(residue >> taken) % 2**width for residue in residues]
        taken += width
        if width >= 8:
            out += b"".join(part.to_bytes(width // 8, "little") for part in parts)
            continue
        parts += [0] * (-len(parts) % 8)
        step = len(parts) * width // 8
        out += bytes(sum(parts[byte + k * step] << (width * k) for k in range(8 // width)) for byte in range(step))
    return out


def residues(count: int, bits: int) -> list[int]:
    """Residues by a rule: number i is (i + 1) * 0x9E3779B97F4A7C15 mod 2^64, of which the top `bits` bits."""
    return [((i + 1) * 0x9E3779B97F4A7C15) % 2**64 >> (64 - bits) for i in range(count)]


def cases() -> list[Case]:
    """Every part alone and in company, lengths around a multiple of 8, the ends of the ring; then what is refused."""
    made: list[Case] = []
    for bits in (8, 9, 10, 12, 16, 20, 24, 27, 31, 32, 33, 40, 47, 63, 64):
        for count in (1, 7, 8, 9, 16):
            given = residues(count, bits)
            inputs = {"bits": bits, "count": count, "residues": given}
            made.append({"name": f"{count} in 2^{bits}", "in": inputs, "out": {"packed": pack(given, bits).hex()}})
        ends = [0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1]
        inputs = {"bits": bits, "count": len(ends), "residues": ends}
        made.append({"name": f"ends of 2^{bits}", "in": inputs, "out": {"packed": pack(ends, bits).hex()}})
    for bits, count, at in ((20, 5, -1), (9, 3, -1), (10, 9, -1), (33, 1, -1)):
        packed = bytearray(pack(residues(count, bits), bits))
        packed[at] |= 0x80
        inputs = {"bits": bits, "count": count, "packed": packed.hex()}
        made.append({"name": f"padding of {count} in 2^{bits}", "in": inputs, "fails_at": "bad_leaf"})
    for change in (-1, 1):
        packed = bytearray(pack(residues(8, 20), 20)) + b"\0"
        inputs = {"bits": 20, "count": 8, "packed": packed[: 20 + change].hex()}
        made.append({"name": f"{change} byte", "in": inputs, "fails_at": "bad_leaf"})
    return made
