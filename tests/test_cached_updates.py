"""Cached updates at a participant: none stands in the place of another, and one that cannot be read is made anew."""

import pathlib

import numpy as np
import pytest
from fedveil_common.errors import IntegrityError
from fedveil_participant.store import tables
from fedveil_participant.store.updates import spent_columns

from tests.test_participant_store import OTHER, SPENT, Open, home, kept, opened

__all__ = ["home", "opened"]


def test_one_update_cannot_stand_in_the_place_of_another(opened: Open, home: pathlib.Path) -> None:
    """Files exchanged on the disk, and rows exchanged in the journal: neither opens."""
    store = opened(create=True)
    store.put_update(SPENT, b"a" * 32, [np.zeros(3)])
    store.put_update(OTHER, b"a" * 32, [np.ones(3)])
    first, second = (home / "updates").iterdir()
    content = first.read_bytes(), second.read_bytes()
    for path, data in zip((first, second), reversed(content), strict=True):
        path.write_bytes(data)
    for key in (SPENT, OTHER):
        with pytest.raises(IntegrityError) as caught:
            kept(store, key)
        assert caught.value.code == "sealed_file_damaged"
    for path, data in zip((first, second), content, strict=True):
        path.write_bytes(data)
    assert kept(store, SPENT) == (b"a" * 32, [0.0] * 3)  # control
    with store._database.write() as connection:
        rows = {row.blob("subject"): row.blob("blob") for row in tables.UPDATES.select(connection)}
        for key, other in ((SPENT, OTHER), (OTHER, SPENT)):
            tables.UPDATES.change(connection, spent_columns(key), blob=rows[other.subject])
    for key in (SPENT, OTHER):
        with pytest.raises(IntegrityError) as caught:
            kept(store, key)
        assert caught.value.code == "aead_failed"


def test_an_update_of_another_format_is_said_and_one_without_a_file_is_none(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    store.put_update(SPENT, b"a" * 32, [np.zeros(3)])
    (path,) = (home / "updates").iterdir()
    path.write_bytes(bytes(100))  # as in a home from before this format
    with pytest.raises(IntegrityError) as caught:
        kept(store, SPENT)
    assert caught.value.code == "sealed_file_damaged"
    path.unlink()
    assert kept(store, SPENT) is None
    store.put_update(SPENT, b"a" * 32, [np.ones(1)])
    assert kept(store, SPENT) == (b"a" * 32, [1.0])
