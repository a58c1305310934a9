"""Attack 35: a coordinator that signs another sum than that of the inputs. Stopped by `checking.Checker.check`.

Each lie is told in the first of two rounds (or in the last) by the production coordinator, whose opening is bent; the
members are honest but where a test says otherwise. With the check replaced the run goes on with the false model.
"""

import pathlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fedveil_cli import verifying
from fedveil_common import audit, published, transcript
from fedveil_common.crypto import agreement
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking import checksum, masks, opening, shares
from fedveil_common.masking.packing import pack, unpack
from fedveil_common.masking.ring import Ring, residues, signed, zeros
from fedveil_common.messages import Advert, BlobType, Header, Manifest, Result, Reveal, Vote
from fedveil_common.published import PublishedRound
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.secret import Seed
from fedveil_coordinator import opening as openings
from fedveil_coordinator import sums
from fedveil_participant import checking, tagging
from fedveil_participant.events import OpenedSum, TagKey
from fedveil_participant.stages import Encoding
from fedveil_simulation.charter import Charter
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.journals import CoordinatorMemory
from numpy.typing import NDArray

from tests.federation import FIVE, RUN, body_of, federation, journal, plan_bytes, resigned, trail
from tests.federation import signed as signed_by
from tests.test_verify import script

PLAN = plan_bytes(rounds=2)
PARAMETERS = 6
Integers = NDArray[np.int64]
Alter = Callable[[Integers], Integers]


def honest(values: Integers) -> Integers:
    return values


class Bent:
    """The coordinator's opening, with the sums of some rounds altered before they are stored and signed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, alter: Alter, rounds: tuple[int, ...] = (1,)) -> None:
        self.truth: list[Integers] = []
        real = openings.open_leaves

        def lying(
            unmasking: openings.Unmasking,
            read: openings.ReadInput,
            write: openings.WriteSum,
            pool: object = None,
            noise: object = None,
        ) -> list[bytes]:
            assert noise is None, "these sums are exact"
            leaves: dict[int, bytearray] = {}
            real(unmasking, read, leaves.__setitem__, None)
            whole = zeros(unmasking.length, unmasking.bits)
            for index, data in leaves.items():
                start, count = index * transcript.LEAF_COORDINATES, leaf_length(unmasking.length, index)
                whole[start : start + count] = unpack(bytes(data), count, unmasking.bits)
            self.truth.append(signed(whole, unmasking.bits).astype(np.int64))
            told = self.truth[-1]
            if len(self.truth) in rounds:
                told = alter(told.copy())
            ring: Ring = residues(told, unmasking.bits)
            hashes = []
            for index in range(leaf_count(unmasking.length)):
                start = index * transcript.LEAF_COORDINATES
                packed = pack(ring[start : start + leaf_length(unmasking.length, index)], unmasking.bits)
                hashes.append(transcript.sum_leaf(unmasking.t3, index, packed))
                write(index, packed)
            return hashes

        monkeypatch.setattr(sums.opening, "open_leaves", lying)


def play(cluster: Cluster) -> str:
    """The run to its end; the code with which it ended, or `waiting`."""
    cluster.start_run(RUN, PLAN)
    cluster.play(lambda: cluster.ended(RUN), 300)
    return cluster.memory.runs[RUN][2] if cluster.memory.runs[RUN][1] == "ended" else "waiting"


def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check replaced."""
    monkeypatch.setattr(checking.Checker, "check", lambda self, *args, audited: None)


def one_coordinate(values: Integers) -> Integers:
    values[0] += 1
    return values


def backwards(values: Integers) -> Integers:
    """The update with its sign turned; weights and measures as they are, or the coordinator itself would reject it."""
    values[:PARAMETERS] *= -1
    return values


def hardly_an_update(values: Integers) -> Integers:
    """The next step asks for nearly the same updates again; for quite the same model it would be refused as spent."""
    values[:PARAMETERS] = [1, 0, 0, 0, 0, 0]
    return values


def beyond_the_bound(values: Integers) -> Integers:
    values[0] = 5 * 32_767 + 1
    return values


LIES = [one_coordinate, backwards, hardly_an_update, beyond_the_bound]


