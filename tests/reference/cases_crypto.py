"""Our own vectors for the primitives: agreement, signatures, streams, sharing. A failing case names its step."""

import hashlib

from tests.reference import aes, curves, flsa

Case = dict[str, object]


def seed(name: str) -> bytes:
    """32 bytes that anyone can recompute: SHA-256 of the name."""
    return hashlib.sha256(name.encode()).digest()


LOW_ORDER = {
    "0": 0,
    "1": 1,
    "order 8, first": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "order 8, second": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
    "-1": curves.P - 1,
}


def agreement() -> list[Case]:
    """X25519 between derived keys; low-order and non-canonical points."""
    a, b = seed("agreement/a"), seed("agreement/b")
    out = curves.x25519(a, curves.x25519_public(b))
    assert out == curves.x25519(b, curves.x25519_public(a))
    cases: list[Case] = [
        {
            "name": "two derived keys",
            "in": {"private": a.hex(), "peer_public": curves.x25519_public(b).hex()},
            "mid": {"public": curves.x25519_public(a).hex()},
            "out": {"shared_secret": out.hex()},
        }
    ]
    bad = {f"low order: {name}": u.to_bytes(32, "little") for name, u in LOW_ORDER.items()}
    bad |= {f"not canonical: p+{u}": (curves.P + u).to_bytes(32, "little") for u in (0, 1, 2, 9, 18)}
    bad |= {f"bit 255 set: {u}": (u + 2**255).to_bytes(32, "little") for u in (0, 1, 9)}
    bad |= {"31 bytes": bytes(range(1, 32)), "33 bytes": bytes(range(1, 34)), "empty": b""}
    for name, key in bad.items():
        inputs = {"private": a.hex(), "peer_public": key.hex()}
        case: Case = {"name": name, "in": inputs, "fails_at": "check_public_key", "code": "bad_public_key"}
        if len(key) == 32:
            case["mid"] = {"all_zero_output": curves.x25519(a, key) == bytes(32)}
        cases.append(case)
    return cases


def signing() -> list[Case]:
    """Signed blobs; every single change of type, signer, body, key or signature fails."""
    key, other = seed("signing/a"), seed("signing/b")
    public = curves.ed25519_public(key).hex()
    cases: list[Case] = []
    for kind, body in (("manifest", b"body"), ("vote", b""), ("abort", bytes(100)), ("share_opening", b"\xff\0")):
        sig = flsa.blob_signature(key, kind, "org-001", body)
        inputs = {"private": key.hex(), "signer": "org-001", "type": kind, "body": body.hex()}
        message = flsa.labelled("sig/" + kind, b"org-001", body).hex()
        cases.append(
            {
                "name": f"a {kind}",
                "in": inputs,
                "mid": {"message": message},
                "out": {"public": public, "sig": sig.hex()},
            }
        )
    sig = flsa.blob_signature(key, "vote", "org-001", b"t3")
    good = {"public": public, "signer": "org-001", "type": "vote", "expected": "vote", "body": b"t3".hex()}
    s_plus_order = sig[:32] + (int.from_bytes(sig[32:], "little") + curves.L).to_bytes(32, "little")
    changes: list[tuple[str, dict[str, str], bytes, str, str]] = [
        ("vote where an abort belongs", {"expected": "abort"}, sig, "type", "wrong_type"),
        ("vote relabelled as abort", {"type": "abort", "expected": "abort"}, sig, "signature", "bad_signature"),
        ("another signer's name", {"signer": "org-002"}, sig, "signature", "bad_signature"),
        ("another body", {"body": b"t4".hex()}, sig, "signature", "bad_signature"),
        ("another key", {"public": curves.ed25519_public(other).hex()}, sig, "signature", "bad_signature"),
        ("one bit of R", {}, bytes([sig[0] ^ 1]) + sig[1:], "signature", "bad_signature"),
        ("S plus the group order", {}, s_plus_order, "signature", "bad_signature"),
        ("63 bytes", {}, sig[:63], "signature", "bad_signature"),
        ("empty", {}, b"", "signature", "bad_signature"),
        ("key of 31 bytes", {"public": public[2:]}, sig, "signature", "bad_signature"),
    ]
    for name, change, signature, step, code in changes:
        inputs = {**good, "sig": signature.hex(), **change}
        cases.append({"name": name, "in": inputs, "fails_at": step, "code": code})
    return cases


