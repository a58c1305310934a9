"""The text of docs/paillier-keys.md, followed by a second implementation, gives the bytes that the product gives."""

import itertools

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fedveil_common.paillier.ceremony_messages import Kind
from fedveil_common.paillier.holder_key import HolderKey
from paillier_holders import RSA_2048, Renewal, Table, holders_of, party, private_key, terms_of

from tests.reference import curves
from tests.reference.flsa import kdf, labelled
from tests.reference.paillier_keys import Text, follows, hp, take, u

TABLE = Table(holders_of(terms_of(3, 2))).play()
FIRST = TABLE.finished()
SECOND = Renewal(FIRST).play().refreshed()
NAMES = ["holder-0", "holder-1", "holder-2"]
TEXT = Text("fed", "key-1", RSA_2048, 1, 2, 256, NAMES, 2)
SETS = list(itertools.combinations(range(3), 1))
PRIVATE = [private_key(index).expose() for index in range(3)]
KEYS = [curves.ed25519_public(one) for one in PRIVATE]
ROOT = TEXT.root(KEYS)
BODIES = [[TABLE.states[0].heard.bodies(kind)[index] for index in range(3)] for kind in Kind]
FOLLOWS = follows(ROOT, BODIES)


def test_root_lists_and_fingerprint() -> None:
    assert FIRST[0].record.root == ROOT
    seeds = {one: seed.expose() for key in FIRST for one, seed in key.seeds.items()}
    for epoch, key in ((0, FIRST[0]), (1, SECOND[0])):
        lists = {one: TEXT.list_of(seed, epoch, one) for one, seed in seeds.items()}
        assert {one: list(values) for one, values in key.public.lists.items()} == lists
        assert key.public.fingerprint == TEXT.fingerprint(epoch, lists)
        seeds = {one: TEXT.next_seed(seed, epoch, one) for one, seed in seeds.items()}


@pytest.mark.parametrize("key", [FIRST[0], SECOND[0]], ids=["epoch 0", "epoch 1"])
def test_a_record_byte_by_byte(key: HolderKey) -> None:
    epoch = key.record.epoch
    head = b"\1" + TEXT.head + b"".join(KEYS) + u(4, epoch)
    data = key.record.to_bytes()
    assert data.startswith(head)
    left = iter(data[len(head) :])
    for one in SETS:
        values, t, z = TEXT.proven_list(left)
        assert TEXT.proof_holds(ROOT, epoch, one, values, t, z)
        assert not TEXT.proof_holds(ROOT, epoch + 1, one, values, t, z)
    count = take(left, 1)
    assert count == (3 if epoch == 0 else 2)
    for _ in range(count):
        signer = take(left, 1)
        fields = (ROOT, u(4, epoch), key.public.fingerprint, NAMES[signer].encode())
        assert u(64, take(left, 64)) == curves.ed25519_sign(PRIVATE[signer], labelled("paillier/key", *fields))
    assert list(left) == []


def test_every_envelope() -> None:
    assert len(TABLE.sent) == 18
    for message in TABLE.sent:
        fields = (ROOT, bytes([message.kind]), NAMES[message.sender].encode(), message.body)
        signature = curves.ed25519_sign(PRIVATE[message.sender], labelled("paillier/ceremony", *fields))
        envelope = bytes([1, message.kind, message.sender]) + u(4, len(message.body)) + message.body + signature
        assert message.to_bytes() == envelope


def test_every_body_follows_what_was_said() -> None:
    for phase, before in zip(BODIES, FOLLOWS, strict=False):
        assert {body[:32] for body in phase} == {before}


def test_a_contribution_and_its_seed() -> None:
    """What holder 2 gives holder 0 for the set {1}: the second place in each of its bodies."""
    channels = [party(TABLE.holders, index).draws.private_key("paillier/channel", ROOT).expose() for index in range(3)]
    assert [body[32:] for body in BODIES[0]] == [curves.x25519_public(one) for one in channels]
    shared = curves.x25519(channels[0], BODIES[0][2][32:])
    key = kdf(FOLLOWS[2], shared, "paillier/contribution", b"\1", b"\2", b"\0")
    associated = hp("ceremony/aad", ROOT, b"\1", b"\2", b"\0")
    given = AESGCM(key).decrypt(bytes(12), BODIES[2][2][32 + 48 : 32 + 96], associated)
    assert BODIES[1][2][64:96] == hp("ceremony/commit", FOLLOWS[1], b"\1", b"\2", given)
    own = party(TABLE.holders, 0).draws.seed("paillier/contribution", FOLLOWS[1], b"\1").expose()
    assert FIRST[0].seeds[(1,)].expose() == kdf(FOLLOWS[2], own + given, "paillier/seed", ROOT, b"\1")


def test_hashes_of_lists_and_approvals() -> None:
    for place, one in ((0, (0,)), (1, (1,))):
        values = [TEXT.i(int(value)) for value in FIRST[0].public.lists[one]]
        hashed = hp("ceremony/list", ROOT, u(4, 0), bytes(one), *values)
        assert BODIES[3][2][32 + 32 * place : 64 + 32 * place] == hashed
    assert all(body[32:64] == FIRST[0].public.fingerprint for body in BODIES[5])


def test_a_holders_key_at_rest() -> None:
    seeds = b"".join(FIRST[1].seeds[one].expose() for one in ((0,), (2,)))
    assert FIRST[1].to_bytes().expose() == b"\1\1\0\2" + seeds + FIRST[1].record.to_bytes()