def test_the_run_without_a_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    bent = Bent(monkeypatch, honest)
    cluster = federation(plan=PLAN)
    assert play(cluster) == "finished"
    assert len(bent.truth) == 3, "two steps and the evaluation of the last model"
    assert all("sum_disputed" not in trail(cluster, org) for org in FIVE)


@pytest.mark.parametrize("lie", LIES)
def test_attack_35_a_false_sum(monkeypatch: pytest.MonkeyPatch, lie: Alter) -> None:
    Bent(monkeypatch, lie)
    cluster = federation(plan=PLAN)
    assert play(cluster) != "finished"
    for org in FIVE:
        assert "sum_disputed" in trail(cluster, org)
        assert "advert" not in trail(cluster, org, 2), "nothing was trained on what follows from it"


@pytest.mark.parametrize("lie", LIES)
def test_attack_35_succeeds_where_nobody_checks(monkeypatch: pytest.MonkeyPatch, lie: Alter) -> None:
    Bent(monkeypatch, lie)
    believing(monkeypatch)
    cluster = federation(plan=PLAN)
    play(cluster)
    assert any("advert" in trail(cluster, org, 2) for org in FIVE)


def test_attack_35_the_sum_of_the_round_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last train sum is told again: caught before the final evaluation, for which the false model would be used."""
    bent = Bent(monkeypatch, lambda values: bent.truth[0], (2,))
    cluster = federation(plan=PLAN)
    assert play(cluster) != "finished"
    assert all("sum_disputed" in trail(cluster, org) for org in FIVE)
    assert all(journal(cluster, org).ends.get(RUN, (b"", "", b""))[2] == b"" for org in FIVE), "no false model is kept"


def test_attack_35_one_contributor_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of four inputs is signed as that of five."""
    cluster = federation(plan=PLAN)

    def without_echo(values: Integers) -> Integers:
        (mine,) = [vector for (key, _), vector in journal(cluster, FIVE[4]).encoded.items() if key.round == 1]
        return values - mine

    Bent(monkeypatch, without_echo)
    assert play(cluster) != "finished"
    assert all("advert" not in trail(cluster, org, 2) for org in FIVE)


def test_a_dispute_outlives_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever found a false sum leaves the run for good, whatever leaves it would draw the next time."""
    Bent(monkeypatch, one_coordinate)
    cluster = federation(plan=PLAN)
    play(cluster)
    believing(monkeypatch)
    for org in FIVE:
        cluster.kill_member(org)
        cluster.start_member(org)
    cluster.settle()
    cluster.play(lambda: cluster.ended(RUN), 300)
    assert all("advert" not in trail(cluster, org, 2) for org in FIVE)
    assert all(journal(cluster, org).kept.disputed == {RUN} for org in FIVE)


# --- with the help of a dealer ----------------------------------------------------------------------------------------


def forged(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    """The tag of the false sum is made right with the checksum key, from the journal of a corrupt dealer."""
    real = openings.tag_of

    def tag_of(stage: object, unmasking: openings.Unmasking) -> bytes:
        true = real(stage, unmasking)  # type: ignore[arg-type]
        found = [one for _, one in journal(cluster, FIVE[0]).stages if isinstance(one, Encoding)]
        key = found[-1].tag_key[0]
        delta = checksum.weigh(key, 0, np.array([1], dtype=np.int64))
        if found[-1].frame.key.round != 1:
            return true
        return checksum.to_bytes((checksum.from_bytes(true) + delta) % checksum.PRIME)

    monkeypatch.setattr(sums.opening, "tag_of", tag_of)


def test_attack_35_with_the_key_of_a_corrupt_dealer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksum passes; the tags in the headers, and the leaves made again, do not."""
    Bent(monkeypatch, one_coordinate)
    cluster = federation(plan=PLAN)
    forged(monkeypatch, cluster)
    assert play(cluster) != "finished"
    assert all("advert" not in trail(cluster, org, 2) for org in FIVE)


