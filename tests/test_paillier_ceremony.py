"""The ceremony: what honest holders end with, and what happens to those who deviate.

Each attack is run with the check that stops it taken out as well: then it succeeds, so the check is why it fails.
"""

import itertools
from collections.abc import Iterable
from dataclasses import replace

import gmpy2
import pytest
from fedveil_common.crypto.labels import lp
from fedveil_common.errors import FedveilError, PeerError, StorageError
from fedveil_common.paillier import ceremony, contributions, holder_lists, key_record, list_proof, party
from fedveil_common.paillier import ceremony_messages as messages
from fedveil_common.paillier.ceremony_messages import Kind, SignedMessage
from fedveil_common.paillier.holder_key import HolderKey, StoredState
from fedveil_common.paillier.holder_lists import ProvenList
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.list_proof import Statement
from fedveil_common.paillier.octets import Octets
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.root import Holders, root
from fedveil_common.paillier.shares import SeedSet
from fedveil_common.secret import Seed
from hypothesis import given, settings
from hypothesis import strategies as st
from paillier_holders import RSA_2048, Table, again, draw, holders_of, lists_of, made, private_key, terms_of
from paillier_holders import party as seat

THREE = holders_of(terms_of(3, 2))
FIVE = holders_of(terms_of(5, 4))
PLAYED = Table(THREE).play()
KEY = PLAYED.finished()[0]


# --- honest holders ----------


@pytest.mark.parametrize(("holders", "threshold", "width"), [(2, 2, 4), (3, 2, 2), (3, 3, 3), (5, 4, 2)])
def test_every_quorum_has_the_exponents_of_the_key(holders: int, threshold: int, width: int) -> None:
    keys = made(holders, threshold, width)
    assert len({key.public.fingerprint for key in keys}) == 1
    assert len({key.record.to_bytes() for key in keys}) == 1
    public = keys[0].public
    for quorum in itertools.combinations(range(holders), threshold):
        shares = [keys[index].exponents(quorum, width) for index in quorum]
        for k in range(width):
            assert gmpy2.powmod(public.g, sum(share[k] for share in shares), RSA_2048) == public.columns[k]
        for index, share in zip(quorum, shares, strict=True):
            of_holder = public.of_holder(index, quorum, width)
            assert of_holder == [gmpy2.powmod(public.g, x, RSA_2048) for x in share]


def test_holders_know_exactly_the_seeds_that_they_may_know() -> None:
    keys = made(5, 4)
    for key in keys:
        assert set(key.seeds) == {one for one in key.holders.terms.sets if key.index not in one}
        for absent, seed in key.seeds.items():
            assert all(seed == keys[other].seeds[absent] for other in range(5) if other not in absent)
    assert len({seed.expose() for key in keys for seed in key.seeds.values()}) == 10


def test_a_key_needs_a_quorum_and_its_member() -> None:
    with pytest.raises(ValueError, match="not a member"):
        KEY.exponents((1, 2), 2)
    with pytest.raises(ValueError, match="a quorum is"):
        KEY.exponents((0, 1, 2), 2)


@pytest.mark.parametrize("take", [0, -1])
def test_order_and_repetition_do_not_matter(take: int) -> None:
    played = Table(THREE, lie=lambda message: (message, message), take=take).play()
    assert [key.public.fingerprint for key in played.finished()] == [KEY.public.fingerprint] * 3


def test_another_key_id_gives_other_seeds() -> None:
    other = Table(holders_of(terms_of(3, 2, key_id="key-2"))).play().finished()[0]
    assert all(other.seeds[absent] != seed for absent, seed in KEY.seeds.items())


def test_a_key_regrouped_has_another_fingerprint() -> None:
    """G1: as one flat list, (5,4,K=2) could be read as (4,2,K=5), where two holders would know everything."""
    record = made(5, 4)[0].record
    flat = [value for absent in record.holders.terms.sets for value in record.lists[absent].values]
    smaller = terms_of(4, 2, width=5)
    lists = {absent: flat[5 * place : 5 * place + 5] for place, absent in enumerate(smaller.sets)}
    assert [value for absent in smaller.sets for value in lists[absent]] == flat
    regrouped = PublicKey(smaller, 0, lists)
    true = key_record.verify(record, record.root)
    assert regrouped.fingerprint != true.fingerprint
    swapped = dict(zip(true.terms.sets, reversed(list(true.lists.values())), strict=True))
    assert PublicKey(true.terms, 0, swapped).fingerprint != true.fingerprint


