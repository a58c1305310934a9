"""Attacks of members on the coordinator and the sum: 15, 16, 30, 31 of FLSA/1 section 5.

Each is run three times: with honest members, as an attack, which the one named check stops, and again with exactly that
check replaced, where the attack must succeed. A "success" here is a wrong sum, a lost attempt, or an innocent blamed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from federation import (
    FIVE,
    RUN,
    Said,
    Tap,
    body_of,
    check_sums,
    die_after,
    expected_sum,
    federation,
    journal,
    plan_bytes,
    resigned,
    run,
    signed,
    trail,
)
from fedveil_common import transcript, wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.leafspool import Announced
from fedveil_common.masking import checksum, masks
from fedveil_common.masking import shares as sealing
from fedveil_common.masking.packing import size_bytes
from fedveil_common.messages import Advert, BlobType, Header, Reveal, RevealMessage, ShareMsg, Shares, SignedBlob
from fedveil_common.secret import Seed, Share
from fedveil_coordinator import acceptance, facts
from fedveil_coordinator.intake import Intake, due
from fedveil_participant.stages import Advertised, Inputting
from fedveil_simulation.cluster import Cluster, Packet
from fedveil_simulation.journals import CoordinatorMemory, SpoolMemory

from tests import whole_vectors

BAD = FIVE[2]
"""The member that misbehaves."""


def fact(cluster: Cluster, kind: type[facts.Fact]) -> list[facts.Fact]:
    """The coordinator's facts of one kind."""
    return [facts.decode(name, body) for name, body in cluster.memory.facts(RUN) if name == kind.__name__]


def blamed(cluster: Cluster) -> list[tuple[OrgId, str]]:
    """Who was excluded, and why."""
    return [(one.org_id, one.code) for one in fact(cluster, facts.Excluded) if isinstance(one, facts.Excluded)]


# --- 15: inconsistent polynomial --------------------------------------------------------------------------------------


def deal_another_secret(cluster: Cluster) -> None:
    """BAD deals shares of another secret than the ones in its advert; each share matches its own commitment."""

    def dealt(stage: Advertised, blob: SignedBlob) -> SignedBlob:
        body = body_of(blob)
        assert isinstance(body, ShareMsg)
        adverts = {
            one.signer_id: advert
            for packet, said in tap.seen
            if not packet.outward and type(said).__name__ == "AdvertMessage"
            for one in [said.advert]  # type: ignore[union-attr]
            if isinstance(advert := body_of(one), Advert)
        }
        share = Share((FIVE.index(body.recipient) + 5).to_bytes(33, "big"))
        made = sealing.seal_share(
            body.t1,
            BAD,
            body.recipient,
            FIVE.index(body.recipient) + 1,
            stage.channel_key,
            adverts[body.recipient].channel_key,
            share,
            share,
            stage.kappa,
            body.nonce,
        )
        return signed(cluster.charter, BAD, BlobType.SHARE, made)

    def change(packet: Packet, message: Said) -> Iterable[Said]:
        if packet.org_id == BAD and isinstance(message, Shares):
            stage = next(stage for kind, stage in journal(cluster, BAD).stages[::-1] if kind == "advert")
            assert isinstance(stage, Advertised)
            return [Shares(message.t1, tuple(dealt(stage, blob) for blob in message.shares))]
        return [message]

    tap = Tap(change)
    cluster.route = tap


