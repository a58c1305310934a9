"""From epoch to epoch: what holders refresh, what a participant accepts, and every step that it refuses.

Not tested, because no test can: that old seeds cannot be computed from new ones (HKDF is one-way).
"""

import itertools
from collections.abc import Iterable
from dataclasses import replace

import gmpy2
import pytest
from fedveil_common.errors import PeerError, StorageError
from fedveil_common.paillier import ceremony_messages as messages
from fedveil_common.paillier import epochs, holder_lists, key_record, list_proof, refresh
from fedveil_common.paillier.ceremony_messages import Kind, SignedMessage
from fedveil_common.paillier.epochs import KeyPin
from fedveil_common.paillier.holder_key import HolderKey, StoredState
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.shares import next_seed
from fedveil_common.secret import Seed
from hypothesis import given, settings
from hypothesis import strategies as st
from paillier_holders import RSA_2048, Lie, Renewal, Table, again, draw, holders_of, made, private_key, terms_of
from paillier_holders import party as seat
from test_paillier_ceremony import Colluders, nothing, rogue_exponents

FIRST = made(3, 2)
HOLDERS = FIRST[0].holders
ALL = frozenset({0, 1, 2})
RENEWED = Renewal(FIRST).play()
SECOND = RENEWED.refreshed()
PIN, _ = epochs.accept_first(HOLDERS.root, FIRST[0].record)


def refusal(pin: KeyPin, record: KeyRecord) -> str:
    with pytest.raises(PeerError) as caught:
        epochs.accept(pin, record)
    return caught.value.code


def lies(kind: Kind, sender: int, change: object) -> Lie:
    def lie(message: SignedMessage) -> Iterable[SignedMessage]:
        if message.kind is not kind or message.sender != sender:
            return (message,)
        return (again(HOLDERS, message, change(messages.parse(message, HOLDERS))),)  # type: ignore[operator]

    return lie


# --- holders ----------


def test_all_holders_come_to_one_key_of_the_next_epoch() -> None:
    assert set(SECOND) == {0, 1, 2}
    assert RENEWED.refused == []
    assert {key.record.epoch for key in SECOND.values()} == {1}
    assert len({key.public.fingerprint for key in SECOND.values()} | {FIRST[0].public.fingerprint}) == 2
    for quorum in itertools.combinations(range(3), 2):
        shares = [SECOND[index].exponents(quorum, 2) for index in quorum]
        public = SECOND[0].public
        for k in range(2):
            assert gmpy2.powmod(public.g, sum(share[k] for share in shares), RSA_2048) == public.columns[k]


def test_seeds_move_on_by_the_ratchet_alone() -> None:
    terms = HOLDERS.terms
    for index, key in SECOND.items():
        before = FIRST[index].seeds
        assert set(key.seeds) == set(before)
        for absent, seed in key.seeds.items():
            assert seed == next_seed(before[absent], terms.federation, terms.key_id, 0, absent)
            assert seed != before[absent]


def test_a_threshold_is_enough_and_the_absent_follow() -> None:
    keys = made(5, 4)
    after = Renewal(keys[:4]).play().refreshed()
    assert set(after) == {0, 1, 2, 3}
    record = after[0].record
    assert len(record.signatures) == 4
    late = refresh.adopt(keys[4], KeyRecord.from_bytes(record.to_bytes()))
    assert late.public.fingerprint == after[0].public.fingerprint
    shares = [key.exponents((1, 2, 3, 4), 2) for key in (after[1], after[2], after[3], late)]
    total = sum(share[0] for share in shares)
    assert gmpy2.powmod(late.public.g, total, RSA_2048) == late.public.columns[0]


def test_fewer_than_a_threshold_make_nothing() -> None:
    keys = made(5, 4)
    with pytest.raises(ValueError, match="a threshold"):
        Renewal(keys[:3]).play()
    with pytest.raises(ValueError, match="a threshold"):
        refresh.start(seat(HOLDERS, 0), FIRST[0], frozenset({1, 2}))
    with pytest.raises(ValueError, match="a threshold"):
        refresh.start(seat(HOLDERS, 0), FIRST[0], frozenset({0, 1, 3}))