def test_the_root_names_terms_and_people() -> None:
    terms = terms_of(3, 2)
    keys = THREE.keys
    assert root(terms, keys) == THREE.root
    others = [
        Holders(terms_of(3, 3), keys),
        Holders(terms_of(3, 2, width=3), keys),
        Holders(terms_of(3, 2, key_id="k"), keys),
        Holders(terms, (keys[1], keys[0], keys[2])),
    ]
    assert len({THREE.root, *(other.root for other in others)}) == 5
    for wrong in (keys[:2], (keys[0], keys[0], keys[1]), (keys[0], keys[1], b"short")):
        with pytest.raises(ValueError, match="protocol key"):
            root(terms, wrong)
    with pytest.raises(ValueError, match="legal name"):
        root(replace(terms, holders=("coordinator", "x", "y")), keys)


def test_nobody_sits_in_a_foreign_seat() -> None:
    with pytest.raises(ValueError, match="seat"):
        party.Party(THREE, 0, private_key(1), Seed(draw("x")))


# --- the rogue list ----------


def rogue(lists: dict[int, messages.ListsBody], holders: Holders, epoch: int, bad: SeedSet) -> ProvenList:
    """What the two who know the seed of `bad` would show: with it, the key's exponents are ones that they chose."""
    terms = holders.terms
    known = {absent: one.values for body in lists.values() for absent, one in body.lists.items() if absent != bad}
    assert set(known) == set(terms.sets) - {bad}
    chosen = rogue_exponents(terms.width)
    g = holder_lists.base(holder_lists.Group(RSA_2048, 1))
    values = []
    for k, x in enumerate(chosen):
        others = 1
        for one in known.values():
            others = others * one[k] % RSA_2048
        values.append(gmpy2.powmod(g, x, RSA_2048) * gmpy2.invert(others, RSA_2048) % RSA_2048)
    statement = Statement(terms, holders.root, epoch, bad, tuple(values))
    return ProvenList(statement.values, list_proof.prove(statement, chosen, Seed(draw("rogue")), draw("rogue") * 2))


def rogue_exponents(width: int) -> list[int]:
    return [int.from_bytes(draw("rogue", k), "big") for k in range(width)]


class Colluders:
    """Holders 3 and 4 keep their lists back until they have seen all others."""

    def __init__(self, holders: Holders, epoch: int) -> None:
        self.holders = holders
        self.epoch = epoch
        self.seen: list[SignedMessage] = []

    def __call__(self, message: SignedMessage) -> Iterable[SignedMessage]:
        if message.kind is Kind.LISTS:
            self.seen.append(message)
            if len(self.seen) < 5:
                return () if message.sender >= 3 else (message,)
            return (*((message,) if message.sender < 3 else ()), *self.forged())
        return () if message.kind is Kind.APPROVAL and message.sender >= 3 else (message,)

    def forged(self) -> list[SignedMessage]:
        lists = lists_of(self.seen, self.holders)
        bad = rogue(lists, self.holders, self.epoch, (0, 1, 2))
        told = []
        for message in self.seen:
            if message.sender >= 3:
                body = lists[message.sender]
                body = replace(body, lists={**body.lists, (0, 1, 2): bad})
                told.append(again(self.holders, message, body))
        return told


def nothing(*ignored: object) -> None:
    """The check that is not made."""


def test_a_rogue_list_is_named_before_it_is_proven() -> None:
    played = Table(FIVE, Colluders(FIVE, 0)).play()
    assert {played.codes()[index] for index in range(3)} == {("key_list_not_announced", "holder-3")}


def test_a_rogue_list_has_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder_lists, "check_announced", nothing)
    played = Table(FIVE, Colluders(FIVE, 0)).play()
    assert {played.codes()[index] for index in range(3)} == {("bad_list_proof", "holder-3")}