@pytest.mark.parametrize(("dies", "check"), [("vote", "check_self_seed"), ("dealers", "residual_keys")])
def test_attack_15_shares_of_another_secret(dies: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BAD deals a wrong secret and dies, so that it must be interpolated.

    Stopped by `shares.check_self_seed` (a survivor) or the comparison in `masks.residual_keys` (a dropped one): BAD is
    blamed with its signed shares, no sum is opened.
    """

    def play(cheat: bool) -> tuple[Cluster, str]:
        cluster = federation()
        if cheat:
            deal_another_secret(cluster)
        die_after(cluster, BAD, dies, 1)
        cluster.start_run(RUN, plan_bytes())
        cluster.play(lambda: cluster.ended(RUN))
        return cluster, cluster.memory.runs[RUN][2]

    honest, code = play(cheat=False)
    assert code == "finished"
    assert check_sums(honest) == 2
    cluster, code = play(cheat=True)
    assert code == "model_spent"
    assert blamed(cluster) == [(BAD, "inconsistent_shares")]
    (proof,) = fact(cluster, facts.Excluded)
    assert isinstance(proof, facts.Excluded)
    assert {blob.signer_id for blob in proof.evidence} == {BAD}
    assert not cluster.memory.sums
    if check == "check_self_seed":
        monkeypatch.setattr(sealing, check, lambda *arguments: None)
    else:
        trusting = SimpleNamespace(compare_digest=lambda one, other: True)
        monkeypatch.setattr(masks, "hmac", trusting)  # the one comparison in this module
        monkeypatch.setattr(checksum, "hmac", trusting)  # and the same one, for the tag
    cluster, code = play(cheat=True)
    assert not np.any(cluster.memory.read_sum(RUN, 1) == expected_sum(cluster, 1)), "noise is published as the sum"


# --- 16: a false share in a reveal ------------------------------------------------------------------------------------


def reveal_falsely(cluster: Cluster) -> None:
    """BAD signs a reveal in which the first share is another."""

    def change(packet: Packet, message: Said) -> Iterable[Said]:
        if packet.org_id == BAD and isinstance(message, RevealMessage):
            body = body_of(message.reveal)
            assert isinstance(body, Reveal)
            (first, _), *rest = body.self_shares
            return [RevealMessage(resigned(cluster.charter, message.reveal, self_shares=((first, bytes(33)), *rest)))]
        return [message]

    cluster.route = Tap(change)


def test_attack_16_false_share_in_a_reveal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `acceptance.reveal_defect`: the revealer is blamed and the others' shares open the exact sum.

    Without it an honest dealer that had dropped out is blamed, and the attempt is lost.
    """
    silent = FIVE[0]
    cluster = federation()
    reveal_falsely(cluster)
    assert run(cluster) == "finished"
    assert (BAD, "bad_share") in blamed(cluster)
    cluster = federation()
    assert run(cluster) == "finished"
    assert blamed(cluster) == []

    def lost() -> Cluster:
        cluster = federation()
        reveal_falsely(cluster)
        die_after(cluster, silent, "vote", 1)
        assert run(cluster) == "model_spent"
        assert not cluster.memory.sums
        return cluster

    assert blamed(lost()) == [(BAD, "bad_share")], "t-1 good shares and a false one: no result, the liar is named"
    monkeypatch.setattr(acceptance, "reveal_defect", lambda *arguments: "")
    assert blamed(lost()) == [(silent, "inconsistent_shares")], "the innocent is blamed"


# --- 30: two inputs ---------------------------------------------------------------------------------------------------


def collecting() -> tuple[Cluster, Inputting, bytes]:
    """A round that waits for one input; BAD's is in. BAD's stage, and the bytes it uploaded."""
    cluster = federation()
    die_after(cluster, FIVE[4], "dealers", 1)
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    stage = cluster.members[BAD].memory.load()
    assert isinstance(stage, Inputting)
    (data,) = [data for org, _, data in cluster.uploads if org == BAD]
    return cluster, stage, data


def upload(cluster: Cluster, header: SignedBlob, data: bytes) -> SignedBlob:
    """BAD uploads this under that header, with hashes that fit."""
    body = body_of(header)
    assert isinstance(body, Header)
    hashes = (transcript.input_leaf(body.t2, BAD, 0, data),)
    return cluster.upload(BAD, wire.encode_blob(header), hashes, [(0, data)])


def test_attack_30_the_same_input_again_is_receipted_and_counts_once() -> None:
    cluster, stage, data = collecting()
    before = len(fact(cluster, facts.InputAccepted))
    receipts = {upload(cluster, stage.header, data) for _ in range(2)}
    assert len(receipts) == 1
    assert len(fact(cluster, facts.InputAccepted)) == before
    cluster.play(lambda: cluster.ended(RUN))
    assert check_sums(cluster) == 2


def second_input() -> tuple[Cluster, Inputting, SignedBlob, bytes]:
    """BAD's stage, another input of it, and the header that it signs for that."""
    cluster, stage, data = collecting()
    other = bytes(len(data))
    hashes = (transcript.input_leaf(stage.t2, BAD, 0, other),)
    changed = resigned(cluster.charter, stage.header, leaf_root=transcript.leaf_root(hashes))
    return cluster, replace(stage, header=changed, leaf_hashes=hashes), changed, other


def test_attack_30_another_input_in_the_same_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wins. Stopped twice: by the store, which keeps the first file, and by `acceptance._first_wins`: the two
    headers are the evidence. With both replaced the second input is journaled, proposed and summed.
    """

    def overwriting(
        memory: CoordinatorMemory, key: AttemptKey, org: OrgId, announced: Announced
    ) -> SpoolMemory[tuple[AttemptKey, OrgId]]:
        memory.inputs.pop((key, org), None)
        return SpoolMemory(memory.inputs, {}, (key, org), announced)

    cluster, _, header, other = second_input()
    with pytest.raises(PeerError) as caught:
        upload(cluster, header, other)
    assert caught.value.code == "input_differs"
    cluster.play(lambda: cluster.ended(RUN))
    assert check_sums(cluster) == 2
    monkeypatch.setattr(CoordinatorMemory, "spool", overwriting)
    cluster, _, header, other = second_input()
    with pytest.raises(PeerError) as caught:
        upload(cluster, header, other)
    assert caught.value.code == "input_not_expected"
    assert blamed(cluster) == [(BAD, "equivocation")]
    assert [one.header for one in inputs_of(cluster, BAD)] != [header]
    monkeypatch.setattr(acceptance, "_first_wins", lambda *arguments: True)
    cluster, stage, header, other = second_input()
    driver = cluster.members[BAD].driver
    assert driver is not None
    driver.state = replace(driver.state, stage=stage)  # BAD stands by its second input
    upload(cluster, header, other)
    assert [one.header for one in inputs_of(cluster, BAD)][1:] == [header]
    assert blamed(cluster) == []
    cluster.play(lambda: (RUN, 1) in cluster.memory.sums, 60)
    assert not np.any(cluster.memory.read_sum(RUN, 1) == expected_sum(cluster, 1)), "noise is published as the sum"


def inputs_of(cluster: Cluster, org: OrgId) -> list[facts.InputAccepted]:
    """The inputs of a member that were journaled."""
    found = [one for one in fact(cluster, facts.InputAccepted) if isinstance(one, facts.InputAccepted)]
    return [one for one in found if one.header.signer_id == org]


# --- 31: leaves -------------------------------------------------------------------------------------------------------


T2 = b"\x21" * 32
LENGTH = 2 * transcript.LEAF_COORDINATES + 5
RING = np.arange(LENGTH, dtype=np.uint32)
BITS = 20
LEAVES = [leaf for _, leaf in masks.leaves(RING, BITS)]
HASHES = whole_vectors.leaf_hashes(T2, BAD, RING, BITS)
FLIPPED = bytes([LEAVES[1][0] ^ 1]) + LEAVES[1][1:]
STREAMS: dict[str, tuple[list[tuple[int, bytes]], str, str]] = {
    "corrupted": ([(0, LEAVES[0]), (1, FLIPPED)], "bad_leaf", "1"),
    "reordered": ([(0, LEAVES[0]), (2, LEAVES[2])], "leaf_out_of_order", "2"),
    "omitted": ([(0, LEAVES[0]), (1, LEAVES[1])], "missing_leaf", "2"),
    "duplicated": ([(0, LEAVES[0]), (0, LEAVES[0])], "duplicate_leaf", "0"),
    "extra": ([*enumerate(LEAVES), (3, LEAVES[2])], "extra_leaf", "3"),
    "too long": ([(0, LEAVES[0] + b"\0\0\0\0")], "bad_leaf", "0"),
    "short last": ([*enumerate(LEAVES[:2]), (2, LEAVES[2][:-1])], "bad_leaf", "2"),
    "empty leaf": ([(0, b"")], "bad_leaf", "0"),
    "nothing at all": ([], "missing_leaf", "0"),
}


def header(**changes: object) -> Header:
    made = {
        "t2": T2,
        "org_id": BAD,
        "length": LENGTH,
        "ring_bits": BITS,
        "leaf_count": 3,
        "leaf_root": transcript.leaf_root(HASHES),
        "tag_ok": False,
        "masked_tag": b"",
    }
    return Header(**{**made, **changes})  # type: ignore[arg-type]


def intake(header: Header, hashes: list[bytes], write: Callable[[int, bytes], None], first: int = 0) -> Intake:
    """An upload that has begun at leaf `first`."""
    made = Intake(due(header, None), hashes)
    made.begin(first, write)
    return made


def test_attack_31_a_leaf_that_is_there_already_cannot_be_sent_again() -> None:
    """Stopped by `Intake.take`: what an earlier connection brought is not replaced, and its hash alone is no proof that
    a leaf should be written twice.
    """
    written: list[int] = []
    taking = intake(header(), HASHES, lambda index, data: written.append(index), first=1)
    with pytest.raises(PeerError) as caught:
        taking.take(0, LEAVES)
    assert caught.value.code == "duplicate_leaf"
    assert "leaf 0" in caught.value.what
    taking.take(1, LEAVES[1:])
    taking.complete()
    assert written == [1, 2]


@pytest.mark.parametrize(("stream", "code", "leaf"), STREAMS.values(), ids=STREAMS)
def test_attack_31_leaves(
    stream: list[tuple[int, bytes]], code: str, leaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `Intake`, which names the leaf; what was written is a true prefix, and `complete` never passes.

    With the comparison of hashes replaced (a corrupted leaf), or `Intake.take` and `complete` (all others), what comes
    is handed on and taken for the input, which it is not.
    """
    written: list[bytes] = []
    good = intake(header(), HASHES, lambda index, data: None)
    for index, data in enumerate(LEAVES):
        good.take(index, [data])
    good.complete()
    taking = intake(header(), HASHES, lambda index, data: written.append(data))

    def take_all() -> None:
        for index, data in stream:
            taking.take(index, [data])
        taking.complete()

    with pytest.raises(PeerError) as caught:
        take_all()
    assert (caught.value.code, caught.value.peer) == (code, BAD)
    assert f"leaf {leaf}" in caught.value.what
    assert written == LEAVES[: len(written)]
    assert len(LEAVES[0]) == size_bytes(transcript.LEAF_COORDINATES, BITS)
    if stream == STREAMS["corrupted"][0]:
        monkeypatch.setattr(transcript, "input_leaf", lambda t2, org, index, data: HASHES[index])
        stream = [*stream, (2, LEAVES[2])]
    else:
        monkeypatch.setattr(Intake, "take", lambda self, first, leaves: [self._write(first, leaf) for leaf in leaves])
        monkeypatch.setattr(Intake, "complete", lambda self: None)
    written.clear()
    taking = intake(header(), HASHES, lambda index, data: written.append(data))
    take_all()
    assert written == [data for _, data in stream]
    assert b"".join(written) != b"".join(LEAVES)


def test_attack_31_padding_that_is_not_zero() -> None:
    """A second form of the same residues under hashes of its own: stopped by `packing.unpack`, the leaf is named."""
    padded = LEAVES[2][:-1] + bytes([LEAVES[2][-1] | 0x80])
    hashes = [*HASHES[:2], transcript.input_leaf(T2, BAD, 2, padded)]
    taking = intake(header(leaf_root=transcript.leaf_root(hashes)), hashes, lambda index, data: None)
    taking.take(0, LEAVES[:2])
    with pytest.raises(PeerError) as caught:
        taking.take(2, [padded])
    assert caught.value.code == "bad_leaf"
    assert "leaf 2" in caught.value.what


@pytest.mark.parametrize("hashes", [HASHES[:2], [*HASHES, HASHES[0]], [], [HASHES[1], HASHES[0], HASHES[2]]])
def test_attack_31_hash_list_that_is_not_the_header_s(hashes: list[bytes]) -> None:
    """Stopped before the first leaf."""
    with pytest.raises(PeerError) as caught:
        Intake(due(header(), None), hashes)
    assert caught.value.code == "wrong_leaf_root"


def test_attack_31_a_corrupted_leaf_would_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `transcript.input_leaf`, compared by the intake. Replaced: what arrived is summed, and it is wrong."""

    def play() -> Cluster:
        cluster = federation()
        honest = cluster.upload

        def corrupt(org: OrgId, head: bytes, hashes: tuple[bytes, ...], leaves: Iterator[tuple[int, bytes]]):  # type: ignore[no-untyped-def]
            if org != BAD:
                return honest(org, head, hashes, leaves)
            changed = ((index, bytes([leaf[0] ^ 1]) + bytes(leaf[1:])) for index, leaf in leaves)
            return honest(org, head, hashes, changed)

        cluster.upload = corrupt  # type: ignore[method-assign]
        cluster.start_run(RUN, plan_bytes())
        cluster.play(lambda: (RUN, 1) in cluster.memory.sums, 60)
        return cluster

    cluster = play()
    assert "vote" in trail(cluster, BAD, 1), "it votes as a witness"
    assert check_sums(cluster) == 1
    assert all(BAD not in one.survivors for one in fact(cluster, facts.Proposed) if isinstance(one, facts.Proposed))
    monkeypatch.setattr(Intake, "take", lambda self, first, leaves: [self._write(first, leaf) for leaf in leaves])
    monkeypatch.setattr(Intake, "complete", lambda self: None)
    cluster = play()
    assert cluster.memory.read_sum(RUN, 1)[0] != expected_sum(cluster, 1)[0]


def test_self_seed_is_what_it_says() -> None:
    """The commitment that attack 15 runs into binds the seed, the member and the attempt."""
    seed = Seed(bytes(32))
    commit = sealing.selfseed_commit(T2, BAD, seed)
    sealing.check_self_seed(T2, BAD, seed, commit)
    for t0, org in ((HASHES[0], BAD), (T2, FIVE[0])):
        with pytest.raises(PeerError):
            sealing.check_self_seed(t0, org, seed, commit)
