"""Known answers for `fedveil_common.transcript` and `fedveil_common.masking`, from tests/reference."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from fedveil_common import transcript
from fedveil_common.crypto import agreement, prg
from fedveil_common.crypto.kdf import derive
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.masking import checksum, fixedpoint, masks, quorum, shares
from fedveil_common.masking.ring import Signed, residues, signed
from fedveil_common.messages import ShareMsg
from fedveil_common.secret import PrivateKey, Seed, Share

from tests import whole_vectors

VECTORS = pathlib.Path(__file__).parent / "vectors"
_hex = bytes.fromhex


def rows(file: str, section: str) -> list[dict[str, Any]]:
    """All cases of one section."""
    loaded: list[dict[str, Any]] = json.loads((VECTORS / f"{file}.json").read_text(encoding="ascii"))[section]
    return loaded


def cases(file: str, section: str, *, failing: bool = False) -> pytest.MarkDecorator:
    """The good or the failing cases of one section, by name."""
    chosen = [row for row in rows(file, section) if ("fails_at" in row) == failing]
    assert chosen
    return pytest.mark.parametrize("case", chosen, ids=[row["name"] for row in chosen])


def keyed(values: Mapping[str, str]) -> dict[OrgId, bytes]:
    """Hex by id -> bytes by OrgId, in an order that is not sorted."""
    return {OrgId(i): _hex(v) for i, v in reversed(list(values.items()))}


@cases("published", "flsa1")
def test_the_row_of_flsa1_section_6(case: dict[str, Any]) -> None:
    given, mid = case["in"], case["mid"]
    one, two = OrgId("org-001"), OrgId("org-002")
    own, seed = PrivateKey(_hex(given["privates"][one])), Seed(_hex(given["self_seed"]))
    keys = {i: agreement.public_key(PrivateKey(k)) for i, k in keyed(given["privates"]).items()}
    t0 = transcript.t0(_hex(given["manifest"]))
    t1 = transcript.t1(t0, keys)
    t2 = transcript.t2(t1, keys)
    assert [x.hex() for x in (keys[one], keys[two], t0, t1, t2)] == [mid[k] for k in ("S_1", "S_2", "T0", "T1", "T2")]
    streams = masks.mask_keys(t2, one, own, seed, keys)
    assert [(m.key.expose().hex(), m.subtract) for m in streams] == [(mid["k_self"], False), (mid["k_pair"], False)]
    assert prg.words(streams[1].key.expose(), 0, 4).tolist() == case["out"]["pair_words"]
    shared = agreement.exchange(own, keys[two])
    assert derive(t1, shared, "share/key", b"org-001", b"org-002").hex() == mid["share_key"]
    assert shares.selfseed_commit(t0, one, seed).hex() == mid["selfseed_commit"]
    ring, hashes = whole_vectors.masked(np.array(given["vector"], dtype=np.uint32), streams, t2, one)
    assert ring.tolist() == case["out"]["masked"]
    assert [x.hex() for x in hashes] == [mid["leaf"]]


@cases("transcript", "transcript")
def test_transcript(case: dict[str, Any]) -> None:
    given, mid = case["in"], case["mid"]
    t0 = transcript.t0(_hex(given["manifest"]))
    t1 = transcript.t1(t0, keyed(given["adverts"]))
    t2 = transcript.t2(t1, reversed([OrgId(i) for i in given["dealers"]]))
    assert [t0.hex(), t1.hex(), t2.hex()] == [mid["t0"], mid["t1"], mid["t2"]]
    assert transcript.t3(t2, keyed(given["headers"])).hex() == case["out"]["t3"]


@cases("transcript", "leaves")
def test_leaves_and_roots(case: dict[str, Any]) -> None:
    given = case["in"]
    under, org = _hex(given["transcript"]), OrgId(given["org"])
    ring = (np.arange(given["length"], dtype=np.uint64) * np.uint64(2654435761)).astype(np.uint32)
    own = whole_vectors.leaf_hashes(under, org, ring, 32)
    total = [transcript.sum_leaf(under, index, data) for index, data in masks.leaves(ring, 32)]
    assert [x.hex() for x in own] == case["mid"]["input_leaves"]
    assert [x.hex() for x in total] == case["mid"]["sum_leaves"]
    assert transcript.leaf_root(own).hex() == case["out"]["input_root"]
    assert transcript.leaf_root(total).hex() == case["out"]["sum_root"]


@cases("transcript", "model")
def test_model_hash(case: dict[str, Any]) -> None:
    model = bytes((7 * i + i // 256) % 256 for i in range(case["in"]["size"]))
    assert transcript.model_hash(model).hex() == case["out"]["model_hash"]


def message(given: dict[str, Any]) -> ShareMsg:
    """The ShareMsg of a case."""
    return ShareMsg(
        t1=_hex(given["t1"]),
        dealer=OrgId(given["dealer"]),
        recipient=OrgId(given["recipient"]),
        key_share_commit=_hex(given["key_share_commit"]),
        self_share_commit=_hex(given["self_share_commit"]),
        nonce=_hex(given["nonce"]),
        ciphertext=_hex(given["ciphertext"]),
    )


def opened(given: dict[str, Any]) -> shares.OpenedShare:
    """The recipient's opening of a case."""
    private, public = PrivateKey(_hex(given["recipient_private"])), _hex(given["dealer_public"])
    commit, t0 = _hex(given["kappa_commit"]), _hex(given["t0"])
    return shares.open_share(message(given), given["x"], private, public, commit, t0)