def test_attack_35_with_a_dealer_whose_own_tag_is_made_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrupt dealer knows beforehand what will be added to the sum and puts it into its own tag: checksum and tags
    are then right, and only the audit tells. Stopped by `audit.audit`.
    """
    Bent(monkeypatch, one_coordinate)
    real = tagging.Tag.masked
    made: list[bytes] = []

    def fitting(self: tagging.Tag, mask: int) -> bytes:
        """The first tag of the run is the corrupt dealer's."""
        extra = 0 if made else checksum.weigh(self._key[0], 0, np.array([1], dtype=np.int64))
        made.append(real(self, mask + extra))
        return made[-1]

    monkeypatch.setattr(tagging.Tag, "masked", fitting)
    cluster = federation(plan=PLAN)
    assert play(cluster) != "finished"
    assert all("sum_disputed" in trail(cluster, org) for org in FIVE)
    Bent(monkeypatch, one_coordinate)
    asked: list[bool] = []
    monkeypatch.setattr(audit, "audit", lambda *args: asked.append(True))
    made.clear()
    again = federation(plan=PLAN)
    play(again)
    assert len(asked) >= 5, "everyone came as far as the audit"
    assert any("advert" in trail(again, org, 2) for org in FIVE), "without it the lie passes"


# --- a spoiled checksum -----------------------------------------------------------------------------------------------


class Counting:
    """How many leaves each audit makes again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        real = audit.audit

        def counted(proven: published.Proven, leaves: dict[int, bytes], fetch: audit.FetchLeaves) -> None:
            self.sizes.append(len(leaves))
            real(proven, leaves, fetch)

        monkeypatch.setattr(audit, "audit", counted)


def test_a_spoiled_tag_costs_an_audit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One member adds rubbish to its tag, another says that it has none: the sum is looked at, and the run goes on."""
    real = tagging.Tag.masked
    calls: list[int] = []

    def spoiled(self: tagging.Tag, mask: int) -> bytes:
        calls.append(1)
        return real(self, mask + (12_345 if len(calls) == 1 else 0))

    monkeypatch.setattr(tagging.Tag, "masked", spoiled)
    counting = Counting(monkeypatch)
    cluster = federation(plan=PLAN)
    assert play(cluster) == "finished"
    assert len(counting.sizes) >= 10, "every member looked at both train sums"


def test_a_round_whose_inputs_are_not_shown_is_not_gone_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that refuses the audit gets no further update. Stopped by `Checker._proven`."""
    monkeypatch.setattr(CoordinatorMemory, "keep_inputs", lambda self, key, survivors, quorum, holders: None)
    cluster = federation(plan=PLAN)
    assert play(cluster) != "finished"
    assert all("advert" not in trail(cluster, org, 2) for org in FIVE)
    assert all("sum_disputed" not in trail(cluster, org) for org in FIVE), "refusing proves nothing"


# --- what is published ------------------------------------------------------------------------------------------------


def opened_round() -> tuple[Cluster, PublishedRound]:
    cluster = federation(plan=PLAN)
    assert play(cluster) == "finished"
    return cluster, cluster.published(RUN, 1)


def another_header(cluster: Cluster, record: PublishedRound) -> PublishedRound:
    """A member's second header, truly signed by it."""
    changed = resigned(cluster.charter, record.headers[0], leaf_root=transcript.leaf_root([bytes(32)]))
    hashes = {**record.leaf_hashes, changed.signer_id: (bytes(32),)}
    return replace(record, headers=(changed, *record.headers[1:]), leaf_hashes=hashes)


FORGERIES: list[Callable[[Cluster, PublishedRound], PublishedRound]] = [
    another_header,
    lambda cluster, record: replace(record, headers=record.headers[1:]),
    lambda cluster, record: replace(record, votes=record.votes[:3]),
    lambda cluster, record: replace(record, votes=(record.votes[0],) * 4),
    lambda cluster, record: replace(record, dealers=record.dealers[:4]),
    lambda cluster, record: replace(record, adverts=record.adverts[:4]),
    lambda cluster, record: replace(record, reveals=()),
    lambda cluster, record: replace(
        record, reveals=tuple(resigned(cluster.charter, one, self_seed=bytes(32)) for one in record.reveals)
    ),
    lambda cluster, record: replace(
        record, reveals=tuple(resigned(cluster.charter, one, t3=bytes(32)) for one in record.reveals)
    ),
    lambda cluster, record: replace(record, headers=tuple(replace(one, sig=bytes(64)) for one in record.headers)),
    lambda cluster, record: replace(record, leaf_hashes={**record.leaf_hashes, FIVE[0]: (bytes(32),)}),
    lambda cluster, record: replace(record, result=cluster.published(RUN, 2).result),
    lambda cluster, record: replace(record, manifest=cluster.published(RUN, 2).manifest),
]