def test_without_both_checks_two_of_five_choose_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder_lists, "check_announced", nothing)
    monkeypatch.setattr(list_proof, "check", nothing)
    played = Table(FIVE, Colluders(FIVE, 0)).play()
    assert {0, 1, 2}.isdisjoint(played.refused)
    stage = played.states[0].stage
    assert isinstance(stage, ceremony.AwaitingApprovals)
    for index in (3, 4):
        signature = key_record.sign_key(private_key(index), FIVE, index, stage.key)
        body = messages.Approval(stage.follows, stage.key.fingerprint, signature)
        data = messages.encode(body, FIVE.terms, index)
        played.lie = lambda message: (message,)
        played.deliver([messages.sign(FIVE, index, private_key(index), Kind.APPROVAL, data)])
    done = played.states[0].stage
    assert isinstance(done, ceremony.Made)
    public = done.key.public
    chosen = rogue_exponents(2)
    assert list(public.columns) == [gmpy2.powmod(public.g, x, RSA_2048) for x in chosen]


# --- contributions ----------


def reseal(table: Table, message: SignedMessage, other: Seed) -> SignedMessage:
    """Contributions of `message.sender` that open well and are not those committed to."""
    stage = table.states[message.sender].stage
    assert isinstance(stage, ceremony.AwaitingContributions)
    body = messages.parse(message, table.holders)
    assert isinstance(body, messages.Contributions)
    sealed = {
        (absent, recipient): contributions.seal(
            table.holders,
            stage.follows,
            absent,
            message.sender,
            recipient,
            stage.channel,
            stage.channel_keys[recipient],
            other,
        )
        for absent, recipient in body.sealed
    }
    return again(table.holders, message, replace(body, sealed=sealed))


def last_mover(table: Table) -> None:
    """Holder 2 opens something else than it committed to."""
    table.lie = lambda message: (
        [reseal(table, message, Seed(draw("chosen last")))]
        if message.kind is Kind.CONTRIBUTIONS and message.sender == 2
        else [message]
    )


def test_the_last_mover_cannot_choose() -> None:
    table = Table(THREE)
    last_mover(table)
    table.play()
    assert table.codes()[0] == table.codes()[1] == ("bad_contribution", "holder-2")


def test_without_commitments_the_last_mover_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    real = contributions.hmac.compare_digest
    monkeypatch.setattr(contributions.hmac, "compare_digest", lambda a, b: True)
    table = Table(THREE)
    last_mover(table)
    table.play()
    monkeypatch.setattr(contributions.hmac, "compare_digest", real)
    stage = table.states[1].stage
    assert isinstance(stage, ceremony.AwaitingListHashes)
    own = seat(THREE, 1).draws.seed("paillier/contribution", transcript_of(table, 1), bytes((0,)))
    parts = {1: own, 2: Seed(draw("chosen last"))}
    assert stage.seeds[(0,)] == contributions.joint_seed(THREE, transcript_of(table, 2), (0,), parts)


def transcript_of(table: Table, phases: int) -> bytes:
    follows = messages.start_of_ceremony(table.holders)
    for kind in list(Kind)[:phases]:
        follows = messages.transcript(follows, kind, table.states[0].heard.bodies(kind))
    return follows


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("place", [32, 32 + 47, 32 + 48])
def test_a_contribution_that_does_not_open_is_named(place: int) -> None:
    def lie(message: SignedMessage) -> Iterable[SignedMessage]:
        if message.kind is not Kind.CONTRIBUTIONS or message.sender != 2:
            return (message,)
        return (messages.sign(THREE, 2, private_key(2), message.kind, flip(message.body, place)),)

    codes = Table(THREE, lie).play().codes()
    assert ("bad_contribution", "holder-2") in codes.values()
    assert {code for code, _ in codes.values()} <= {"bad_contribution", "key_views_differ"}


def test_who_may_not_know_a_seed_cannot_open_it() -> None:
    """The associated data and the key name set, dealer and recipient."""
    table = Table(THREE).play()
    sent = next(message for message in table.sent if message.kind is Kind.CONTRIBUTIONS and message.sender == 2)
    body = messages.parse(sent, THREE)
    assert isinstance(body, messages.Contributions)
    assert set(body.sealed) == {((0,), 1), ((1,), 0)}
    channels = [seat(THREE, index).draws.private_key("paillier/channel", THREE.root) for index in range(3)]
    keys = [contributions.channel_key(channel) for channel in channels]
    first, second = transcript_of(table, 1), transcript_of(table, 2)
    own = seat(THREE, 2).draws.seed("paillier/contribution", first, bytes((0,)))
    committed = contributions.commitment(first, (0,), 2, own)
    sealed = body.sealed[((0,), 1)]
    opened = contributions.open_contribution(THREE, second, (0,), 2, 1, channels[1], keys[2], sealed, committed, first)
    assert opened == own
    for absent, recipient, channel in (((0,), 0, 0), ((1,), 1, 1), ((0,), 1, 0)):
        with pytest.raises(PeerError) as caught:
            contributions.open_contribution(
                THREE, second, absent, 2, recipient, channels[channel], keys[2], sealed, committed, first
            )
        assert caught.value.code == "bad_contribution"