@cases("shares", "shares")
def test_share_is_sealed_and_opened(case: dict[str, Any]) -> None:
    given, parts = case["in"], case["in"]["made_from"]
    sealed = shares.seal_share(
        _hex(given["t1"]),
        OrgId(given["dealer"]),
        OrgId(given["recipient"]),
        given["x"],
        PrivateKey(_hex(parts["dealer_private"])),
        agreement.public_key(PrivateKey(_hex(given["recipient_private"]))),
        Share(_hex(parts["key_share"])),
        Share(_hex(parts["self_share"])),
        Seed(_hex(parts["kappa"])),
        _hex(parts["nonce"]),
    )
    assert sealed == message(given)
    out = opened(given)
    found = {"key_share": out.key_share, "self_share": out.self_share, "kappa": out.kappa}
    assert {k: v.expose().hex() for k, v in found.items()} == case["out"]


@cases("shares", "shares", failing=True)
def test_spoiled_share_blames_the_dealer(case: dict[str, Any]) -> None:
    with pytest.raises(PeerError) as refused:
        opened(case["in"])
    assert (refused.value.code, refused.value.peer) == (case["code"], case["in"]["dealer"])
    assert isinstance(refused.value.__cause__, FedveilError)
    assert refused.value.__cause__.code == case["fails_at"]


@cases("masking", "masking")
def test_masked_inputs_and_their_opened_sum(case: dict[str, Any]) -> None:
    given, mid = case["in"], case["mid"]
    t2, keys = _hex(given["t2"]), keyed(mid["publics"])
    seeds = {i: Seed(s) for i, s in keyed(given["self_seeds"]).items()}
    privates = {i: PrivateKey(k) for i, k in keyed(given["privates"]).items()}
    survivors = [OrgId(i) for i in given["survivors"]]
    acc = np.zeros(len(case["out"]["sum"]), dtype=np.uint32)
    for org in sorted(keys):
        values = np.array(given["vectors"][org], dtype=np.uint32)
        own = masks.mask_keys(t2, org, privates[org], seeds[org], keys)
        ring, hashes = whole_vectors.masked(values, own, t2, org)
        assert ring.tolist() == case["out"]["masked"][org]
        assert [x.hex() for x in hashes] == mid["leaf_hashes"][org]
        assert masks.self_key(t2, seeds[org], org).hex() == mid["self_keys"][org]
        if org in survivors:
            acc += ring
    for pair, key in mid["pair_keys"].items():
        low, high = (OrgId(i) for i in pair.split())
        for mine, other in ((low, high), (high, low)):
            assert masks.pair_key(t2, privates[mine], keys[other], low, high, keys[low], keys[high]).hex() == key
    residual = [
        mask
        for gone in sorted(set(keys) - set(survivors))
        for mask in masks.residual_keys(t2, gone, privates[gone], {i: keys[i] for i in survivors}, keys[gone])
    ]
    whole_vectors.unmask(acc, [masks.self_key(t2, seeds[i], i) for i in survivors], residual)
    assert acc.tolist() == case["out"]["sum"]