def test_a_published_round_proves_itself() -> None:
    cluster, record = opened_round()
    proven = published.verify(record, cluster.charter.roster)
    assert proven.result.tag_sum == proven.tag_sum != b""


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_record_proves_nothing(forgery: Callable[[Cluster, PublishedRound], PublishedRound]) -> None:
    cluster, record = opened_round()
    with pytest.raises(PeerError) as caught:
        published.verify(forgery(cluster, record), cluster.charter.roster)
    assert caught.value.code == "round_not_proved"


def of_one_member(charter: Charter, org: OrgId, values: list[int]) -> tuple[PublishedRound, bytes, bytes]:
    """A round that one corrupt member and the coordinator made up, whose manifest asks for that member's vote alone;
    and the leaf of its masked input and of its sum.
    """
    draws, honest = Draws(Seed(b"\x77" * 32)), federation(plan=PLAN)
    play(honest)
    body = body_of(honest.published(RUN, 1).manifest)
    assert isinstance(body, Manifest)
    manifest = replace(
        body, cohort=(org,), quorum=1, threshold=1, min_survivors=1, length=len(values), ring_bits=20, nonce=bytes(32)
    )
    first = signed_by(charter, COORDINATOR, BlobType.MANIFEST, manifest)
    t0, seed = transcript.t0(first.body), draws.seed("self")
    keys = [agreement.public_key(draws.private_key(what)) for what in ("mask", "channel")]
    advert = Advert(t0, org, *keys, shares.selfseed_commit(t0, org, seed), bytes(32), bytes(32))
    adverts = (signed_by(charter, org, BlobType.ADVERT, advert),)
    t1 = transcript.t1(t0, {blob.signer_id: blob.body for blob in adverts})
    t2 = transcript.t2(t1, (org,))
    ring = residues(np.array(values, dtype=np.int64), 20)
    masks.streams([masks.MaskKey(Seed(masks.self_key(t2, seed, org)), subtract=False)], 0, 20).apply(ring)
    masked, told = bytes(pack(ring, 20)), bytes(pack(residues(np.array(values, dtype=np.int64), 20), 20))
    leaf = transcript.input_leaf(t2, org, 0, masked)
    tag = checksum.to_bytes(checksum.self_tag_mask(t2, seed, org))
    header = Header(t2, org, len(values), 20, 1, transcript.leaf_root([leaf]), False, tag)
    headers = (signed_by(charter, org, BlobType.HEADER, header),)
    t3 = transcript.t3(t2, {org: headers[0].body})
    root = transcript.leaf_root([transcript.sum_leaf(t3, 0, told)])
    record = PublishedRound(
        first,
        signed_by(charter, COORDINATOR, BlobType.RESULT, Result(t3, 1, len(values), root, b"", 0.0)),
        charter.notice.signed_roster,
        adverts,
        (org,),
        headers,
        (signed_by(charter, org, BlobType.VOTE, Vote(t3)),),
        (signed_by(charter, org, BlobType.REVEAL, Reveal(t3, seed.expose(), (), ())),),
        {org: (leaf,)},
    )
    return record, masked, told


@pytest.mark.parametrize("maker", [FIVE[0], COORDINATOR])
def test_a_round_that_one_member_certified_alone_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, maker: OrgId
) -> None:
    """A latecomer is shown a round whose manifest asks for one vote, or counts the coordinator as a member. Stopped by
    `published._check_cohort`.
    """
    charter = federation(plan=PLAN).charter
    forged, masked, told = of_one_member(charter, maker, [5, -7, 9_999])
    with pytest.raises(PeerError) as caught:
        published.verify(forged, charter.roster)
    assert caught.value.code == "round_not_proved"
    monkeypatch.setattr(published, "_check_cohort", lambda *arguments: None)
    assert published.verify(forged, charter.roster).unmasking.survivors == (maker,), "without it the round is proved"
    shown = verifying.Shown(charter.notice.trust_chain, forged, [told], lambda kind, wanted: [(maker, 0, masked)])
    verifying.check(verifying.export(shown, tmp_path / "round"), charter.fingerprint, None, Seed(bytes(32)))
    code, text = script(tmp_path / "round", charter.fingerprint)
    assert code == 1
    assert "NOT VERIFIED" in text, "the stand-alone script has a check of its own"


