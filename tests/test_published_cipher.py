"""A published round under paillier: the honest one verifies everywhere, every bent part of it is refused."""

import functools
import pathlib
from collections.abc import Callable
from dataclasses import replace

import gmpy2
import numpy as np
import pytest
from fedveil_cli import verifying
from fedveil_common import audit, cipher_audit, published, published_cipher, transcript
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import signed
from fedveil_common.messages import BlobType, Result, SignedBlob
from fedveil_common.paillier.block_leaves import read_block, write_block
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.ringfile import leaf_length
from fedveil_common.secret import Seed
from fedveil_common.wire import parse_body
from fedveil_common.wire.fields import MalformedError
from fedveil_common.wire.published import encode_parts, from_file, parse_parts, to_file
from fedveil_coordinator import facts
from fedveil_coordinator.archive import Archive
from fedveil_participant import checking
from fedveil_participant.checking import Checker, DownloadedSum
from fedveil_participant.events import OpenedSum
from fedveil_simulation.ports import SeededEntropy
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cipher_rounds import QUORUM, RUN, Game, Played, Stored, answer, house, play, values_of
from tests.paillier_parties import NAMES

LENGTH = 17_000
SEED = Seed(bytes(range(32)))


@pytest.fixture(scope="module")
def played() -> Played:
    """Two leaves of the sum across many blocks, one member dropped, noise of the coordinator."""
    return play(Game(house(), LENGTH, noisy=True))


@pytest.fixture(scope="module")
def small() -> Game:
    """An attempt of a few blocks, for lies that need a round of their own."""
    return Game(house(), 700)


def verified(one: Played, record: PublishedRound | None = None) -> published_cipher.ProvenCipher:
    return published_cipher.verify(one.record if record is None else record, one.game.home.charter.roster)


def sum_hashes(one: Played) -> dict[int, bytes]:
    return {index: transcript.sum_leaf(one.t3, index, leaf) for index, leaf in enumerate(one.sums)}


def audited(one: Played) -> None:
    """Everything that an auditor does."""
    proven = verified(one)
    answered = cipher_audit.download(proven, one.leaves)
    cipher_audit.check_partials(answered, SEED)
    cipher_audit.audit_sum(answered, sum_hashes(one))
    cipher_audit.audit_product(answered, range(proven.shape.blocks.count), one.leaves)


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(FedveilError) as caught:
        act()
    return caught.value.code


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


# --- what a coordinator can lie about ---------------------------------------------------------------------------------


def other_body(game: Game, product: Stored, value: Callable[[int], int]) -> Stored:
    block = read_block(product.packed(0), game.shape)
    return Stored(
        [write_block(replace(block, bodies=(value(block.bodies[0]), *block.bodies[1:])), game.shape), *product.all[1:]]
    )


def test_a_false_product_is_disputed(small: Game) -> None:
    """The coordinator adds 1 to a coordinate of the product that it signs: what opened is not what it shows."""
    group = small.home.all_of.group
    audited(play(small))
    lie = play(
        small, bend_product=lambda product: other_body(small, product, lambda c: c * (1 + group.n) % group.cipher)
    )
    proven = verified(lie)
    answered = cipher_audit.download(proven, lie.leaves)
    cipher_audit.check_partials(answered, SEED)
    assert code_of(lambda: cipher_audit.audit_product(answered, [0], lie.leaves)) == "sum_disputed"
    assert code_of(lambda: cipher_audit.audit_sum(answered, sum_hashes(lie))) == "sum_disputed"
    cipher_audit.audit_product(answered, [1, 2], lie.leaves)  # these blocks are right


def test_a_product_that_leaves_an_input_out_is_disputed(small: Game) -> None:
    """Holders who work together with the coordinator answer to the product of three inputs; the sum is of three."""
    lie = play(small, multiplied=lambda inputs: list(inputs.values())[:3])
    answered = cipher_audit.download(verified(lie), lie.leaves)
    cipher_audit.check_partials(answered, SEED)
    assert code_of(lambda: cipher_audit.audit_product(answered, [2], lie.leaves)) == "sum_disputed"
    twice = play(small, multiplied=lambda inputs: [*list(inputs.values())[:3], next(iter(inputs.values()))])
    answered = cipher_audit.download(verified(twice), twice.leaves)
    assert code_of(lambda: cipher_audit.audit_product(answered, [0], twice.leaves)) == "sum_disputed"


