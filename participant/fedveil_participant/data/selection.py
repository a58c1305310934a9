"""Which rows of a table are used at all, decided before anything else reads them: filters, and persons who objected.

Promise: a row that is left out enters nothing: no version, no count, no mask, no sum. Of a person who objected only a
keyed digest of the id is kept (HMAC-SHA256 under a key that is derived for this one use), so that a list of ids cannot
be read back without the home's key, and the digests of two homes cannot be compared. Ids are compared as cells are:
without surrounding blanks, in Unicode normal form C, numbers as numbers.
"""

import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedveil_common import jcs
from fedveil_common.crypto.kdf import derive
from fedveil_common.plan.section import MISSING_MARKS
from fedveil_common.secret import Seed

from fedveil_participant.data.columns import normal, parse_number
from fedveil_participant.data.problems import Problems

Keep = Callable[[Sequence[str]], bool]
"""The cells of a record, in the order of the header -> whether the record is used."""


class PersonDigests:
    """Turns ids into what is kept of them."""

    def __init__(self, version_key: Seed) -> None:
        """`version_key`: the home's local 32 bytes; the key for ids is derived from it."""
        key = derive(bytes(32), version_key.expose(), "data/excluded-person")
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)

    def of(self, cell: str) -> bytes:
        """32 bytes; empty for a cell that names nobody."""
        text = normal(cell)
        if text in MISSING_MARKS:
            return b""
        number = parse_number(text)
        keyed = self._keyed.copy()
        keyed.update((jcs.number(number) if number is not None else jcs.string(text)).encode())
        return keyed.digest()


@dataclass(frozen=True, slots=True)
class Selection:
    """`where`: (column, value): only rows with all of them. `excluded`: by column, the digests of those who objected.

    The default uses every row.
    """

    where: tuple[tuple[str, str], ...] = ()
    excluded: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    digests: PersonDigests | None = None

    def columns(self) -> tuple[str, ...]:
        """The columns that are looked at, in normal form C."""
        return tuple(dict.fromkeys(unicodedata.normalize("NFC", name) for name in [*dict(self.where), *self.excluded]))

    def keeper(self, names: Sequence[str], problems: Problems) -> Keep:
        """Which records of a file with these columns are used. A column that is not there is a problem: nobody is
        read because the column that names them went away.
        """
        missing = [name for name in self.columns() if name not in names]
        for name in missing:
            problems.add(
                1, name, "column_missing", "a filter or an exclusion reads this column and the header lacks it"
            )
        if missing or not self.columns():
            return lambda cells: True
        wanted = [(names.index(unicodedata.normalize("NFC", name)), normal(value)) for name, value in self.where]
        gone = [(names.index(unicodedata.normalize("NFC", name)), found) for name, found in self.excluded.items()]
        digests = self.digests
        if gone and digests is None:
            raise ValueError("exclusions need the key that their digests were made under")

        def keep(cells: Sequence[str]) -> bool:
            if any(normal(cells[place]) != value for place, value in wanted):
                return False
            return not any(digests is not None and digests.of(cells[place]) in found for place, found in gone)

        return keep