def test_a_record_of_another_roster_proves_nothing() -> None:
    _, record = opened_round()
    other = federation(seed=2)
    with pytest.raises(FedveilError) as caught:
        published.verify(record, other.charter.roster)
    assert caught.value.code == "round_not_proved"


@pytest.mark.parametrize("alter", ["bit", "short", "missing", "swapped"])
def test_a_leaf_that_is_not_the_header_s_is_named(alter: str) -> None:
    cluster, record = opened_round()
    proven = published.verify(record, cluster.charter.roster)
    truth = list(cluster.archive.leaves(RUN, 1, [0]))
    hashes = {0: transcript.sum_leaf(proven.result.t3, 0, cluster.memory.open_sum(RUN, 1).packed(0))}
    audit.audit(proven, hashes, lambda wanted: truth)
    bent = list(truth)
    org, index, data = bent[1]
    match alter:
        case "bit":
            bent[1] = (org, index, bytes([data[0] ^ 1]) + data[1:])
        case "short":
            bent[1] = (org, index, data[:-1])
        case "missing":
            del bent[1]
        case "swapped":
            bent[0], bent[1] = bent[1], bent[0]
    with pytest.raises(PeerError) as caught:
        audit.audit(proven, hashes, lambda wanted: bent)
    assert caught.value.code == "round_not_proved"
    assert "leaf 0" in caught.value.what


# --- the checksum by itself -------------------------------------------------------------------------------------------


def test_adding_the_prime_passes_the_weights_and_not_the_bound() -> None:
    """A4: why the bound is checked first."""
    key = Seed(bytes(range(32)))
    values = np.array([5, -7, 11], dtype=np.int64)
    moved = values.copy()
    moved[1] += checksum.PRIME
    assert checksum.weigh(key, 0, moved) == checksum.weigh(key, 0, values)
    assert not checksum.usable(256, 60)
    assert checksum.usable(256, 32)
    assert abs(int(moved[1])) > checksum.bound(256, 32)


def test_a_sum_beyond_its_bound_is_false_whatever_its_tag_says() -> None:
    """Stopped by the bound in `Checker.check`; with a bound that it keeps, the tag passes."""
    cluster, _ = opened_round()
    key = Seed(bytes(range(32)))
    true = np.array([5, -7, 11], dtype=np.int64)
    told = true + np.array([0, checksum.PRIME, 0], dtype=np.int64)
    result = Result(bytes(32), 5, 3, bytes(32), checksum.to_bytes(checksum.weigh(key, 0, true)), 0.0)
    blob = cluster.published(RUN, 1).result
    driver = cluster.members[FIVE[0]].driver
    assert driver is not None
    checker = driver._walker._checker
    held = TagKey(RUN, 1, bytes(32), key)
    found = OpenedSum(RUN, 1, bytes(32))

    def check(bound: int) -> None:
        downloaded = checking.DownloadedSum(blob, blob, result, told, told, (bytes(32),), bound, 1)
        checker.check(downloaded, found, held, audited=False)

    check(1 << 62)
    with pytest.raises(PeerError) as caught:
        check(checksum.bound(5, 16))
    assert caught.value.code == "sum_disputed"


def test_shares_of_an_audit() -> None:
    assert [audit.routine_share(5, leaves) for leaves in (1, 5, 6, 62)] == [1, 1, 2, 13]
    assert [audit.thorough_share(5, leaves) for leaves in (1, 62)] == [1, 62]
    assert audit.thorough_share(81, 62) == 19
    drawn = audit.draw(Seed(bytes(32)), 62, 19)
    assert len(set(drawn)) == 19 == len(drawn)
    assert drawn == sorted(drawn)
    assert drawn != audit.draw(Seed(bytes([1]) * 32), 62, 19)


def test_a_header_without_a_tag_voids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, record = opened_round()
    proven = published.verify(record, cluster.charter.roster)
    tags = {}
    for blob in record.headers:
        header = body_of(blob)
        assert isinstance(header, Header)
        tags[blob.signer_id] = (header.tag_ok, header.masked_tag)
    assert opening.sum_of_tags(tags, proven.unmasking) == proven.tag_sum
    tags[FIVE[2]] = (False, tags[FIVE[2]][1])
    assert opening.sum_of_tags(tags, proven.unmasking) == b""