def test_a_refreshed_key_is_refreshed_again() -> None:
    third = Renewal(list(SECOND.values())).play().refreshed()
    assert {key.record.epoch for key in third.values()} == {2}
    pin, _ = epochs.accept(epochs.accept(PIN, SECOND[0].record)[0], third[1].record)
    assert pin.epoch == 2
    assert HolderKey.from_bytes(third[0].to_bytes()).to_bytes() == third[0].to_bytes()


def test_a_holder_that_was_away_takes_no_foreign_record() -> None:
    third = Renewal(list(SECOND.values())).play().refreshed()
    with pytest.raises(PeerError) as caught:
        refresh.adopt(FIRST[2], third[0].record)
    assert caught.value.code == "wrong_key_epoch"
    other = Renewal(Table(holders_of(terms_of(3, 2, key_id="key-2"))).play().finished()).play().refreshed()
    with pytest.raises(PeerError) as caught:
        refresh.adopt(FIRST[2], other[0].record)
    assert caught.value.code == "other_key_root"


def test_a_holder_that_was_away_sees_a_list_that_its_seed_does_not_give() -> None:
    """The others replace the list of a seed that only one of them knows, proof and signatures included."""
    key = SECOND[0]
    exponents = [int.from_bytes(draw("own", k), "big") for k in range(2)]
    values = holder_lists.column_keys(HOLDERS.terms, exponents)
    statement = list_proof.Statement(HOLDERS.terms, HOLDERS.root, 1, (0,), values)
    proof = list_proof.prove(statement, exponents, Seed(draw("x")), draw("y") * 2)
    lists = {**key.record.lists, (0,): holder_lists.ProvenList(values, proof)}
    public = key_record.PublicKey(HOLDERS.terms, 1, holder_lists.values_of(lists))
    signatures = {index: key_record.sign_key(private_key(index), HOLDERS, index, public) for index in (0, 1)}
    with pytest.raises(PeerError) as caught:
        refresh.adopt(FIRST[2], KeyRecord(HOLDERS, 1, lists, signatures))
    assert caught.value.code == "key_list_differs"


def test_a_refresh_is_of_ones_own_key() -> None:
    with pytest.raises(ValueError, match="not this party's"):
        refresh.start(seat(HOLDERS, 1), FIRST[0], ALL)
    record = replace(FIRST[0].record, epoch=refresh.LAST_EPOCH)
    with pytest.raises(ValueError, match="used up"):
        refresh.start(seat(HOLDERS, 0), HolderKey(0, FIRST[0].seeds, record, FIRST[0].public), ALL)


# --- holders that deviate ----------


def without(renewal: Renewal, left: set[int]) -> dict[int, HolderKey]:
    """What the others make once a person left the named holder out."""
    states = {}
    queue: list[SignedMessage] = []
    for index in left:
        state = renewal.states[index]
        stored = refresh.store(state)
        states[index], said = refresh.restore(state.party, FIRST[index], frozenset(left), stored)
        queue += said
    while queue:
        message = queue.pop(0)
        for index in left - {message.sender}:
            states[index], more = refresh.step(states[index], message)
            queue += more
    stages = {index: state.stage for index, state in states.items()}
    return {index: stage.key for index, stage in stages.items() if isinstance(stage, refresh.Refreshed)}


def test_a_wrong_list_is_named_and_the_others_go_on_without() -> None:
    def change(body: messages.ListsBody) -> messages.ListsBody:
        return replace(body, lists={**body.lists, (0,): body.lists[(1,)]})

    renewal = Renewal(FIRST, lies(Kind.LISTS, 2, change)).play()
    assert (1, "key_list_differs", "holder-2") in renewal.refused
    assert (0, "bad_list_proof", "holder-2") in renewal.refused
    assert {0, 1}.isdisjoint(renewal.refreshed())
    after = without(renewal, {0, 1})
    assert set(after) == {0, 1}
    assert after[0].public.fingerprint == SECOND[0].public.fingerprint
    assert set(after[0].record.signatures) == {0, 1}