def test_noise_left_out_of_the_product_is_disputed() -> None:
    game = Game(house(), 90, noisy=True)
    audited(play(game))
    lie = play(game, multiplied=lambda inputs: [one for org, one in inputs.items() if org != COORDINATOR])
    answered = cipher_audit.download(verified(lie), lie.leaves)
    cipher_audit.check_partials(answered, SEED)
    assert code_of(lambda: cipher_audit.audit_product(answered, [0], lie.leaves)) == "sum_disputed"


def test_a_false_sum_is_disputed(small: Game) -> None:
    lie = play(small, bend_sum=lambda leaves: [bytes([leaves[0][0] ^ 1]) + leaves[0][1:], *leaves[1:]])
    answered = cipher_audit.download(verified(lie), lie.leaves)
    cipher_audit.check_partials(answered, SEED)
    cipher_audit.audit_product(answered, [0, 1, 2], lie.leaves)
    assert code_of(lambda: cipher_audit.audit_sum(answered, sum_hashes(lie))) == "sum_disputed"


def test_holders_who_add_to_the_sum_are_seen(small: Game) -> None:
    """A quorum that works together with the coordinator multiplies its answers by powers of 1+n: the sum that opens is
    another one, and only the proofs show it.
    """
    group = small.home.all_of.group

    def adding(game: Game, t3: bytes, product: Stored, holder: int, quorum: tuple[int, ...]) -> object:
        def change(rows: list[list[int]]) -> list[list[int]]:
            first = list(rows[0])
            first[0] = first[0] * group.one_plus(5 if holder == quorum[0] else 0) % group.cipher
            return [first, *rows[1:]]

        return answer(game, t3, product, holder, quorum, change=change)

    lie = play(small, answered=adding)  # type: ignore[arg-type]
    answered = cipher_audit.download(verified(lie), lie.leaves)
    cipher_audit.audit_product(answered, [0, 1, 2], lie.leaves)
    cipher_audit.audit_sum(answered, sum_hashes(lie))  # without the proofs the lie passes
    with pytest.raises(PeerError) as caught:
        cipher_audit.check_partials(answered, SEED)
    assert caught.value.code == "sum_disputed"
    assert "acme" in caught.value.what


def test_a_lift_that_is_none_is_seen(small: Game) -> None:
    """Product, lifts and answers agree with each other, and a lift has a power of 1+n in it: P2 finds it."""
    group = small.home.all_of.group

    def bent(product: Stored) -> Stored:
        block = read_block(product.packed(1), small.shape)
        false = replace(block, lift=block.lift * (1 + group.n) % group.cipher)
        return Stored([product.packed(0), write_block(false, small.shape), product.packed(2)])

    lie = play(small, bend_product=bent)
    answered = cipher_audit.download(verified(lie), lie.leaves)
    assert code_of(lambda: cipher_audit.check_partials(answered, SEED)) == "sum_disputed"
    for value in (gmpy2.mpz(0), group.n, gmpy2.mpz(1)):
        none = play(small, bend_product=functools.partial(other_lift, small, value))
        answered = cipher_audit.download(verified(none), none.leaves)
        assert code_of(functools.partial(cipher_audit.check_partials, answered, SEED)) == "sum_disputed"
    zero = play(small, bend_product=lambda product: other_body(small, product, lambda c: gmpy2.mpz(0)))
    answered = cipher_audit.download(verified(zero), zero.leaves)
    assert code_of(lambda: cipher_audit.audit_sum(answered, sum_hashes(zero))) == "sum_disputed"


def other_lift(game: Game, value: int, product: Stored) -> Stored:
    block = read_block(product.packed(0), game.shape)
    return Stored([write_block(replace(block, lift=value), game.shape), *product.all[1:]])


