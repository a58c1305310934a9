"""Cheating members in rounds under paillier, end to end: each is named and the others go on, or nothing is harmed."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from encrypted_attackers import (
    bend_answer,
    bend_input,
    facts_called,
    first_round,
    happened,
    listen,
    play,
    play_first_round,
    turned,
)
from encrypted_federation import encrypted_federation, encrypted_plan
from federation import FIVE, RUN, THREE, resigned
from fedveil_common import wire
from fedveil_common.errors import PeerError, Unreachable
from fedveil_common.ids import OrgId
from fedveil_common.messages import SignedBlob
from fedveil_common.paillier.encryption import Mask
from fedveil_common.paillier.public_key import PublicKey
from fedveil_coordinator import ciphers, facts
from fedveil_coordinator.cipher_desk import CipherDesk
from fedveil_participant import encrypting, home_cipher
from fedveil_participant.mask_source import InlineMasks, MaskSource
from fedveil_simulation.ports import SeededEntropy

# --- signs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["header", "lift", "body"])
def test_a_turned_sign_in_an_input_blames_nobody(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """G2. With one or two blocks a holder lifts its product itself: it must name the lifts that the coordinator
    multiplied, or one member's -C_b makes every honest holder's proof fail, and all of them are excluded.
    """
    cluster = encrypted_federation(THREE, THREE[:2], 2)
    told = listen(cluster)
    bend_input(monkeypatch, THREE[2], lambda key, blocks: turned(key, blocks, what))
    assert first_round(cluster, encrypted_plan()) == THREE
    assert not told.blamed


def minus(key: PublicKey, rows: list[list[int]]) -> list[list[int]]:
    return [[key.group.cipher - one for one in row] for row in rows]


def test_a_turned_sign_in_an_answer_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """G2: the opening undoes it."""
    cluster = encrypted_federation(THREE, THREE[:2], 2)
    told = listen(cluster)
    bent = bend_answer(monkeypatch, THREE[0], minus)
    assert first_round(cluster, encrypted_plan()) == THREE
    assert bent == [1]
    assert not told.blamed


# --- uploads ----------------------------------------------------------------------------------------------------------


def test_an_upload_after_an_exclusion_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_awaited_input`: the leaves of the refused upload are at rest, and a right header over them comes too late."""
    cluster, cheat = encrypted_federation(FIVE, THREE, 2), FIVE[4]
    told, codes, honest = listen(cluster), [], cluster.upload

    def upload(org: OrgId, header: bytes, hashes: tuple[bytes, ...], leaves: Iterable[tuple[int, bytes]]) -> SignedBlob:
        if org != cheat or codes:
            return honest(org, header, hashes, leaves)
        kept, signed_by_it = list(leaves), wire.parse_blob(header)
        lie = wire.encode_blob(resigned(cluster.charter, signed_by_it, response=b"\x07"))
        for each in (lie, header):
            with pytest.raises(PeerError) as caught:
                honest(org, each, hashes, kept)
            codes.append(caught.value.code)
            while cluster.coordinator.pump():
                pass
        raise Unreachable("unreachable", "the cheat has had its tries")

    monkeypatch.setattr(cluster, "upload", upload)
    assert first_round(cluster, encrypted_plan()) == FIVE[:4]
    assert codes == ["bad_input_proof", "input_not_expected"]
    assert told.blamed == {cheat: "bad_input_proof"}


def test_an_accepted_input_is_not_examined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that announces its accepted input again and again costs the coordinator no seconds of arithmetic."""
    cluster, examined = encrypted_federation(THREE, THREE, 2), []
    honest, check = cluster.upload, ciphers.examine_input

    def upload(org: OrgId, header: bytes, hashes: tuple[bytes, ...], leaves: Iterable[tuple[int, bytes]]) -> SignedBlob:
        kept = list(leaves)
        for _ in range(5 if org == THREE[0] else 1):
            receipt = honest(org, header, hashes, kept)
        return receipt

    def examine(*parts: Any) -> Any:
        examined.append(parts[5])
        return check(*parts)

    monkeypatch.setattr(cluster, "upload", upload)
    monkeypatch.setattr(ciphers, "examine_input", examine)
    assert first_round(cluster, encrypted_plan()) == THREE
    assert sorted(examined) == list(THREE)


class OneMask:
    """Gives the same masks to all who ask."""

    def __init__(self) -> None:
        self._parts: list[tuple[Any, int, int, tuple[int, ...]]] = []

    def source(self, key: PublicKey) -> MaskSource:
        if not self._parts:
            made = InlineMasks(key, SeededEntropy(9, "one mask")).take(1, 1)
            self._parts = [one.spend() for one in made]
        return self

    def take(self, count: int, width: int) -> list[Mask]:
        return [Mask(*parts) for parts in self._parts[:count]]


def share_masks(monkeypatch: pytest.MonkeyPatch, orgs: Sequence[OrgId]) -> None:
    """These members encrypt with one exponent: each knows it, so each proves it."""
    honest, shared = encrypting.encrypted_input, OneMask()

    def bent(key: PublicKey, masks: MaskSource, shape: Any, t0: bytes, t2: bytes, me: OrgId, *rest: Any) -> Any:
        return honest(key, shared.source(key) if me in orgs else masks, shape, t0, t2, me, *rest)

    monkeypatch.setattr(home_cipher, "encrypted_input", bent)


def test_two_members_with_one_header_do_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CipherDesk._check_distinct`: holders refuse a set with both, so the later one must not be in it."""
    cluster = encrypted_federation(FIVE, THREE, 2)
    told = listen(cluster)
    share_masks(monkeypatch, FIVE[3:])
    survivors = first_round(cluster, encrypted_plan())
    assert len(survivors) == 4
    assert told.blamed == dict.fromkeys(set(FIVE) - set(survivors), "header_repeated")
    assert set(told.blamed) <= set(FIVE[3:])


def test_two_members_with_one_header_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: every holder refuses, the certified updates are spent, and nobody is named."""
    cluster = encrypted_federation(FIVE, THREE, 2)
    told = listen(cluster)
    share_masks(monkeypatch, FIVE[3:])
    monkeypatch.setattr(CipherDesk, "_check_distinct", lambda *parts: None)
    assert first_round(cluster, encrypted_plan()) == ()
    assert happened(cluster, "AttemptDied")
    assert not told.blamed
    assert {one["code"] for one in told.of("refused")} >= {"header_repeated"}


def test_one_header_twice_is_seen_after_a_restart_of_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was examined before is read from the inputs at rest."""
    cluster = encrypted_federation(FIVE, THREE, 2)
    share_masks(monkeypatch, FIVE[3:])
    cluster.start_run(RUN, encrypted_plan())
    play(cluster, lambda: len(facts_called(cluster, facts.InputAccepted)) == 3)
    cluster.restart_coordinator()
    told = listen(cluster)
    survivors = play_first_round(cluster)
    assert len(survivors) == 4
    assert list(told.blamed.values()) == ["header_repeated"]