def test_an_old_list_and_proof_are_refused() -> None:
    def change(body: messages.ListsBody) -> messages.ListsBody:
        return replace(body, lists={absent: FIRST[2].record.lists[absent] for absent in body.lists})

    renewal = Renewal(FIRST, lies(Kind.LISTS, 2, change)).play()
    assert {(index, peer) for index, _, peer in renewal.refused} >= {(0, "holder-2"), (1, "holder-2")}
    assert {0, 1}.isdisjoint(renewal.refreshed())


@pytest.mark.parametrize("take", [0, -1])
def test_a_list_in_dispute_is_not_signed(take: int) -> None:
    """Whichever came first: otherwise one holder could make a key that opens only with its help, all being present."""
    exponents = [int.from_bytes(draw("own", k), "big") for k in range(2)]
    values = holder_lists.column_keys(HOLDERS.terms, exponents)
    statement = list_proof.Statement(HOLDERS.terms, HOLDERS.root, 1, (0,), values)
    mine = holder_lists.ProvenList(values, list_proof.prove(statement, exponents, Seed(draw("x")), draw("y") * 2))

    def change(body: messages.ListsBody) -> messages.ListsBody:
        return replace(body, lists={**body.lists, (0,): mine})

    renewal = Renewal(FIRST, lies(Kind.LISTS, 2, change), take).play()
    assert (0, "key_list_differs", "") in renewal.refused  # holder 0 cannot say which of the two is wrong
    assert (1, "key_list_differs", "holder-2") in renewal.refused
    assert isinstance(renewal.states[0].stage, refresh.Gathering)
    assert isinstance(renewal.states[1].stage, refresh.Gathering)
    assert without(renewal, {0, 1})[0].public.fingerprint == SECOND[0].public.fingerprint


def test_nobody_signs_a_second_key_after_a_restart() -> None:
    """Holder 2 is left out after a key was signed with a list of its own: our stored approval stands against us."""
    exponents = [int.from_bytes(draw("own", k), "big") for k in range(2)]
    values = holder_lists.column_keys(HOLDERS.terms, exponents)
    statement = list_proof.Statement(HOLDERS.terms, HOLDERS.root, 1, (0,), values)
    mine = holder_lists.ProvenList(values, list_proof.prove(statement, exponents, Seed(draw("x")), draw("y") * 2))
    first, (own,) = refresh.start(seat(HOLDERS, 0, "refresh 0"), FIRST[0], frozenset({0, 2}))
    _, (lists,) = refresh.start(seat(HOLDERS, 2, "refresh 0"), FIRST[2], frozenset({0, 2}))
    _, (of_one,) = refresh.start(seat(HOLDERS, 1, "refresh 0"), FIRST[1], ALL)
    body = messages.parse(lists, HOLDERS)
    assert isinstance(body, messages.ListsBody)
    first, said = refresh.step(first, again(HOLDERS, lists, replace(body, lists={**body.lists, (0,): mine})))
    assert [message.kind for message in said] == [Kind.APPROVAL]
    back, sent = refresh.restore(first.party, FIRST[0], frozenset({0, 1}), refresh.store(first))
    assert own in sent
    with pytest.raises(PeerError) as caught:
        refresh.step(back, of_one)
    assert (caught.value.code, caught.value.peer) == ("key_equivocation", "holder-0")