def recover(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs the check of a recovery case; the residual keys if it has any."""
    if "seed" in given:
        org, seed = OrgId(given["org"]), Seed(_hex(given["seed"]))
        shares.check_self_seed(_hex(given["t0"]), org, seed, _hex(given["commit"]))
        return []
    private, public = PrivateKey(_hex(given["recovered"])), _hex(given["dropped_public"])
    found = masks.residual_keys(_hex(given["t2"]), OrgId(given["dropped"]), private, keyed(given["survivors"]), public)
    return [{"key": mask.key.expose().hex(), "subtract": mask.subtract} for mask in found]


@cases("masking", "recovery")
def test_recovered_secrets(case: dict[str, Any]) -> None:
    assert recover(case["in"]) == case["out"].get("keys", [])


@cases("masking", "recovery", failing=True)
def test_wrongly_dealt_secrets_blame_the_dealer(case: dict[str, Any]) -> None:
    with pytest.raises(PeerError) as refused:
        recover(case["in"])
    assert refused.value.code == case["code"]
    assert refused.value.peer == case["in"].get("dropped", case["in"].get("org"))


def quantised(given: dict[str, Any]) -> tuple[Signed, int]:
    """Quantises the values of a case."""
    values = np.array([float.fromhex(v) for v in given["values"]], dtype=np.float64)
    return fixedpoint.quantise(
        values, float.fromhex(given["scale"]), given["limit"], _hex(given["key"]), given["start"]
    )


@cases("masking", "fixedpoint")
def test_fixed_point(case: dict[str, Any]) -> None:
    given = case["in"]
    words = prg.words(_hex(given["key"]), 2 * given["start"], 2 * len(given["values"]))
    assert words.tolist() == case["mid"]["words"]
    integers, clamps = quantised(given)
    assert integers.tolist() == case["out"]["integers"]
    assert clamps == case["out"]["clamps"]
    ring = residues(integers, 32)
    assert ring.tolist() == case["out"]["ring"]
    assert signed(ring, 32).tolist() == case["out"]["integers"]


@cases("masking", "fixedpoint", failing=True)
def test_what_is_not_a_number_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(PolicyRefusal) as refused:
        quantised(case["in"])
    assert refused.value.code == case["code"]


@cases("masking", "quorum")
def test_quorum_table(case: dict[str, Any]) -> None:
    given = case["in"]
    quorum.check_parameters(**given)
    n, c = given["n"], given["c"]
    assert quorum.quorum(n, c) == given["q"]
    assert quorum.abort_threshold(n, c) == case["out"]["abort_threshold"]
    assert quorum.corrupt_bound(0, n) == c


@cases("masking", "quorum", failing=True)
def test_bad_parameters_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(PeerError) as refused:
        quorum.check_parameters(**case["in"])
    assert refused.value.code == case["code"]


@cases("checksum", "checksum")
def test_checksum(case: dict[str, Any]) -> None:
    given = case["in"]
    t2 = _hex(given["t2"])
    privates = {i: PrivateKey(k) for i, k in keyed(given["privates"]).items()}
    seeds = {i: Seed(k) for i, k in keyed(given["self_seeds"]).items()}
    publics = {i: agreement.public_key(k) for i, k in privates.items()}
    kappas = keyed(given["kappas"])
    vectors = {OrgId(i): np.array([int(v) for v in row], dtype=np.int64) for i, row in given["vectors"].items()}
    key = checksum.tag_key(t2, [Seed(kappas[i]) for i in sorted(kappas)])
    assert key.expose().hex() == case["mid"]["key"]
    units = np.eye(len(case["mid"]["weights"]), dtype=np.int64)
    found = [checksum.weigh(key, 0, unit) for unit in units]
    assert [str(one) for one in found] == [str(int(one) % checksum.PRIME) for one in case["mid"]["weights"]]
    masked = {}
    for org, vector in vectors.items():
        masked[org] = checksum.weigh(key, 0, vector) + checksum.tag_mask(t2, org, privates[org], seeds[org], publics)
        whole = checksum.to_bytes(masked[org] % checksum.PRIME)
        assert whole.hex() == case["out"]["masked_tags"][org]
        pieces = sum(checksum.weigh(key, at, vector[at : at + 2]) for at in range(0, len(vector), 2))
        assert pieces % checksum.PRIME == checksum.weigh(key, 0, vector)
    survivors = [OrgId(i) for i in given["survivors"]]
    left = sum(checksum.self_tag_mask(t2, seeds[org], org) for org in survivors)
    kept = {org: publics[org] for org in survivors}
    for org in set(publics) - set(survivors):
        left += checksum.residual_tag_mask(t2, org, privates[org], kept, publics[org])
    total = sum(masked[org] for org in survivors) - left
    assert checksum.to_bytes(total % checksum.PRIME).hex() == case["out"]["tag_sum"]
    summed = np.sum([vectors[org] for org in survivors], axis=0)
    assert checksum.weigh(key, 0, summed) == checksum.from_bytes(_hex(case["out"]["tag_sum"]))
