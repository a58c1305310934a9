"""Known answers that others published; the reference recomputes each before it is written down."""

from tests.reference import aes, curves, flsa

Case = dict[str, object]
_hex = bytes.fromhex


def x25519() -> list[Case]:
    """RFC 7748 sections 5.2 and 6.1: (name, private, u, output)."""
    alice = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
    bob = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
    alice_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    bob_public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    rows = [
        (
            "RFC 7748 5.2 first",
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "RFC 7748 5.2 second, u above 2^255",
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
        (
            "RFC 7748 5.2 one iteration",
            "09" + "00" * 31,
            "09" + "00" * 31,
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
        ),
        ("RFC 7748 6.1 Alice", alice, bob_public, shared),
        ("RFC 7748 6.1 Bob", bob, alice_public, shared),
    ]
    assert curves.x25519_public(_hex(alice)).hex() == alice_public
    assert curves.x25519_public(_hex(bob)).hex() == bob_public
    for name, private, u, out in rows:
        assert curves.x25519(_hex(private), _hex(u)).hex() == out, name
    return [{"name": n, "in": {"private": k, "peer_public": u}, "out": {"shared_secret": o}} for n, k, u, o in rows]


def ed25519() -> list[Case]:
    """RFC 8032 section 7.1, tests 1 to 3: (private, public, message, signature)."""
    rows = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2"
            "4655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302ae"
            "eb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28"
            "dc027beceea1ec40a",
        ),
    ]
    for private, public, message, signature in rows:
        assert curves.ed25519_public(_hex(private)).hex() == public
        assert curves.ed25519_sign(_hex(private), _hex(message)).hex() == signature
    return [
        {"name": f"RFC 8032 7.1 test {i}", "in": {"private": k, "message": m}, "out": {"public": p, "signature": s}}
        for i, (k, p, m, s) in enumerate(rows, 1)
    ]


def hkdf() -> list[Case]:
    """RFC 5869 appendix A.1 to A.3: (ikm, salt, info, okm)."""
    run = bytes(range(256))
    rows = [
        (
            bytes([0x0B] * 22),
            run[:13],
            run[0xF0:0xFA],
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            run[:0x50],
            run[0x60:0xB0],
            run[0xB0:],
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b83"
            "67793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            bytes([0x0B] * 22),
            b"",
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ]
    cases: list[Case] = []
    for i, (ikm, salt, info, okm) in enumerate(rows, 1):
        assert flsa.hkdf(salt, ikm, info, len(okm) // 2).hex() == okm
        inputs = {"ikm": ikm.hex(), "salt": salt.hex(), "info": info.hex()}
        cases.append({"name": f"RFC 5869 A.{i}", "in": inputs, "out": {"okm": okm}})
    return cases


def aes_ctr() -> list[Case]:
    """NIST SP 800-38A F.5.5 (CTR-AES256.Encrypt): the four blocks, and each block reached by a seek."""
    key = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    plain = (
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    cases: list[Case] = []
    for first, last in ((0, 4), (0, 1), (1, 2), (2, 3), (3, 4)):
        p, c = _hex(plain)[16 * first : 16 * last], _hex(cipher)[16 * first : 16 * last]
        stream = bytes(a ^ b for a, b in zip(p, c, strict=True))
        assert aes.ctr(_hex(key), counter + first, len(p)) == stream
        inputs = {"key": key, "counter": f"{counter + first:032x}", "plaintext": p.hex()}
        name = f"SP 800-38A F.5.5 blocks {first + 1} to {last}"
        cases.append({"name": name, "in": inputs, "mid": {"keystream": stream.hex()}, "out": {"ciphertext": c.hex()}})
    return cases
