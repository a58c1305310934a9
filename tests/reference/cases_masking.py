"""Our own vectors for one attempt: transcript, shares, masks, rounding, quorum. A failing case names its step."""

from tests.reference import aes, curves, flsa
from tests.reference.cases_crypto import Case, seed

IDS = ["org-001", "org-002", "org-003", "org-004", "org-005"]


def pattern(size: int) -> bytes:
    """Bytes by a rule, so that a long model needs no room in a file: byte i = (7 i + i // 256) mod 256."""
    return bytes((7 * i + i // 256) % 256 for i in range(size))


def transcript() -> list[Case]:
    """T0 to T3 over member sets of several sizes, leaves and roots, model hashes."""
    cases: list[Case] = []
    for name, u1, u2, u3 in (
        ("all stay", IDS[:3], IDS[:3], IDS[:3]),
        ("one lost after each phase", IDS, IDS[:4], IDS[:3]),
        ("ids that sort by bytes", ["b", "a-1", "a_1", "a1"], ["b", "a1", "a_1"], ["b", "a1"]),
    ):
        manifest = f"manifest of {name}".encode()
        adverts = {i: f"advert {i}".encode() for i in u1}
        headers = {i: f"header {i}".encode() for i in u3}
        one = flsa.t0(manifest)
        two = flsa.t1(one, adverts)
        three = flsa.t2(two, u2)
        inputs = {
            "manifest": manifest.hex(),
            "adverts": {i: a.hex() for i, a in adverts.items()},
            "dealers": u2,
            "headers": {i: a.hex() for i, a in headers.items()},
        }
        mid = {"t0": one.hex(), "t1": two.hex(), "t2": three.hex()}
        cases.append({"name": name, "in": inputs, "mid": mid, "out": {"t3": flsa.t3(three, headers).hex()}})
    return cases


def leaves() -> list[Case]:
    """Leaf hashes and roots of vectors given by a rule: coordinate i = (i * 2654435761) mod 2^32."""
    cases: list[Case] = []
    under = seed("leaves")
    for size in (0, 1, 4, flsa.LEAF - 1, flsa.LEAF, flsa.LEAF + 1, 2 * flsa.LEAF + 5):
        vector = [i * 2654435761 % flsa.RING for i in range(size)]
        own, total = flsa.input_leaves(under, "org-001", vector), flsa.sum_leaves(under, vector)
        mid = {"input_leaves": [x.hex() for x in own], "sum_leaves": [x.hex() for x in total]}
        out = {"input_root": flsa.h("leaves", *own).hex(), "sum_root": flsa.h("leaves", *total).hex()}
        inputs = {"transcript": under.hex(), "org": "org-001", "length": size}
        cases.append({"name": f"{size} coordinates", "in": inputs, "mid": mid, "out": out})
    return cases


def model() -> list[Case]:
    """A18 model hashes of `pattern(size)`."""
    sizes = (0, 4, 65_532, 65_536, 65_540, 131_072 + 8)
    return [
        {"name": f"{size} bytes", "in": {"size": size}, "out": {"model_hash": flsa.model_hash(pattern(size)).hex()}}
        for size in sizes
    ]


def shares() -> list[Case]:
    """One sealed share with all it is made of, and every way to spoil one, with the step that notices."""
    t0, t1 = seed("shares/t0"), seed("shares/t1")
    dealer, recipient = "org-001", "org-002"
    dealer_key, recipient_key = seed("shares/c1"), seed("shares/c2")
    kappa, nonce = seed("shares/kappa"), seed("shares/nonce")[:12]
    key_share = flsa.deal(seed("shares/s"), [7, 11], [2])[2]
    self_share = flsa.deal(seed("shares/b"), [flsa.FIELD - 1, 5], [2])[2]
    body = {"key_share": key_share, "self_share": self_share, "kappa": kappa, "nonce": nonce}

    def sealed(x: int = 2, **change: bytes) -> dict[str, bytes]:
        public = curves.x25519_public(recipient_key)
        return flsa.share_message(t1, dealer, recipient, x, dealer_key, public, {**body, **change})

    good = sealed()
    commit = flsa.h("kappa", t0, dealer.encode(), kappa)
    given = {
        "t0": t0.hex(),
        "t1": t1.hex(),
        "dealer": dealer,
        "recipient": recipient,
        "x": 2,
        "recipient_private": recipient_key.hex(),
        "dealer_public": curves.x25519_public(dealer_key).hex(),
        "kappa_commit": commit.hex(),
        "nonce": nonce.hex(),
    }
    message = {k: good[k].hex() for k in ("ciphertext", "key_share_commit", "self_share_commit")}
    made_from = {"dealer_private": dealer_key.hex(), **{k: v.hex() for k, v in body.items()}}
    mid = {k: good[k].hex() for k in ("shared_secret", "key", "aad", "plaintext")}
    opened = {k: body[k].hex() for k in ("key_share", "self_share", "kappa")}
    cases: list[Case] = [
        {"name": "good", "in": {**given, **message, "made_from": made_from}, "mid": mid, "out": opened}
    ]

    def committed(parts: dict[str, bytes], like: dict[str, bytes]) -> dict[str, object]:
        """A ciphertext of one making with the commitments of another."""
        return {
            "ciphertext": parts["ciphertext"].hex(),
            "key_share_commit": like["key_share_commit"].hex(),
            "self_share_commit": like["self_share_commit"].hex(),
        }

    cipher = good["ciphertext"]
    flipped = (bytes([cipher[0] ^ 1]) + cipher[1:]).hex()
    tag_flipped = (cipher[:-1] + bytes([cipher[-1] ^ 128])).hex()
    too_big = flsa.FIELD.to_bytes(33, "big")
    spoiled: list[tuple[str, dict[str, object], str]] = [
        ("bit flipped in the ciphertext", {"ciphertext": flipped}, "aead_failed"),
        ("bit flipped in the tag", {"ciphertext": tag_flipped}, "aead_failed"),
        ("truncated", {"ciphertext": cipher[:-1].hex()}, "bad_length"),
        ("one byte more", {"ciphertext": cipher.hex() + "00"}, "bad_length"),
        ("empty", {"ciphertext": ""}, "bad_length"),
        ("nonce of 11 bytes", {"nonce": nonce[:11].hex()}, "aead_failed"),
        ("another nonce", {"nonce": bytes(12).hex()}, "aead_failed"),
        ("under another T1", {"t1": seed("shares/other").hex()}, "aead_failed"),
        ("relabelled dealer", {"dealer": "org-003"}, "aead_failed"),
        ("for another recipient", {"recipient": "org-003"}, "aead_failed"),
        ("another dealer key", {"dealer_public": curves.x25519_public(seed("shares/c3")).hex()}, "aead_failed"),
        ("low-order dealer key", {"dealer_public": bytes(32).hex()}, "low_order_key"),
        ("dealt at another x", {"ciphertext": sealed(x=3)["ciphertext"].hex()}, "wrong_x"),
        ("version 2", {"ciphertext": sealed(version=b"\2")["ciphertext"].hex()}, "wrong_x"),
        ("key share equal to p", committed(sealed(key_share=too_big), sealed(key_share=too_big)), "bad_share"),
        ("self share equal to p", committed(sealed(self_share=too_big), sealed(self_share=too_big)), "bad_share"),
        ("key share not as committed", committed(sealed(key_share=bytes(33)), good), "wrong_commitment"),
        ("self share not as committed", committed(sealed(self_share=bytes(33)), good), "wrong_commitment"),
        ("kappa not as advertised", {"ciphertext": sealed(kappa=bytes(32))["ciphertext"].hex()}, "wrong_kappa"),
        ("kappa committed under another T0", {"t0": bytes(32).hex()}, "wrong_kappa"),
    ]
    for name, change, step in spoiled:
        inputs = {**given, **message, **change}
        cases.append({"name": name, "in": inputs, "fails_at": step, "code": "bad_share"})
    return cases


def _attempt(name: str, members: list[str], survivors: list[str], length: int) -> Case:
    under = seed(f"masking/{name}/t2")
    privates = {i: seed(f"masking/{name}/s/{i}") for i in members}
    seeds = {i: seed(f"masking/{name}/b/{i}") for i in members}
    publics = {i: curves.x25519_public(privates[i]) for i in members}
    vectors = {i: aes.words(seed(f"masking/{name}/x/{i}"), 0, length) for i in members}
    masked = {i: flsa.masked(under, i, privates[i], seeds[i], publics, vectors[i]) for i in members}
    gone = {i: privates[i] for i in members if i not in survivors}
    total = flsa.opened(under, {i: masked[i] for i in survivors}, seeds, gone, publics)
    assert total == [sum(column) % flsa.RING for column in zip(*(vectors[i] for i in survivors), strict=True)]
    pairs = {
        f"{a} {b}": flsa.pair_key(under, privates[a], a, publics, b).hex() for a in members for b in members if a < b
    }
    return {
        "name": name,
        "in": {
            "t2": under.hex(),
            "privates": {i: k.hex() for i, k in privates.items()},
            "self_seeds": {i: k.hex() for i, k in seeds.items()},
            "vectors": vectors,
            "survivors": survivors,
        },
        "mid": {
            "publics": {i: k.hex() for i, k in publics.items()},
            "self_keys": {i: flsa.self_key(under, seeds[i], i).hex() for i in members},
            "pair_keys": pairs,
            "leaf_hashes": {i: [x.hex() for x in flsa.input_leaves(under, i, masked[i])] for i in members},
        },
        "out": {"masked": masked, "sum": total},
    }


def checksums() -> list[Case]:
    """Tags of every member, masked, and what opens their sum over the survivors."""
    members = ["org-001", "org-002", "org-003", "org-004"]
    return [
        _checksum("everyone, 16-bit values", members, members, [(-1) ** i * (i * 7919 % 32768) for i in range(9)]),
        _checksum("one dropped, wide values", members, members[:3], [2**58 - 1, -(2**58), 0, 1, -1, 2**40, -(2**22)]),
    ]


def _checksum(name: str, members: list[str], survivors: list[str], first: list[int]) -> Case:
    under = seed(f"checksum/{name}/t2")
    privates = {i: seed(f"checksum/{name}/s/{i}") for i in members}
    seeds = {i: seed(f"checksum/{name}/b/{i}") for i in members}
    kappas = {i: seed(f"checksum/{name}/kappa/{i}") for i in members}
    publics = {i: curves.x25519_public(privates[i]) for i in members}
    vectors = {member: [value // (place + 1) for value in first] for place, member in enumerate(members)}
    key = flsa.tag_key(under, kappas)
    tags = {i: flsa.tag(key, vectors[i]) for i in members}
    masked = {i: (tags[i] + flsa.tag_mask(under, i, privates[i], seeds[i], publics)) % flsa.TAGS for i in members}
    total = [sum(column) for column in zip(*(vectors[i] for i in survivors), strict=True)]
    opened = flsa.tag(key, total)
    assert opened == sum(tags[i] for i in survivors) % flsa.TAGS
    return {
        "name": name,
        "in": {
            "t2": under.hex(),
            "privates": {i: k.hex() for i, k in privates.items()},
            "self_seeds": {i: k.hex() for i, k in seeds.items()},
            "kappas": {i: k.hex() for i, k in kappas.items()},
            "vectors": {i: [str(value) for value in vectors[i]] for i in members},
            "survivors": survivors,
        },
        "mid": {"key": key.hex(), "weights": [str(flsa.weight(key, place)) for place in range(len(first))]},
        "out": {
            "masked_tags": {i: value.to_bytes(8, "little").hex() for i, value in masked.items()},
            "tag_sum": opened.to_bytes(8, "little").hex(),
        },
    }


def _section_6() -> Case:
    """The row of FLSA/1 section 6: T1 takes the bare public key as advert body there."""
    privates = {"org-001": seed("KAT1s"), "org-002": seed("KAT2s")}
    publics = {i: curves.x25519_public(k) for i, k in privates.items()}
    b1 = seed("KAT1b")
    t0 = flsa.t0(b"kat-manifest")
    t1 = flsa.t1(t0, publics)
    t2 = flsa.t2(t1, list(publics))
    vector = [1, 2**32 - 1, 0, 5]
    masked = flsa.masked(t2, "org-001", privates["org-001"], b1, publics, vector)
    pair = flsa.pair_key(t2, privates["org-001"], "org-001", publics, "org-002")
    shared = curves.x25519(privates["org-001"], publics["org-002"])
    found = {
        "S_1": publics["org-001"].hex(),
        "S_2": publics["org-002"].hex(),
        "T0": t0.hex(),
        "T1": t1.hex(),
        "T2": t2.hex(),
        "k_pair": pair.hex(),
        "k_self": flsa.self_key(t2, b1, "org-001").hex(),
        "share_key": flsa.kdf(t1, shared, "share/key", b"org-001", b"org-002").hex(),
        "selfseed_commit": flsa.h("selfseed", t0, b"org-001", b1).hex(),
        "leaf": flsa.input_leaves(t2, "org-001", masked)[0].hex(),
    }
    published = {
        "S_1": "cbbbd776543d16f308d4e4b495ce1aca1531ac941803eed5e9c19f1469650420",
        "S_2": "3d6a8093bcfd14ec79653f1fc11d93f672b16360c1ae68244626a666b6bb5d69",
        "T0": "f984841faa246517f026103b65c92119a857d1ad9a01b28bb20b633c4b1ea062",
        "T1": "3849f30d63c2115cc72126464ed469740ba9c582892b67479ae9bca5749f79b3",
        "T2": "473025c6b7b1bb7e6b9341324448720b3bd13d04c17c841df46c226a208a2253",
        "k_pair": "4fc36923d7f6236d4c165595069f74b0a24000f5ffe1b5a6f3d66644aeadf746",
        "k_self": "eca0bc2ebfa5a362bc11c4f070cf4028497907b265ad3c8b4364132b39b0e165",
        "share_key": "2483ff757923ddde950239e2b7f9dddde2106c261d4c507c4b93f62970b696db",
        "selfseed_commit": "8b98cbb934c891e5e9846acca03b25b99c526c73bc24565138760c4572eb8117",
        "leaf": "1ece5cd220ce05a8b7a6a95f5e9c61d3e2414a3c0aac2f0c9a931df39c620474",
    }
    assert found == published
    assert aes.words(pair, 0, 4) == [3224311183, 244736600, 2607968501, 3915756502]
    assert masked == [2288270227, 1171851029, 3369762085, 2784168057]
    inputs = {
        "manifest": b"kat-manifest".hex(),
        "privates": {i: k.hex() for i, k in privates.items()},
        "self_seed": b1.hex(),
        "vector": vector,
    }
    out = {"pair_words": aes.words(pair, 0, 4), "masked": masked}
    return {"name": "FLSA/1 section 6", "in": inputs, "mid": found, "out": out}


def section_6() -> list[Case]:
    """The published row alone."""
    return [_section_6()]


def masking() -> list[Case]:
    """Whole attempts with and without drops."""
    return [
        _attempt("three stay", IDS[:3], IDS[:3], 9),
        _attempt("lowest id drops", IDS[:4], IDS[1:4], 6),
        _attempt("highest id drops", IDS[:4], IDS[:3], 6),
        _attempt("two of five drop", IDS, [IDS[0], IDS[2], IDS[4]], 5),
        _attempt("one coordinate", IDS[:3], IDS[:3], 1),
    ]


def recovery() -> list[Case]:
    """Recovered secrets that are not what was advertised: the step that notices."""
    t0, under = seed("recovery/t0"), seed("recovery/t2")
    right, wrong = seed("recovery/s"), seed("recovery/other")
    survivor = curves.x25519_public(seed("recovery/survivor"))
    advertised = curves.x25519_public(right)
    base = {"t2": under.hex(), "dropped": "org-002", "dropped_public": advertised.hex()}
    key = flsa.kdf(under, curves.x25519(right, survivor), "mask/pair/vec", b"org-001", b"org-002", survivor, advertised)
    inputs = {**base, "survivors": {"org-001": survivor.hex()}}
    cases: list[Case] = [
        {
            "name": "the advertised key",
            "in": {**inputs, "recovered": right.hex()},
            "out": {"keys": [{"key": key.hex(), "subtract": True}]},
        },
        {
            "name": "another key",
            "in": {**inputs, "recovered": wrong.hex()},
            "fails_at": "public key",
            "code": "wrong_secret_dealt",
        },
    ]
    commit = flsa.h("selfseed", t0, b"org-001", right)
    seed_inputs = {"t0": t0.hex(), "org": "org-001", "commit": commit.hex()}
    cases.append({"name": "the committed seed", "in": {**seed_inputs, "seed": right.hex()}, "out": {"ok": True}})
    for name, change in (
        ("another seed", {"seed": wrong.hex()}),
        ("another organisation's seed", {"seed": right.hex(), "org": "org-002"}),
        ("a seed of another attempt", {"seed": right.hex(), "t0": bytes(32).hex()}),
    ):
        cases.append(
            {"name": name, "in": {**seed_inputs, **change}, "fails_at": "commitment", "code": "wrong_secret_dealt"}
        )
    return cases


def fixedpoint() -> list[Case]:
    """Rounding with its uniform words; floats are written as C99 hexadecimal."""
    key = seed("fixedpoint")
    rows: list[tuple[str, list[float], float, int, int]] = [
        ("small", [0.0, 1.0, -1.0, 0.5, -0.5, 0.25, -0.75], 1000.3, 524287, 0),
        ("at an offset", [0.1, -0.1, 0.7, -0.7, 0.3], 77.77, 524287, flsa.LEAF - 2),
        ("clamped", [1.0, -1.0, 2.0, 1e308, -1e308], 100.0, 100, 5),
        ("negative zero and denormals", [-0.0, 5e-324, -5e-324, 1e-310, -1e-310], 524287.0, 524287, 3),
        ("largest limit", [1.0, -1.0, 0.9999999999], 2147483647.0, 2147483647, 1),
        ("overflowing product", [1e308, -1e308], 1e10, 7, 0),
        ("empty", [], 3.0, 7, 0),
    ]
    cases: list[Case] = []
    for name, values, scale, limit, start in rows:
        integers, clamps = flsa.quantise(values, scale, limit, key, start)
        inputs = {
            "values": [v.hex() for v in values],
            "scale": scale.hex(),
            "limit": limit,
            "key": key.hex(),
            "start": start,
        }
        out = {"integers": integers, "clamps": clamps, "ring": [v % flsa.RING for v in integers]}
        mid = {"words": aes.words(key, 2 * start, 2 * len(values))}
        cases.append({"name": name, "in": inputs, "mid": mid, "out": out})
    for name, values_hex in (("NaN", ["nan"]), ("infinity", ["0x1p+0", "inf"]), ("minus infinity", ["-inf", "0x0p+0"])):
        inputs = {"values": values_hex, "scale": "0x1p+1", "limit": 7, "key": key.hex(), "start": 0}
        cases.append({"name": name, "in": inputs, "fails_at": "check_finite", "code": "update_not_finite"})
    return cases


def quorum() -> list[Case]:
    """The table of section 2.1 at gamma = 0.2, and manifests that must be refused."""
    table = {3: 3, 4: 3, 5: 4, 7: 5, 10: 7, 20: 13, 30: 19, 50: 31, 100: 61, 200: 121}
    cases: list[Case] = []
    for n, q in table.items():
        c = max(1, n // 5)
        inputs = {"n": n, "c": c, "q": q, "t": q, "min_survivors": q, "local_c": c}
        cases.append({"name": f"N={n}", "in": inputs, "out": {"abort_threshold": n + c - q + 1, "tolerated": n - q}})
    good = {"n": 10, "c": 2, "q": 7, "t": 7, "min_survivors": 7, "local_c": 2}
    for name, change, code in (
        ("q one lower", {"q": 6}, "wrong_quorum"),
        ("q one higher", {"q": 8}, "wrong_quorum"),
        ("t one lower", {"t": 6}, "wrong_threshold"),
        ("t of zero", {"t": 0}, "wrong_threshold"),
        ("t above N", {"t": 11}, "wrong_threshold"),
        ("c below ours", {"local_c": 3}, "corrupt_bound_too_small"),
        ("c of zero", {"c": 0, "q": 6, "t": 6, "local_c": 0}, "corrupt_bound_too_small"),
        ("fewer survivors than the quorum", {"min_survivors": 6}, "wrong_min_survivors"),
        ("more survivors than members", {"min_survivors": 11}, "wrong_min_survivors"),
        ("two members", {"n": 2, "c": 1, "q": 2, "t": 2, "min_survivors": 2, "local_c": 1}, "cohort_too_small"),
        ("N = c+1", {"n": 3, "c": 2, "q": 3, "t": 3, "min_survivors": 3}, "cohort_too_small"),
        ("q above N", {"n": 3, "c": 4, "q": 4, "t": 4, "min_survivors": 3}, "cohort_too_small"),
        ("257 members", {"n": 257, "c": 2, "q": 130, "t": 130, "min_survivors": 130}, "cohort_too_large"),
    ):
        cases.append({"name": name, "in": {**good, **change}, "fails_at": "check_parameters", "code": code})
    return cases
