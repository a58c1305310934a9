"""The keys of a home as a participant uses them: pinned, verified, held, and claimed by one run in an epoch."""

import pathlib
import shutil
from collections.abc import Callable

import pytest
from enrolment_office import Entropy
from fedveil_common.errors import FedveilError, PolicyRefusal, StorageError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.paillier import modulus_record
from fedveil_common.paillier.holder_key import HolderKey
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.ports import NoFailpoints
from fedveil_common.secret import Seed
from fedveil_participant import key_pins
from fedveil_participant.key_ring import KeyRing
from fedveil_participant.key_seat import Seat, save_key
from fedveil_participant.store.holder_files import HolderFiles, Thing
from paillier_holders import Renewal, Table, draw, holders_of, private_key, terms_of

ME = OrgId("holder-1")
FIRST, SECOND = RunId("run-1"), RunId("run-2")


@pytest.fixture(scope="module")
def keys() -> list[HolderKey]:
    """Epoch 0 of a key that any 2 of 3 use; what each holder keeps."""
    return Table(holders_of(terms_of(3, 2))).play().finished()


@pytest.fixture(scope="module")
def next_keys(keys: list[HolderKey]) -> list[HolderKey]:
    return list(Renewal(keys).play().refreshed().values())


def terms(keys: list[HolderKey]) -> KeyTerms:
    return KeyTerms(modulus_record.adopt_rsa_2048(1), keys[0].holders)


def files_of(home: pathlib.Path) -> HolderFiles:
    return HolderFiles(home, Seed(draw("journal")), Entropy(7))


def hold(home: pathlib.Path, key: HolderKey) -> None:
    seat = Seat(files_of(home), private_key(key.index), Entropy(8), NoFailpoints())
    save_key(seat, terms([key]), key, ())


def code_of(call: Callable[[], object], kind: type[FedveilError] = PolicyRefusal) -> str:
    with pytest.raises(kind) as refused:
        call()
    assert refused.value.not_done
    assert refused.value.next_step
    return refused.value.code


@pytest.fixture
def home(tmp_path: pathlib.Path, keys: list[HolderKey]) -> pathlib.Path:
    key_pins.pin(files_of(tmp_path), terms(keys), keys[0].record)
    return tmp_path


def test_the_pinned_key_as_facts_and_as_numbers(home: pathlib.Path, keys: list[HolderKey]) -> None:
    ring = KeyRing(files_of(home))
    key = ring.accepted("key-1")
    assert (key.key_id, key.epoch, key.fingerprint) == ("key-1", 0, keys[0].public.fingerprint)
    agreed = keys[0].holders.terms
    assert (key.holders, key.threshold, key.columns) == (agreed.holders, 2, agreed.width)
    assert (key.n, key.s, key.keys) == (agreed.n, 1, keys[0].holders.keys)
    assert ring.public("key-1").columns == keys[0].public.columns
    assert ring.public("key-1") is ring.public("key-1")
    assert ring.pinned() == ("key-1",)
    for call in (ring.accepted, ring.public):
        assert code_of(lambda call=call: call("key-2")) == "key_not_pinned"  # type: ignore[misc]
    assert code_of(lambda: ring.claim("key-2", 0, FIRST)) == "key_not_pinned"


def test_a_record_that_is_not_that_of_the_pin(
    home: pathlib.Path, keys: list[HolderKey], next_keys: list[HolderKey]
) -> None:
    files = files_of(home)
    content = files.read(Thing.RECORD, "key-1")
    assert content is not None
    good = content.expose()

    def ring_with(data: bytes) -> KeyRing:
        files.write(Thing.RECORD, "key-1", type(content)(data))
        return KeyRing(files)

    assert code_of(lambda: ring_with(next_keys[0].record.to_bytes()).accepted("key-1")) == "key_record_missing"
    assert code_of(lambda: ring_with(good[:-1]).accepted("key-1"), StorageError) == "key_record_damaged"
    other = Table(holders_of(terms_of(3, 2), "others")).holders
    forged = KeyRecord(other, 0, keys[0].record.lists, keys[0].record.signatures).to_bytes()
    assert code_of(lambda: ring_with(forged).public("key-1"), StorageError) == "key_record_damaged"
    few = KeyRecord(keys[0].holders, 0, keys[0].record.lists, dict(list(keys[0].record.signatures.items())[:2]))
    assert code_of(lambda: ring_with(few.to_bytes()).public("key-1"), StorageError) == "key_record_damaged"
    assert ring_with(good).public("key-1").epoch == 0
    files.erase(Thing.RECORD, "key-1")
    assert code_of(lambda: KeyRing(files).public("key-1")) == "key_record_missing"