@pytest.mark.parametrize("early", [False, True])
def test_a_false_approval_is_not_counted_and_stops_nobody(early: bool) -> None:
    states = {}
    sent = {}
    for index in range(3):
        states[index], (sent[index],) = refresh.start(seat(HOLDERS, index, "refresh 0"), FIRST[index], ALL)
    body = messages.Approval(states[2].follows, draw("another key"), bytes(64))
    false = messages.sign(HOLDERS, 2, private_key(2), Kind.APPROVAL, messages.encode(body, HOLDERS.terms, 2))
    if early:
        states[0], _ = refresh.step(states[0], false)
    states[0], nothing_yet = refresh.step(states[0], sent[2])
    assert nothing_yet == ()
    states[0], approval = refresh.step(states[0], sent[1])
    if not early:
        with pytest.raises(PeerError) as caught:
            refresh.step(states[0], false)
        assert (caught.value.code, caught.value.peer) == ("key_list_differs", "holder-2")
    states[1], _ = refresh.step(states[1], sent[2])
    states[1], other = refresh.step(states[1], sent[0])
    assert len(approval) == len(other) == 1
    states[0], _ = refresh.step(states[0], other[0])
    done = states[0].stage
    assert isinstance(done, refresh.Refreshed)
    assert set(done.key.record.signatures) == {0, 1}
    assert [(error.code, error.peer) for error in done.refused] == ([("key_list_differs", "holder-2")] if early else [])
    assert refresh.step(states[0], sent[2]) == (states[0], ())


def test_messages_of_a_ceremony_or_another_epoch_are_refused() -> None:
    state, _ = refresh.start(seat(HOLDERS, 0, "refresh 0"), FIRST[0], ALL)
    _, (next_epoch,) = refresh.start(seat(HOLDERS, 1, "refresh 1"), SECOND[1], ALL)
    of_ceremony = {message.kind: message for message in Table(HOLDERS).play().sent if message.sender == 1}
    codes = {
        Kind.COMMITMENTS: "bad_key_message",
        Kind.LISTS: "key_views_differ",
        Kind.APPROVAL: "key_views_differ",
    }
    for kind, code in codes.items():
        with pytest.raises(PeerError) as caught:
            refresh.step(state, of_ceremony[kind])
        assert caught.value.code == code
    with pytest.raises(PeerError) as caught:
        refresh.step(state, next_epoch)
    assert caught.value.code == "key_views_differ"


def test_rogue_lists_fail_without_announcements_too() -> None:
    keys = made(5, 4)
    renewal = Renewal(keys, Colluders(keys[0].holders, 1)).play()
    for index in range(3):
        assert (index, "bad_list_proof", "holder-3") in renewal.refused
    assert {0, 1, 2}.isdisjoint(renewal.refreshed())


def test_without_proofs_two_of_five_choose_the_next_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = made(5, 4)
    holders = keys[0].holders
    with monkeypatch.context() as patched:
        patched.setattr(list_proof, "check", nothing)
        renewal = Renewal(keys, Colluders(holders, 1)).play()
        state = renewal.states[0]
        assert isinstance(state.stage, refresh.Approving)
        key = state.stage.key
        signature = key_record.sign_key(private_key(3), holders, 3, key)
        body = messages.Approval(state.follows, key.fingerprint, signature)
        data = messages.encode(body, holders.terms, 3)
        state, _ = refresh.step(state, messages.sign(holders, 3, private_key(3), Kind.APPROVAL, data))
        assert isinstance(state.stage, refresh.Refreshed)
        record = state.stage.key.record
        pin, _ = epochs.accept_first(holders.root, keys[0].record)
        _, public = epochs.accept(pin, record)
        assert list(public.columns) == [gmpy2.powmod(public.g, x, RSA_2048) for x in rogue_exponents(2)]
    assert refusal(pin, record) == "bad_list_proof"


# --- at rest ----------


def test_a_restored_refresh_says_the_same_again() -> None:
    state = RENEWED.states[0]
    blank = replace(state.party, seed=Seed(bytes(32)))
    back, sent = refresh.restore(blank, FIRST[0], ALL, refresh.store(state))
    assert sent == tuple(message for message in RENEWED.sent if message.sender == 0)
    assert isinstance(back.stage, refresh.Refreshed)
    assert back.stage.key.to_bytes() == SECOND[0].to_bytes()
    with pytest.raises(StorageError) as caught:
        refresh.restore(blank, FIRST[0], ALL, StoredState(b"\1"))
    assert caught.value.code == "key_ceremony_damaged"