@pytest.mark.parametrize("kind", list(LeafKind))
@pytest.mark.parametrize("alter", ["bit", "short", "missing", "swapped", "of another"])
def test_a_leaf_that_is_not_the_signed_one_is_named(played: Played, kind: LeafKind, alter: str) -> None:
    proven = verified(played)
    answered = cipher_audit.download(proven, played.leaves)

    def bent(asked: LeafKind, wanted: object) -> list[tuple[OrgId, int, bytes]]:
        found = played.leaves(asked, wanted)  # type: ignore[arg-type]
        if asked is not kind:
            return found
        org, index, data = found[1]
        match alter:
            case "bit":
                found[1] = (org, index, data[:-1] + bytes([data[-1] ^ 1]))
            case "short":
                found[1] = (org, index, data[:-1])
            case "missing":
                del found[1]
            case "swapped":
                found[0], found[1] = found[1], found[0]
            case _:
                found[1] = (org, index, found[0][2])
        return found

    def act() -> None:
        cipher_audit.audit_product(cipher_audit.download(proven, bent), [0, 1], bent)

    cipher_audit.audit_product(answered, [0, 1], played.leaves)
    with pytest.raises(PeerError) as caught:
        act()
    assert caught.value.code == "round_not_proved"
    assert kind.value in caught.value.what


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


# --- a participant ----------------------------------------------------------------------------------------------------


class Source:
    """A coordinator that shows what it likes."""

    def __init__(self, one: Played, record: PublishedRound | None = None) -> None:
        self.one, self.record = one, one.record if record is None else record
        self.asked: dict[LeafKind, int] = {}

    def fetch_sum(self, run_id: object, round: int) -> checking.SumDownload:
        raise AssertionError("the sum is there already")

    def fetch_round(self, run_id: object, round: int) -> PublishedRound:
        return parse_parts(encode_parts(self.record))

    def fetch_leaves(
        self, run_id: object, round: int, leaves: object, kind: LeafKind = LeafKind.INPUT
    ) -> list[tuple[OrgId, int, bytes]]:
        found = self.one.leaves(kind, leaves)  # type: ignore[arg-type]
        self.asked[kind] = self.asked.get(kind, 0) + len(found)
        return found


def check(one: Played, record: PublishedRound | None = None, *, audited: bool = True) -> Source:
    source = Source(one, record)
    charter, bits = one.game.home.charter, one.game.manifest.ring_bits
    result = parse_body(BlobType.RESULT, one.record.result.body)
    assert isinstance(result, Result)
    ring = [unpack(leaf, leaf_length(one.game.length, index), bits) for index, leaf in enumerate(one.sums)]
    values = np.concatenate([signed(one_leaf, bits) for one_leaf in ring])
    hashes = tuple(sum_hashes(one).values())
    downloaded = DownloadedSum(one.record.manifest, one.record.result, result, values, hashes, 1 << 40, 1)
    checker = Checker(source, SeededEntropy(3, "auditor"), charter.past_roster)
    checker.check(downloaded, OpenedSum(RUN, 1, one.t3), None, audited=audited)
    return source


def test_a_participant_checks_every_answer_and_as_many_blocks_as_the_rule_says(played: Played) -> None:
    blocks = played.game.shape.blocks.count
    asked = check(played).asked
    assert asked[LeafKind.PRODUCT] == blocks
    assert asked[LeafKind.PARTIAL] == 2 * blocks
    assert asked[LeafKind.INPUT] == 5 * audit.thorough_share(3, blocks)
    assert check(played, audited=False).asked == {}


def test_a_participant_refuses_what_an_auditor_refuses(small: Game, played: Played) -> None:
    group = small.home.all_of.group
    check(play(small))
    for lie in (
        play(
            small, bend_product=lambda product: other_body(small, product, lambda c: c * (1 + group.n) % group.cipher)
        ),
        play(small, bend_sum=lambda leaves: [bytes([leaves[0][0] ^ 1]) + leaves[0][1:]]),
        play(small, multiplied=lambda inputs: list(inputs.values())[:3]),
    ):
        assert code_of(lambda lie=lie: check(lie)) == "sum_disputed"  # type: ignore[misc]
    for name in ("t-1 answers", "two quorums mixed", "no noise", "no key"):
        assert code_of(lambda name=name: check(played, FORGERIES[name](played, played.record))) == "round_not_proved"  # type: ignore[misc]


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
