"""A published round under paillier: the honest one verifies everywhere, every bent part of it is refused."""

import functools
import pathlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fedveil.v1 import rounds_pb2 as pb
from fedveil_cli import verifying
from fedveil_common import limits, published, transcript
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import signed
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.ringfile import leaf_length
from fedveil_common.wire import parse_body
from fedveil_common.wire.fields import MalformedError
from fedveil_common.wire.published import encode_parts, from_file, parse_parts, to_file
from fedveil_coordinator import facts
from fedveil_coordinator.archive import Archive
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cipher_rounds import (
    QUORUM,
    RUN,
    SEED,
    Game,
    Played,
    Stored,
    answer,
    audited,
    code_of,
    house,
    play,
    values_of,
    verified,
)
from tests.paillier_parties import NAMES

LENGTH = 17_000


@pytest.fixture(scope="module")
def played() -> Played:
    """Two leaves of the sum across many blocks, one member dropped, noise of the coordinator."""
    return play(Game(house(), LENGTH, noisy=True))


# --- the honest round -------------------------------------------------------------------------------------------------


def test_an_honest_round_is_proved_and_its_sum_is_right(played: Played) -> None:
    audited(played)
    proven = verified(played)
    assert proven.survivors == NAMES[:4]
    assert proven.quorum == QUORUM
    assert list(proven.partials) == ["acme", "cygnus"]
    bits = proven.manifest.ring_bits
    found = np.concatenate(
        [
            signed(unpack(leaf, leaf_length(LENGTH, index), bits), bits).astype(np.int64)
            for index, leaf in enumerate(played.sums)
        ]
    )
    total = sum(values_of(org, LENGTH) for org in NAMES[:4]) + played.game.noise_values
    assert np.array_equal(found, total)


def test_parts_are_read_as_they_were_written(played: Played) -> None:
    assert parse_parts(encode_parts(played.record)) == played.record
    assert from_file(to_file(played.record)) == played.record


def malformed(parts: list[bytes]) -> bool:
    try:
        parse_parts(parts)
    except MalformedError:
        return True
    return False


def test_malformed_parts_are_named(played: Played) -> None:
    parts = list(encode_parts(played.record))
    kinds = [pb.RoundPart.FromString(part).WhichOneof("part") for part in parts]

    def part(**fields: object) -> bytes:
        return pb.RoundPart(**fields).SerializeToString(deterministic=True)  # type: ignore[arg-type]

    def hashes(org: str, count: int = 1, size: int = 32) -> pb.LeafHashes:
        return pb.LeafHashes(org_id=org, hashes=[bytes(size)] * count)

    without_product = [one for one, kind in zip(parts, kinds, strict=True) if kind != "product_hashes"]
    without_key = [one for one, kind in zip(parts, kinds, strict=True) if kind not in ("key_terms", "key_record")]
    without_noise = parts[: kinds.index("key_terms") - 1] + parts[kinds.index("key_terms") :]
    assert parse_parts(without_noise).noise == ()
    bad = {
        "product twice": [*parts, part(product_hashes=hashes(COORDINATOR))],
        "product of a member": [*without_product, part(product_hashes=hashes("acme"))],
        "product without hashes": [*without_product, part(product_hashes=hashes(COORDINATOR, 0))],
        "product with too many": [*without_product, part(product_hashes=hashes(COORDINATOR, limits.MAX_LEAVES + 1))],
        "a hash too short": [*without_product, part(product_hashes=hashes(COORDINATOR, 1, 31))],
        "an answer twice": [*parts, part(partial_hashes=hashes("acme"))],
        "more answers than holders": [*parts, *(part(partial_hashes=hashes(f"org-{one}")) for one in range(11))],
        "noise twice": [*parts, parts[kinds.index("key_terms") - 1]],
        "terms twice": [*parts, parts[kinds.index("key_terms")]],
        "empty terms": [*without_key, part(key_terms=b"")],
        "terms too large": [*without_key, part(key_terms=bytes(limits.MAX_DOCUMENT + 1))],
        "record too large": [*without_key, part(key_record=bytes(limits.MAX_KEY_RECORD + 1))],
        "a part too large": [*without_key, part(key_record=bytes(limits.MAX_MESSAGE))],
    }
    assert [name for name, one in bad.items() if not malformed(one)] == []
    whole = part(key_record=bytes(limits.MAX_KEY_RECORD))
    assert len(parse_parts([*without_key, whole]).key_record) == limits.MAX_KEY_RECORD


