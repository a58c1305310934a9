"""Makes the sum of a Fedveil round again, without Fedveil: python verify_round.py FOLDER FINGERPRINT

FOLDER: as `fedveil verify RUN ROUND --export FOLDER` writes a round under protection masked, and no other. FINGERPRINT:
the federation's, told by telephone. Needs numpy and cryptography. Exit 0: the signed sum is that of the inputs that a
quorum of members certified; 1: it is not, or the folder proves nothing. A forged signature ends in InvalidSignature."""

import hashlib
import json
import math
import pathlib
import sys

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LEAF, FIELD = 16_384, 2**256 + 297
TYPES = {1: "manifest", 2: "advert", 6: "header", 7: "vote", 10: "reveal", 11: "result"}


def labelled(label, *fields):
    return b"".join(len(one).to_bytes(4, "big") + one for one in (b"FLSA/1/" + label.encode(), *fields))


def h(label, *fields):
    return hashlib.sha256(labelled(label, *fields)).digest()


def kdf(salt, secret, label, *fields):
    return HKDF(hashes.SHA256(), 32, salt, labelled(label, *fields)).derive(secret)


def require(condition, what):
    condition or sys.exit(f"NOT VERIFIED: {what}")


def proto(data):
    """The fields of one protocol buffers message: number -> list of values."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        start = at
        at = next(i for i in range(start, len(data)) if data[i] < 128) + 1
        return sum((byte & 127) << (7 * i) for i, byte in enumerate(data[start:at]))

    while at < len(data):
        tag = varint()
        value = varint() if tag & 7 in (0, 2) else 8
        if tag & 7:
            value, at = data[at : at + value], at + value
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def signed(key, sig, label, *fields):
    Ed25519PublicKey.from_public_bytes(key).verify(sig, labelled(label, *fields))


def governed(document, label, governance):
    """Whether k keys of the set signed a governance document."""
    good = {one["key"]: one["sig"] for one in document["signatures"] if one["key"] in governance["keys"]}
    for key, sig in good.items():
        signed(bytes.fromhex(key), bytes.fromhex(sig), label, document["body"].encode())
    return len(good) >= governance["k"]


def parts(data):
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield proto(data[at + 4 : at + 4 + size])
        at += 4 + size


def interpolate(points, threshold):
    """The secret behind Shamir shares {x: y}, 32 bytes."""
    chosen = dict(sorted(points.items())[:threshold])
    require(len(chosen) == threshold, "too few shares were revealed")
    total = 0
    for x, y in chosen.items():
        top, bottom = math.prod(o for o in chosen if o != x), math.prod(o - x for o in chosen if o != x)
        total += y * top * pow(bottom, -1, FIELD)
    return (total % FIELD).to_bytes(33, "big")[1:]


def unpack(data, at, count, bits):
    """The residues (u64) of the packed leaf at `at`, and where it ends."""
    ring, taken = np.zeros(count, np.uint64), 0
    for width in (one for one in (64, 32, 16, 8, 4, 2, 1) if bits & one):
        size = count * width // 8 if width >= 8 else -(-count // 8) * width
        piece = np.frombuffer(data[at : at + size], f"<u{width // 8}" if width >= 8 else "u1")
        if width < 8:
            piece = np.concatenate([(piece >> (width * i)) & (2**width - 1) for i in range(8 // width)])[:count]
        ring += piece.astype(np.uint64) << np.uint64(taken)
        taken, at = taken + width, at + size
    return ring, at


def members(folder, fingerprint):
    """{id: Ed25519 key} and hash of the roster, down from the fingerprint."""
    chain = json.loads((folder / "trust.json").read_bytes())
    sets = [json.loads(one["body"]) for one in chain]
    name, first = sets[0]["federation_id"].encode(), sets[0]["governance"]
    keys = sorted(bytes.fromhex(key) for key in first["keys"])
    require(h("fingerprint", name, first["k"].to_bytes(4, "big"), *keys) == fingerprint, "it is of another federation")
    for document, body, earlier in zip(chain, sets, [chain[0], *chain], strict=False):  # k of both sets sign it
        both = (json.loads(earlier["body"])["governance"], body["governance"])
        follows = body is sets[0] or body["previous"] == h("trust", earlier["body"].encode()).hex()
        require(follows and all(governed(document, "trust", one) for one in both), "the trust chain is broken")
    (document,) = [json.loads(part[2][0]) for part in parts((folder / "round.bin").read_bytes()) if 2 in part]
    body, digest = json.loads(document["body"]), h("roster", document["body"].encode())
    at = [one for one in sets if one["roster"]["version"] < body["version"]][-1]
    require(governed(document, "roster/sig", at["governance"]), "the roster is not signed by the set of its time")
    keys = {one["org_id"]: bytes.fromhex(one["protocol_key"]) for one in body["members"]}
    named = {one["roster"]["hash"] for one in sets if one["roster"]["version"] == body["version"]} | {digest.hex()}
    require(len(named) == 1 and keys["coordinator"].hex() == at["coordinator"], "the chain names another roster")
    return keys, digest


def main(folder, fingerprint):
    keys, roster_hash = members(folder, fingerprint)
    blobs, dealers, leaf_hashes = {kind: {} for kind in TYPES.values()}, [], {}
    for part in parts((folder / "round.bin").read_bytes()):
        if 1 in part:
            blob = proto(part[1][0])
            who, kind, body = blob[1][0].decode(), TYPES.get(blob[2][0], ""), blob[3][0]
            require(kind and who in keys and who not in blobs[kind], f"a {kind or 'blob of another kind'} of {who}")
            signed(keys[who], blob[4][0], f"sig/{kind}", who.encode(), body)
            blobs[kind][who] = body
        elif 3 in part:
            dealers = [name.decode() for name in proto(part[3][0])[1]]
        elif 4 in part:
            (name,), leaf_hashes[name.decode()] = proto(part[4][0]).values()
    manifest, result = blobs["manifest"]["coordinator"], proto(blobs["result"]["coordinator"])
    t0, terms = h("T0", manifest), proto(manifest)
    cohort, (length,), (bits,) = [name.decode() for name in terms[9]], terms[15], terms[16]
    require(terms[8][0] == roster_hash and "coordinator" not in cohort, "the manifest binds another roster")
    adverts = {org: proto(body) for org, body in blobs["advert"].items()}
    require(all(one[1][0] == t0 and org in cohort for org, one in adverts.items()), "an advert of another attempt")
    t1 = h("T1", t0, *[f for org in sorted(adverts) for f in (org.encode(), h("advert", blobs["advert"][org]))])
    require(dealers == sorted(set(dealers)) and set(dealers) <= set(adverts), "dealers not of the key set")
    t2 = h("T2", t1, *[org.encode() for org in dealers])
    survivors = sorted(blobs["header"])
    t3 = h("T3", t2, *[f for org in survivors for f in (org.encode(), h("header", blobs["header"][org]))])
    for org in survivors:
        header = proto(blobs["header"][org])
        require(org in dealers and header[1][0] == t2 and header[2][0] == org.encode(), f"{org} did not deal")
        require(h("leaves", *leaf_hashes[org]) == header[6][0], f"the leaf hashes of {org} are not its header's")
    votes = [org for org, body in blobs["vote"].items() if org in dealers and proto(body)[1] == [t3]]
    require(2 * len(votes) > len(cohort) + max(terms[10][0], (len(keys) - 1) // 5, 1), "no quorum voted for it")
    require(result[1][0] == t3 and result[2][0] == len(survivors), "the result is of another set of inputs")
    streams, reveals = [], {org: proto(body) for org, body in blobs["reveal"].items()}
    require(all(one[1][0] == t3 and org in dealers for org, one in reveals.items()), "a reveal for another set")

    links, dropped = {org: one[5][0] for org, one in reveals.items() if 5 in one}, len(dealers) - len(survivors)
    tolerated = len(dealers) - terms[11][0] if terms[21] == [b"participants"] else 0
    starts = [-(-tolerated * group // min(tolerated, 8)) for group in range(min(tolerated, 8))]
    going = sum(start >= dropped for start in starts)
    for org, link in links.items():  # the noise that leaves: what each showed leads to the chain end of its header
        end = link if going else b""  # where none may, the chain end itself is no link
        for _ in range(going):
            end = h("xnoise/chain", t2, org.encode(), end)
        require(org in survivors and proto(blobs["header"][org])[10] == [end], f"the noise link of {org} is false")
    told = [row for one in result.get(8, []) for row in map(proto, proto(one).get(3, []))]
    require({row[1][0].decode(): row[2][0] for row in told} == links, "other noise is taken out than was shown")

    def shares(of, field):
        rows = [(org, proto(row)) for org, one in reveals.items() for row in one.get(field, [])]
        return {cohort.index(org) + 1: int.from_bytes(row[2][0], "big") for org, row in rows if row[1] == [of.encode()]}

    for org in survivors:
        seed = reveals.get(org, {}).get(2, [b""])[0] or interpolate(shares(org, 3), terms[12][0])
        require(h("selfseed", t0, org.encode(), seed) == adverts[org][5][0], f"the self seed of {org} is another one")
        streams.append((kdf(t2, seed, "mask/self/vec", org.encode()), False))
    for gone in sorted(set(dealers) - set(survivors)):
        private = X25519PrivateKey.from_private_bytes(interpolate(shares(gone, 4), terms[12][0]))
        public = private.public_key().public_bytes_raw()
        require(public == adverts[gone][3][0], f"the mask key of {gone} is another one")
        for org in survivors:
            other = adverts[org][3][0]
            (low, a), (high, b) = sorted([(gone, public), (org, other)])
            secret = private.exchange(X25519PublicKey.from_public_bytes(other))
            streams.append((kdf(t2, secret, "mask/pair/vec", low.encode(), high.encode(), a, b), org > gone))

    word, low, sums, at = (4 if bits <= 32 else 8), np.uint64(2**bits - 1), [], 0
    inputs = {org: (folder / "inputs" / f"{org}.bin").read_bytes() for org in survivors}
    total = (folder / "sum.bin").read_bytes()
    for index, start in enumerate(range(0, length, LEAF)):
        count = min(LEAF, length - start)
        said, end = unpack(total, at, count, bits)
        acc = np.zeros(count, np.uint64)
        for org in survivors:
            found = h("chunk", t2, org.encode(), index.to_bytes(4, "big"), inputs[org][at:end])
            require(found == leaf_hashes[org][index], f"leaf {index} of {org} is not the one it signed")
            acc += unpack(inputs[org], at, count, bits)[0]
        for key, added in streams:
            cipher = Cipher(algorithms.AES(key), modes.CTR((word * start // 16).to_bytes(16, "big")))
            mask = np.frombuffer(cipher.encryptor().update(bytes(word * count)), f"<u{word}").astype(np.uint64)
            acc = acc + mask if added else acc - mask
        require(np.array_equal(acc & low, said), f"leaf {index} is NOT the sum of the inputs")
        sums.append(h("sumleaf", t3, index.to_bytes(4, "big"), total[at:end]))
        at = end
    require(h("leaves", *sums) == result[4][0], "the sum is not the one that the coordinator signed")
    print(f"VERIFIED: {len(sums)} leaves, {length} coordinates, the sum of the inputs of {', '.join(survivors)}")


main(pathlib.Path(sys.argv[1]), bytes.fromhex(sys.argv[2].replace(" ", "")))