def test_the_record_is_there_before_the_pin(
    home: pathlib.Path, keys: list[HolderKey], next_keys: list[HolderKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two leaves a home that says what to do, and the same command mends it."""

    class CrashError(Exception):
        pass

    write = HolderFiles.write

    def crashing(files: HolderFiles, thing: Thing, key_id: str, content: object) -> None:
        if thing is Thing.PIN:
            raise CrashError
        write(files, thing, key_id, content)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(HolderFiles, "write", crashing)
        with pytest.raises(CrashError):
            key_pins.pin(files_of(home), terms(keys), next_keys[0].record)
    assert code_of(lambda: KeyRing(files_of(home)).accepted("key-1")) == "key_record_missing"
    key_pins.pin(files_of(home), terms(keys), next_keys[0].record)
    assert KeyRing(files_of(home)).public("key-1").epoch == 1


def test_seeds_fit_the_pin(
    home: pathlib.Path, keys: list[HolderKey], next_keys: list[HolderKey], tmp_path: pathlib.Path
) -> None:
    assert KeyRing(files_of(home)).holding("key-1", ME) is None
    hold(home, keys[1])
    held = KeyRing(files_of(home)).holding("key-1", ME)
    assert held is not None
    assert (held.index, set(held.seeds)) == (1, set(keys[1].seeds))
    assert code_of(lambda: KeyRing(files_of(home)).holding("key-1", OrgId("holder-0"))) == "holder_key_differs"
    hold(home, next_keys[1])
    with pytest.raises(PolicyRefusal) as ahead:
        KeyRing(files_of(home)).holding("key-1", ME)
    assert (ahead.value.code, "key pin" in ahead.value.next_step) == ("holder_epoch_differs", True)
    key_pins.pin(files_of(home), terms(keys), next_keys[0].record)
    held = KeyRing(files_of(home)).holding("key-1", ME)
    assert held is not None
    assert held.record.epoch == 1
    hold(home, keys[1])
    with pytest.raises(PolicyRefusal) as behind:
        KeyRing(files_of(home)).holding("key-1", ME)
    assert (behind.value.code, "refresh adopt" in behind.value.next_step) == ("holder_epoch_differs", True)


def test_seeds_of_another_root_are_not_used(home: pathlib.Path) -> None:
    hold(home, Table(holders_of(terms_of(3, 3))).play().finished()[1])
    assert code_of(lambda: KeyRing(files_of(home)).holding("key-1", ME)) == "holder_key_differs"


def test_one_epoch_serves_one_run(home: pathlib.Path, keys: list[HolderKey], next_keys: list[HolderKey]) -> None:
    KeyRing(files_of(home)).claim("key-1", 0, FIRST)
    ring = KeyRing(files_of(home))  # after a restart
    ring.claim("key-1", 0, FIRST)
    assert code_of(lambda: ring.claim("key-1", 0, SECOND)) == "key_epoch_used"
    with pytest.raises(ValueError, match="pinned epoch"):
        ring.claim("key-1", 1, SECOND)
    shutil.copytree(home / "paillier", home / "before")
    key_pins.pin(files_of(home), terms(keys), next_keys[0].record)
    KeyRing(files_of(home)).claim("key-1", 1, SECOND)
    for name in ("pin", "record"):  # put back from a copy
        shutil.copy(home / "before" / f"key-1.{name}", home / "paillier")
    for again in (FIRST, SECOND):
        assert code_of(lambda run=again: KeyRing(files_of(home)).claim("key-1", 0, run)) == "key_epoch_used"  # type: ignore[misc]
    assert code_of(lambda: KeyRing(files_of(home), reuse=True).claim("key-1", 0, FIRST)) == "key_epoch_used"


@pytest.mark.parametrize("by_ring", [True, False])
def test_more_runs_in_an_epoch_by_consent(home: pathlib.Path, by_ring: bool) -> None:
    KeyRing(files_of(home)).claim("key-1", 0, FIRST)
    KeyRing(files_of(home), reuse=by_ring).claim("key-1", 0, SECOND, reuse=not by_ring)
    ring = KeyRing(files_of(home))
    ring.claim("key-1", 0, SECOND)
    ring.claim("key-1", 0, FIRST)
    assert code_of(lambda: ring.claim("key-1", 0, RunId("run-3"))) == "key_epoch_used"


def test_what_was_claimed_is_sealed(home: pathlib.Path) -> None:
    KeyRing(files_of(home)).claim("key-1", 0, FIRST)
    for path in (home / "paillier").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert b"run-1" not in path.read_bytes()
    (home / "paillier" / "key-1.claims").write_bytes((home / "paillier" / "key-1.pin").read_bytes())
    assert code_of(lambda: KeyRing(files_of(home)).claim("key-1", 0, SECOND), StorageError) == "holder_file_damaged"