# --- channel keys, lists, approvals ----------


def replaced(kind: Kind, sender: int, change: object) -> object:
    def lie(message: SignedMessage) -> Iterable[SignedMessage]:
        if message.kind is not kind or message.sender != sender:
            return (message,)
        body = messages.parse(message, THREE)
        return (again(THREE, message, change(body)),)  # type: ignore[operator]

    return lie


def test_a_low_order_channel_key_is_refused() -> None:
    lie = replaced(Kind.CHANNEL_KEY, 2, lambda body: replace(body, key=bytes(32)))
    codes = Table(THREE, lie).play().codes()  # type: ignore[arg-type]
    assert codes[0] == codes[1] == ("bad_public_key", "holder-2")


def test_two_holders_with_one_channel_key_are_refused() -> None:
    first = messages.parse(PLAYED.sent[0], THREE)
    lie = replaced(Kind.CHANNEL_KEY, 2, lambda body: first)
    codes = Table(THREE, lie).play().codes()  # type: ignore[arg-type]
    assert codes[0] == codes[1] == ("bad_public_key", "")


def test_a_list_that_differs_from_what_a_co_holder_derives_is_named() -> None:
    def change(body: messages.ListHashes) -> messages.ListHashes:
        return replace(body, hashes={**body.hashes, (0,): draw("another list")})

    codes = Table(THREE, replaced(Kind.LIST_HASHES, 2, change)).play().codes()  # type: ignore[arg-type]
    assert codes[1] == ("key_list_differs", "holder-2")  # it knows the seed
    assert codes[0] == ("key_list_differs", "")  # it sees that two differ, and not who is wrong


def test_a_list_that_was_not_announced_is_named() -> None:
    other = made(3, 2, width=2)[0].record.lists[(1,)]

    def change(body: messages.ListsBody) -> messages.ListsBody:
        return replace(body, lists={**body.lists, (0,): other})

    codes = Table(THREE, replaced(Kind.LISTS, 2, change)).play().codes()  # type: ignore[arg-type]
    assert codes[0] == codes[1] == ("key_list_not_announced", "holder-2")


@pytest.mark.parametrize("what", ["proof of another set", "response", "commitment"])
def test_a_list_without_its_proof_is_named(what: str) -> None:
    def change(body: messages.ListsBody) -> messages.ListsBody:
        one, other = body.lists[(0,)], body.lists[(1,)]
        proofs = {
            "proof of another set": other.proof,
            "response": replace(one.proof, response=gmpy2.mpz(1 << 561)),
            "commitment": replace(one.proof, commitment=gmpy2.mpz(1)),
        }
        return replace(body, lists={**body.lists, (0,): replace(one, proof=proofs[what])})

    codes = Table(THREE, replaced(Kind.LISTS, 2, change)).play().codes()  # type: ignore[arg-type]
    assert codes[0] == codes[1]
    assert codes[0] == ("bad_group_element" if what == "commitment" else "bad_list_proof", "holder-2")


def test_an_approval_of_another_key_is_named() -> None:
    lie = replaced(Kind.APPROVAL, 2, lambda body: replace(body, fingerprint=draw("other")))
    codes = Table(THREE, lie).play().codes()  # type: ignore[arg-type]
    assert codes[0] == codes[1] == ("key_list_differs", "holder-2")


def test_an_approval_without_a_good_signature_is_named() -> None:
    lie = replaced(Kind.APPROVAL, 2, lambda body: replace(body, signature=bytes(64)))
    codes = Table(THREE, lie).play().codes()  # type: ignore[arg-type]
    assert codes[0] == codes[1] == ("bad_signature", "holder-2")


# --- messages: signatures, two faces, rest ----------