def test_a_folder_verifies_without_a_coordinator(played: Played, tmp_path: pathlib.Path) -> None:
    charter = played.game.home.charter
    shown = verifying.Shown(charter.notice.trust_chain, played.record, played.sums, played.leaves)
    folder = tmp_path / "round"
    verifying.export(shown, folder)
    found = verifying.check(verifying.read_folder(folder), charter.fingerprint, 3, SEED)
    assert (found.checked, found.leaves) == (3, played.game.shape.blocks.count)
    assert found.holders == ("acme", "cygnus")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["answers", "inputs", "product", "round.bin", "sum.bin", "trust.json"]
    )
    for path in sorted(folder.rglob("*.bin")):
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[-1] ^ 1]).join([whole[:-1], b""]))
        assert code_of(lambda: verifying.check(verifying.read_folder(folder), charter.fingerprint, None, SEED)), path
        path.write_bytes(whole)
    assert verifying.check(verifying.read_folder(folder), charter.fingerprint, None, SEED).checked == found.leaves


def test_what_verify_says(played: Played) -> None:
    class Said:
        def result(self, value: dict[str, object], lines: list[str]) -> None:
            self.value, self.lines = value, lines

    charter, said = played.game.home.charter, Said()
    shown = verifying.Shown(charter.notice.trust_chain, played.record, played.sums, played.leaves)
    found = verifying.check(shown, charter.fingerprint, 2, SEED)
    verifying.report(found, charter.fingerprint, said)  # type: ignore[arg-type]
    assert said.value["protection"] == "paillier"
    assert said.value["holders"] == ["acme", "cygnus"]
    assert "protection paillier" in said.lines[1]
    assert said.lines[3].startswith("opened by acme, cygnus")
    assert "2 of " in said.lines[-1]


# --- every part of a published round ----------------------------------------------------------------------------------


def resigned(one: Played, blob: SignedBlob, **changes: object) -> SignedBlob:
    body = parse_body(blob.type, blob.body)
    return one.game.home.sign(blob.signer_id, blob.type, replace(body, **changes))  # type: ignore[arg-type]


def at(blobs: tuple[SignedBlob, ...], index: int, blob: SignedBlob) -> tuple[SignedBlob, ...]:
    return (*blobs[:index], blob, *blobs[index + 1 :])


def fewer_signatures(record: PublishedRound) -> bytes:
    key = KeyRecord.from_bytes(record.key_record)
    return replace(key, signatures={index: sig for index, sig in key.signatures.items() if index != 1}).to_bytes()


def another_quorum(one: Played, record: PublishedRound, quorum: tuple[int, ...], holder: int) -> PublishedRound:
    """One answer of the quorum is made for another one, truly."""
    made = answer(one.game, one.t3, one.product, holder, quorum)
    blob = one.game.home.sign(made.org, BlobType.PARTIAL, made.body)
    hashes = tuple(
        transcript.partial_leaf(one.t3, made.org, quorum, index, leaf) for index, leaf in enumerate(made.leaves.all)
    )
    reveals = tuple(old if old.signer_id != made.org else blob for old in record.reveals)
    return replace(record, reveals=reveals, partial_hashes={**record.partial_hashes, made.org: hashes})


Forgery = Callable[[Played, PublishedRound], PublishedRound]
OTHER = bytes(31) + b"\x01"