# --- participants ----------


def test_a_participant_follows_epoch_by_epoch() -> None:
    assert KeyPin(HOLDERS.root, 0, FIRST[0].public.fingerprint) == PIN
    after, key = epochs.accept(PIN, KeyRecord.from_bytes(SECOND[1].record.to_bytes()))
    assert after == KeyPin(HOLDERS.root, 1, key.fingerprint)
    assert epochs.accept(after, SECOND[2].record)[0] == after
    assert epochs.accept(PIN, FIRST[1].record)[0] == PIN


def test_going_back_and_skipping_are_refused() -> None:
    third = Renewal(list(SECOND.values())).play().refreshed()
    after, _ = epochs.accept(PIN, SECOND[0].record)
    assert refusal(after, FIRST[0].record) == "wrong_key_epoch"
    assert refusal(PIN, third[0].record) == "wrong_key_epoch"
    with pytest.raises(PeerError) as caught:
        epochs.accept_first(HOLDERS.root, SECOND[0].record)
    assert caught.value.code == "wrong_key_epoch"


def test_one_epoch_has_one_key() -> None:
    assert refusal(replace(PIN, fingerprint=draw("other")), FIRST[0].record) == "wrong_key_epoch"


def test_too_few_signatures_are_refused() -> None:
    record = SECOND[0].record
    some = dict(list(record.signatures.items())[:1])
    assert refusal(PIN, replace(record, signatures=some)) == "too_few_key_signatures"
    first = FIRST[0].record
    two = {index: first.signatures[index] for index in (0, 1)}
    with pytest.raises(PeerError) as caught:  # a threshold of them is not all
        epochs.accept_first(HOLDERS.root, replace(first, signatures=two))
    assert caught.value.code == "too_few_key_signatures"


def test_a_foreign_signature_is_refused() -> None:
    record = SECOND[0].record
    one, other = sorted(record.signatures)[:2]
    swapped = {one: record.signatures[other], other: record.signatures[one]}
    assert refusal(PIN, replace(record, signatures=swapped)) == "bad_signature"
    of_first = dict(FIRST[0].record.signatures)
    assert refusal(PIN, replace(record, signatures=of_first)) == "bad_signature"


def test_another_root_is_refused() -> None:
    assert refusal(replace(PIN, root=draw("root")), SECOND[0].record) == "other_key_root"
    strangers = holders_of(terms_of(3, 2), circle="strangers")
    stranger = replace(FIRST[0].record, holders=strangers)
    assert refusal(PIN, stranger) == "other_key_root"


def test_a_proof_of_another_epoch_or_root_is_refused() -> None:
    record = SECOND[0].record
    moved = replace(record, epoch=0, signatures=FIRST[0].record.signatures)
    assert refusal(PIN, moved) == "bad_list_proof"
    lists = {absent: replace(one, proof=FIRST[0].record.lists[absent].proof) for absent, one in record.lists.items()}
    assert refusal(PIN, replace(record, lists=lists)) == "bad_list_proof"


@settings(max_examples=40)
@given(st.integers(0, len(SECOND[0].record.to_bytes()) - 1), st.integers(1, 255))
def test_no_changed_record_is_accepted(place: int, change: int) -> None:
    data = SECOND[0].record.to_bytes()
    wrong = data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
    with pytest.raises(PeerError):
        epochs.accept(PIN, KeyRecord.from_bytes(wrong))


def test_a_signature_counts_under_its_own_root_alone() -> None:
    """A holder that serves in two circles with one protocol key has signed for one of them."""
    record, key = FIRST[0].record, FIRST[0].public
    strangers = holders_of(terms_of(3, 2), circle="strangers")
    mixed = Holders(HOLDERS.terms, (HOLDERS.keys[0], *strangers.keys[1:]))
    key_record.verify_signature(HOLDERS, 0, key, record.signatures[0])
    with pytest.raises(PeerError) as caught:
        key_record.verify_signature(mixed, 0, key, record.signatures[0])
    assert caught.value.code == "bad_signature"