def test_an_unsigned_message_moves_nothing() -> None:
    state, _ = ceremony.start(seat(THREE, 0))
    message = PLAYED.sent[1]
    for wrong in (
        replace(message, sender=2),
        replace(message, sender=7),
        replace(message, kind=Kind.COMMITMENTS),
        replace(message, body=message.body[:-1]),
        replace(message, signature=bytes(64)),
    ):
        with pytest.raises(PeerError) as caught:
            ceremony.step(state, wrong)
        assert caught.value.code in {"bad_signature", "bad_key_message"}
    after, said = ceremony.step(state, message)
    assert after != state
    assert said == ()


def test_a_message_of_another_ceremony_does_not_verify() -> None:
    state, _ = ceremony.start(seat(holders_of(terms_of(3, 2, key_id="key-2")), 0))
    with pytest.raises(PeerError) as caught:
        ceremony.step(state, PLAYED.sent[1])
    assert caught.value.code == "bad_signature"


def test_who_signs_two_messages_of_one_kind_is_named() -> None:
    def lie(message: SignedMessage) -> Iterable[SignedMessage]:
        if message.kind is not Kind.COMMITMENTS or message.sender != 2:
            return (message,)
        return (message, messages.sign(THREE, 2, private_key(2), message.kind, flip(message.body, 40)))

    codes = Table(THREE, lie).play().codes()
    assert codes[0] == codes[1] == ("key_equivocation", "holder-2")


class TwoFaced(Table):
    """Holder 2 commits to one thing before holder 0 and to another before holder 1."""

    def hear(self, index: int, message: SignedMessage) -> tuple[SignedMessage, ...]:
        if message.kind is Kind.COMMITMENTS and message.sender == 2 and index == 1:
            message = messages.sign(THREE, 2, private_key(2), message.kind, flip(message.body, 40))
        return super().hear(index, message)


def test_two_faces_stop_the_ceremony_and_are_found_by_comparing() -> None:
    played = TwoFaced(THREE).play()
    assert {played.refused[index].code for index in (0, 1)} == {"key_views_differ"}
    ours, theirs = (list(played.states[index].heard.order) for index in (0, 1))
    assert messages.equivocators(THREE, ours, theirs) == ("holder-2",)
    assert messages.equivocators(THREE, ours, ours) == ()
    forged = replace(theirs[0], signature=bytes(64))
    assert messages.equivocators(THREE, ours, [forged]) == ()


class Forgetful(Table):
    """Every holder is stopped and restored before each message."""

    def hear(self, index: int, message: SignedMessage) -> tuple[SignedMessage, ...]:
        own = seat(THREE, index)
        stored = ceremony.store(self.states[index])
        before = [one for one in self.sent if one.sender == index]
        blank = replace(own, seed=Seed(bytes(32)))
        self.states[index], again_sent = ceremony.restore(blank, stored)
        assert [one for one in again_sent if one in before] == before
        return super().hear(index, message)


def test_a_restored_ceremony_goes_on_with_the_same_messages() -> None:
    played = Forgetful(THREE).play()
    assert [key.to_bytes() for key in played.finished()] == [key.to_bytes() for key in PLAYED.finished()]


def test_a_damaged_ceremony_is_not_restored() -> None:
    stored = ceremony.store(PLAYED.states[0]).expose()
    for wrong in (b"", stored[:-1], stored + b"\0", b"\2" + stored[1:], flip(stored, 36)):
        with pytest.raises(StorageError) as caught:
            ceremony.restore(seat(THREE, 0), StoredState(wrong))
        assert caught.value.code == "key_ceremony_damaged"


# --- a holder's key at rest, and the record ----------


def test_a_holders_key_comes_back_as_it_was() -> None:
    back = HolderKey.from_bytes(KEY.to_bytes())
    assert back.to_bytes() == KEY.to_bytes()
    assert back.exponents((0, 1), 2) == KEY.exponents((0, 1), 2)
    assert back.public.fingerprint == KEY.public.fingerprint


def test_a_damaged_holders_key_is_none() -> None:
    data = KEY.to_bytes().expose()
    wrong = [b"", data[:-1], data + b"\0", flip(data, 0), flip(data, 1), flip(data, 3), flip(data, 10), flip(data, -20)]
    for one in wrong:
        with pytest.raises(StorageError) as caught:
            HolderKey.from_bytes(StoredState(one))
        assert caught.value.code == "holder_key_damaged"