FORGERIES: dict[str, Forgery] = {
    "an advert of another key": lambda one, r: replace(
        r, adverts=at(r.adverts, 0, resigned(one, r.adverts[0], fingerprint=OTHER))
    ),
    "an advert of another attempt": lambda one, r: replace(
        r, adverts=at(r.adverts, 0, resigned(one, r.adverts[0], t0=OTHER))
    ),
    "an advert in another's name": lambda one, r: replace(
        r, adverts=at(r.adverts, 0, resigned(one, r.adverts[0], org_id=NAMES[1]))
    ),
    "an advert less": lambda one, r: replace(r, adverts=r.adverts[1:]),
    "an advert twice": lambda one, r: replace(r, adverts=(*r.adverts, r.adverts[0])),
    "a member less": lambda one, r: replace(r, dealers=r.dealers[1:]),
    "a header less": lambda one, r: replace(r, headers=r.headers[1:]),
    "a header of another key": lambda one, r: replace(
        r, headers=at(r.headers, 0, resigned(one, r.headers[0], fingerprint=OTHER))
    ),
    "a header of another shape": lambda one, r: replace(
        r, headers=at(r.headers, 0, resigned(one, r.headers[0], width=2))
    ),
    "a second header, truly signed": lambda one, r: replace(
        r, headers=at(r.headers, 0, resigned(one, r.headers[0], headers_hash=OTHER))
    ),
    "a vote less": lambda one, r: replace(r, votes=r.votes[1:]),
    "a vote for another set": lambda one, r: replace(r, votes=at(r.votes, 0, resigned(one, r.votes[0], t3=OTHER))),
    "t-1 answers": lambda one, r: replace(
        r, reveals=r.reveals[:1], partial_hashes={r.reveals[0].signer_id: r.partial_hashes[r.reveals[0].signer_id]}
    ),
    "no answers": lambda one, r: replace(r, reveals=(), partial_hashes={}),
    "two quorums mixed": lambda one, r: another_quorum(one, r, (0, 1), 0),
    "an answer of a third holder": lambda one, r: another_quorum(one, r, (0, 1), 1),
    "an answer for another set": lambda one, r: replace(
        r, reveals=at(r.reveals, 0, resigned(one, r.reveals[0], t3=OTHER))
    ),
    "an answer with other leaves": lambda one, r: replace(
        r, reveals=at(r.reveals, 0, resigned(one, r.reveals[0], leaf_root=OTHER))
    ),
    "answers of a quorum too large": lambda one, r: replace(
        r, reveals=tuple(resigned(one, blob, quorum=(0, 1, 2)) for blob in r.reveals)
    ),
    "answers of holders that do not exist": lambda one, r: replace(
        r, reveals=tuple(resigned(one, blob, quorum=(0, 9)) for blob in r.reveals)
    ),
    "no noise": lambda one, r: replace(r, noise=()),
    "noise twice": lambda one, r: replace(r, noise=(*r.noise, *r.noise)),
    "other noise, truly signed": lambda one, r: replace(r, noise=(resigned(one, r.noise[0], headers_hash=OTHER),)),
    "noise in a member's name": lambda one, r: replace(
        r, noise=(one.game.home.sign(NAMES[0], BlobType.NOISE, parse_body(BlobType.NOISE, r.noise[0].body)),)
    ),
    "leaves of the noise": lambda one, r: replace(
        r, leaf_hashes={**r.leaf_hashes, COORDINATOR: r.leaf_hashes[NAMES[0]]}
    ),
    "leaves of the noise missing": lambda one, r: replace(
        r, leaf_hashes={org: found for org, found in r.leaf_hashes.items() if org != COORDINATOR}
    ),
    "leaves of one who is no survivor": lambda one, r: replace(
        r, leaf_hashes={**r.leaf_hashes, NAMES[4]: r.leaf_hashes[NAMES[0]]}
    ),
    "another product": lambda one, r: replace(r, product_hashes=(OTHER, *r.product_hashes[1:])),
    "a block of the product less": lambda one, r: replace(r, product_hashes=r.product_hashes[1:]),
    "a result with another product": lambda one, r: replace(r, result=resigned(one, r.result, product_root=OTHER)),
    "a result without a product": lambda one, r: replace(r, result=resigned(one, r.result, product_root=b"")),
    "a result with a tag": lambda one, r: replace(r, result=resigned(one, r.result, tag_sum=bytes(8))),
    "a result of fewer": lambda one, r: replace(r, result=resigned(one, r.result, survivors=3)),
    "a key without a holder's signature": lambda one, r: replace(r, key_record=fewer_signatures(r)),
    "a key of other holders": lambda one, r: replace(
        r, key_record=house(1, 3, 4, 3).key_record, key_terms=house(1, 3, 4, 3).key_terms
    ),
    "the terms of another key": lambda one, r: replace(r, key_terms=house(1, 3, 4, 3).key_terms),
    "the record of another key": lambda one, r: replace(r, key_record=house(1, 3, 4, 3).key_record),
    "no key": lambda one, r: replace(r, key_record=b"", key_terms=b""),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_record_proves_nothing(played: Played, name: str) -> None:
    forged = FORGERIES[name](played, played.record)
    assert forged != played.record
    verified(played)
    assert code_of(lambda: verified(played, forged)) == "round_not_proved"


MANIFESTS: dict[str, dict[str, object]] = {
    "protection": {"protection": "masked"},
    "ring": {"ring_bits": 24},
    "quorum": {"quorum": 3, "threshold": 3},
    "length": {"length": LENGTH + 1},
    "cohort": {"cohort": NAMES[:4]},
    "no key": {"encryption": ()},
    "nonce": {"nonce": OTHER},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_another_manifest_proves_nothing(played: Played, name: str) -> None:
    """Even where the members signed again what follows from it: here they did not."""
    blob = resigned(played, played.record.manifest, **MANIFESTS[name])
    assert code_of(lambda: verified(played, replace(played.record, manifest=blob))) == "round_not_proved"


@pytest.mark.parametrize(
    "change",
    [{"fingerprint": OTHER}, {"epoch": 1}, {"key_id": "key-2"}, {"noise": b""}, {"noise": OTHER}, {"noise_cap": 998}],
)
def test_a_manifest_of_another_key_or_noise_proves_nothing(change: dict[str, object]) -> None:
    """A whole round is played under it, so that nothing but the key or the noise is wrong."""
    game = Game(house(), 60, noisy=True)
    verified(play(game))
    named = replace(game.manifest.encryption[0], **change)  # type: ignore[arg-type]
    lie = Game(house(), 60, noisy=True, manifest_change={"encryption": (named,)})
    assert code_of(lambda: verified(play(lie))) == "round_not_proved"


def test_a_ring_of_another_width_proves_nothing() -> None:
    lie = Game(house(), 60, manifest_change={"ring_bits": 24})
    assert code_of(lambda: verified(play(lie))) == "round_not_proved"


def test_holders_are_those_of_the_roster(played: Played) -> None:
    """The key's holders have other protocol keys than the organisations of their names: made up by a coordinator."""
    stranger = house(seed=2)
    forged = replace(played.record, key_terms=stranger.key_terms, key_record=stranger.key_record)
    with pytest.raises(PeerError) as caught:
        verified(played, forged)
    assert "the holder acme" in caught.value.what


def test_masked_and_paillier_do_not_pass_for_each_other(played: Played) -> None:
    roster = played.game.home.charter.roster
    assert code_of(lambda: published.verify(played.record, roster)) == "round_not_proved"
    assert published.protection_of(played.record) == "paillier"
    broken = replace(played.record, manifest=replace(played.record.manifest, body=b"\xff"))
    assert code_of(lambda: published.protection_of(broken)) == "round_not_proved"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_part_can_change(data: st.DataObject) -> None:
    """Any bit of any part: the parts no longer parse, or the round proves nothing."""
    one = fixed()
    parts = list(encode_parts(one.record))
    which = data.draw(st.integers(0, len(parts) - 1))
    match data.draw(st.sampled_from(["bit", "drop", "double", "cut"])):
        case "bit":
            place = data.draw(st.integers(0, len(parts[which]) - 1))
            bit = 1 << data.draw(st.integers(0, 7))
            parts[which] = parts[which][:place] + bytes([parts[which][place] ^ bit]) + parts[which][place + 1 :]
        case "drop":
            del parts[which]
        case "double":
            parts.insert(which, parts[which])
        case _:
            parts[which] = parts[which][: data.draw(st.integers(0, len(parts[which]) - 1))]
    try:
        record = parse_parts(parts)
    except MalformedError:
        return
    try:
        found = verified(one, record)
    except PeerError as error:
        code = error.code
    else:
        # the roster is found by its hash, before it comes here; nothing else may differ
        code = "" if replace(record, signed_roster=one.record.signed_roster) != one.record else "round_not_proved"
        assert found == verified(one)
    assert code == "round_not_proved", f"part {which} changed and the round is still proved"


@functools.cache
def fixed() -> Played:
    return play(Game(house(), 300, noisy=True))


# --- the archive ------------------------------------------------------------------------------------------------------


class Kept:
    """A journal with the facts of one round, in which a first quorum was called in vain."""

    def __init__(self, one: Played) -> None:
        record, product = (
            one.record,
            facts.ProductMade(one.record.noise, transcript.leaf_root(one.record.product_hashes)),
        )
        in_vain = answer(one.game, one.t3, one.product, 0, (0, 1))
        self.one = one
        self.told: list[facts.Fact] = [
            facts.Offered(record.manifest),
            *(facts.AdvertAccepted(blob) for blob in record.adverts),
            facts.KeySetFrozen(NAMES),
            *(facts.InputAccepted(blob) for blob in record.headers),
            facts.Proposed(NAMES[:4]),
            *(facts.VoteAccepted(blob) for blob in record.votes),
            facts.Certified(NAMES[:4]),
            product,
            facts.QuorumCalled((0, 1)),
            facts.RevealAccepted(one.game.home.sign(NAMES[0], BlobType.PARTIAL, in_vain.body)),
            facts.QuorumCalled(QUORUM),
            *(facts.RevealAccepted(blob) for blob in record.reveals),
            facts.OpeningStarted(tuple(blob.signer_id for blob in record.reveals)),
            facts.SumOpened(record.result),
        ]

    def facts(self, run_id: object) -> list[tuple[str, bytes]]:
        return [(facts.kind_of(fact), facts.encode(fact)) for fact in self.told]

    def kept_input(self, run_id: object, round: int, org_id: OrgId) -> Stored:
        return self.one.inputs[org_id]

    def kept_product(self, run_id: object, round: int) -> Stored:
        return self.one.product

    def kept_answer(self, run_id: object, round: int, org_id: OrgId) -> Stored:
        return self.one.answers[org_id]


def test_the_archive_publishes_the_round_as_it_was(played: Played) -> None:
    home = played.game.home
    fingerprint = home.all_of.key.fingerprint
    keys = {fingerprint: (home.key_terms, home.key_record)}
    archive = Archive(Kept(played), lambda version: home.charter.notice.signed_roster, keys.__getitem__)
    assert archive.round(RUN, 1) == played.record
    for kind in LeafKind:
        assert list(archive.leaves(RUN, 1, [0, 5], kind)) == played.leaves(kind, [0, 5])
    without = Archive(Kept(played), lambda version: home.charter.notice.signed_roster)
    assert code_of(lambda: without.round(RUN, 1)) == "no_such_key"