def prg() -> list[Case]:
    """Words of a stream anywhere: leaf borders, unaligned starts, carries of the counter."""
    key = seed("prg")
    rows = [("zero", 0, 8), ("unaligned", 3, 7), ("one word", 5, 1), ("none", 9, 0)]
    rows += [(f"border of leaf {leaf}", leaf * flsa.LEAF - 3, 6) for leaf in (1, 2, 61)]
    rows += [
        ("border of a 256 KiB chunk", 65_536 - 2, 5),
        ("past 2^32 bytes", 2**30 - 2, 6),
        ("past 2^32 words", 2**32 - 2, 6),
    ]
    rows += [("carry of 32 counter bits", 4 * 2**32 - 4, 8), ("carry of 64 counter bits", 4 * 2**64 - 5, 10)]
    rows += [("carry of 8 counter bits", 4 * 255, 8)]
    return [
        {
            "name": name,
            "in": {"key": key.hex(), "start": str(start), "count": count},
            "mid": {"first_block": aes.ctr(key, start // 4, 16).hex()},
            "out": {"words": aes.words(key, start, count)},
        }
        for name, start, count in rows
    ]


def _coefficients(name: str, count: int) -> list[int]:
    return [int.from_bytes(flsa.hkdf(b"", seed(name), bytes([i]), 48), "big") % flsa.FIELD for i in range(count)]


def shamir() -> list[Case]:
    """Dealing and reconstruction; FLSA/1 section 6's row; every malformed share."""
    counting = bytes(range(32))
    rows: list[tuple[str, bytes, list[int], list[int], list[int]]] = [
        ("FLSA/1 section 6", counting, [7, 11], [1, 2, 3, 4, 5], [2, 4, 5]),
        ("threshold 1", seed("shamir/1"), [], [1, 2], [2]),
        ("all ones", b"\xff" * 32, [flsa.FIELD - 1, flsa.FIELD - 1], [1, 2, 3], [1, 2, 3]),
        ("all zeros", bytes(32), [0, 0, 0], [1, 2, 3, 9], [1, 2, 3, 9]),
        ("largest x", seed("shamir/x"), _coefficients("shamir/x", 1), [1, 256, 65535], [256, 65535]),
        ("10 members", seed("shamir/10"), _coefficients("shamir/10", 6), list(range(1, 11)), [1, 3, 4, 6, 7, 9, 10]),
    ]
    cases: list[Case] = []
    for name, secret, coefficients, xs, used in rows:
        shares = flsa.deal(secret, coefficients, xs)
        threshold = len(coefficients) + 1
        assert flsa.at_zero({x: int.from_bytes(shares[x], "big") for x in used[:threshold]}) == int.from_bytes(
            secret, "big"
        )
        inputs = {"secret": secret.hex(), "threshold": threshold, "coefficients": [f"{c:x}" for c in coefficients]}
        out = {"shares": {str(x): s.hex() for x, s in shares.items()}, "reconstruct_from": used}
        cases.append({"name": name, "in": inputs, "out": out})
    section_6 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1f55"
    assert flsa.deal(counting, [7, 11], [5])[5].hex() == "00" + section_6
    good = {x: s.hex() for x, s in flsa.deal(seed("shamir/bad"), _coefficients("shamir/bad", 2), [1, 2, 3]).items()}
    p = f"{flsa.FIELD:066x}"
    # The value at 0 of these three is 2^256: a field element that is no 32-byte string.
    outside = {x: ((2**256 + 5 * x) % flsa.FIELD).to_bytes(33, "big").hex() for x in (1, 2, 3)}
    bad: list[tuple[str, dict[int, str], str, str]] = [
        ("share equal to p", {**good, 2: p}, "check_share", "bad_share"),
        ("share p+1", {**good, 2: f"{flsa.FIELD + 1:066x}"}, "check_share", "bad_share"),
        ("share of 264 ones", {**good, 3: "ff" * 33}, "check_share", "bad_share"),
        ("alias y+p", {**good, 1: f"{int(good[1], 16) + flsa.FIELD:066x}"}, "check_share", "bad_share"),
        ("32 bytes", {**good, 1: good[1][2:]}, "check_share", "bad_share"),
        ("34 bytes", {**good, 1: "00" + good[1]}, "check_share", "bad_share"),
        ("empty share", {**good, 1: ""}, "check_share", "bad_share"),
        ("bad share beyond the threshold", {**good, 9: p}, "check_share", "bad_share"),
        ("x = 0", {0: good[1], 2: good[2], 3: good[3]}, "check_coordinates", "bad_share"),
        ("x = 65536", {65536: good[1], 2: good[2], 3: good[3]}, "check_coordinates", "bad_share"),
        ("two of three", {1: good[1], 2: good[2]}, "count", "too_few_shares"),
        ("none of three", {}, "count", "too_few_shares"),
        ("value at zero is 2^256", outside, "range", "not_a_secret"),
    ]
    for name, shares_hex, step, code in bad:
        inputs = {"threshold": 3, "shares": {str(x): s for x, s in shares_hex.items()}}
        cases.append({"name": name, "in": inputs, "fails_at": step, "code": code})
    return cases