def test_nothing_shown_holds_a_secret() -> None:
    seed = KEY.seeds[(1,)].expose()
    for shown in (repr(KEY), repr(PLAYED.states[0]), repr(KEY.to_bytes()), str(ceremony.store(PLAYED.states[0]))):
        assert seed.hex() not in shown
        assert repr(seed)[2:-1] not in shown


def test_a_record_is_public_and_whole() -> None:
    data = KEY.record.to_bytes()
    assert all(seed.expose() not in data for seed in KEY.seeds.values())
    back = KeyRecord.from_bytes(data)
    assert back.to_bytes() == data
    assert back.root == KEY.record.root
    assert key_record.verify(back, THREE.root).fingerprint == KEY.public.fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", RSA_2048 + 1),
        ("n", (RSA_2048 >> 8) | 1),
        ("n", 1 << 8199 | 1),
        ("federation", "x" * 65),
        ("holders", ("coordinator", "holder-1", "holder-2")),
        ("holders", ("A", "holder-1", "holder-2")),
    ],
)
def test_terms_that_no_key_may_have_are_not_read(field: str, value: object) -> None:
    terms = replace(THREE.terms, **{field: value})  # type: ignore[arg-type]
    data = b"\1" + key_record.encode_terms(terms) + b"".join(THREE.keys) + bytes(100_000)
    with pytest.raises(PeerError) as caught:
        KeyRecord.from_bytes(data)
    assert caught.value.code == "bad_key_message"


def test_terms_of_wrong_form_are_not_read() -> None:
    data = key_record.encode_terms(THREE.terms)
    at = 4 + 3 + 4 + 5 + 4 + 256
    for place, value in ((at, 0), (at, 4), (at + 2, 0), (at + 6, 1), (at + 6, 4), (at + 5, 13), (4, 0xFF)):
        with pytest.raises(PeerError) as caught:
            key_record.parse_terms(Octets(data[:place] + bytes([value]) + data[place + 1 :], "terms"))
        assert caught.value.code == "bad_key_message"
    padded = data.replace(lp(RSA_2048.to_bytes(256, "big")), lp(RSA_2048.to_bytes(257, "big")))
    with pytest.raises(PeerError):
        key_record.parse_terms(Octets(padded, "terms"))


# --- hostile bytes ----------

MESSAGES = [next(m for m in PLAYED.sent if m.kind is kind).to_bytes() for kind in Kind]
RECORD = KEY.record.to_bytes()


def mutated(originals: list[bytes]) -> st.SearchStrategy[bytes]:
    def change(original: bytes, cut: int, place: int, put: bytes) -> bytes:
        kept = original[: len(original) - cut % len(original)] if cut % 3 == 0 else original
        at = place % (len(kept) + 1)
        return kept[:at] + put + kept[at + (len(put) if cut % 2 else 0) :]

    return st.builds(
        change,
        st.sampled_from(originals),
        st.integers(0, 5000),
        st.one_of(st.integers(0, 320), st.integers(0, 5000)),
        st.binary(max_size=4),
    )


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=300), mutated(MESSAGES)))
def test_hostile_messages_are_peer_errors(data: bytes) -> None:
    state, _ = ceremony.start(seat(THREE, 0))
    try:
        message = SignedMessage.from_bytes(data)
        assert message.to_bytes() == data
        body = messages.parse(message, THREE)
        assert messages.encode(body, THREE.terms, message.sender) == message.body
        ceremony.step(state, message)
    except FedveilError as error:
        assert type(error) is PeerError  # noqa: PT017


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=300), mutated([RECORD])))
def test_hostile_records_are_peer_errors(data: bytes) -> None:
    try:
        record = KeyRecord.from_bytes(data)
        assert record.to_bytes() == data
        key_record.verify(record, THREE.root)
    except FedveilError as error:
        assert type(error) is PeerError  # noqa: PT017
    else:
        assert data == RECORD


@settings(max_examples=60)
@given(
    st.one_of(st.binary(max_size=300), mutated([KEY.to_bytes().expose(), ceremony.store(PLAYED.states[0]).expose()]))
)
def test_hostile_states_are_storage_errors(data: bytes) -> None:
    for read in (HolderKey.from_bytes, party.unpack):
        try:
            read(StoredState(data))
        except FedveilError as error:
            assert type(error) is StorageError  # noqa: PT017
