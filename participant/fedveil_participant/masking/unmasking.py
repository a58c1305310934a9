"""Format-preserving encryption undone, for whoever has the key.

Promise: only columns whose rule is `fpe` alone are changed; a cell that cannot have come from it is named by row. FF1
has no authentication: a cell that was changed, or another key, gives another value and no error. The key id in a
Parquet file's metadata is compared where it stands.
"""

import json

import numpy as np
import pyarrow as pa
from fedveil_common.errors import ConfigError, PolicyRefusal

from fedveil_participant.masking.cells import encode
from fedveil_participant.masking.column import fpe_key
from fedveil_participant.masking.engine import METADATA
from fedveil_participant.masking.keys import MaskingKey
from fedveil_participant.masking.problems import BadCells
from fedveil_participant.masking.rules import Fpe, Rules
from fedveil_participant.masking.tokens import BadText, FormatCipher


def unmask_table(rules: Rules, key: MaskingKey, table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """The table with its encrypted columns in clear, and their names. Rows and other columns stay.

    ConfigError `nothing_to_unmask`, `column_unreadable`; PolicyRefusal `masking_key_differs`; BadCellsError.
    """
    said = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
    if isinstance(said, dict) and said.get("key_id", key.key_id) != key.key_id:
        raise PolicyRefusal(
            "masking_key_differs",
            f"the table was masked under another key than {key.key_id}",
            not_done="nothing was unmasked",
            next_step="give the key whose id stands in the report of that table",
        )
    encrypted = {
        name: rule.steps[0]
        for name, rule in rules.columns.items()
        if len(rule.steps) == 1 and isinstance(rule.steps[0], Fpe) and name in table.column_names
    }
    if not encrypted:
        raise ConfigError(
            "nothing_to_unmask",
            "no column of the table has `fpe` as its only step",
            not_done="nothing was unmasked",
            next_step="pseudonyms, surrogates and all other steps cannot be undone",
        )
    bad = BadCells()
    for name, step in encrypted.items():
        cells = encode(table.column(name), name)
        cipher = FormatCipher(step, fpe_key(key, step, rules.dataset, name))
        found: list[str | None] = []
        for code, text in enumerate(cells.texts()):
            try:
                found.append(cipher.decrypt(text))
            except BadText as error:
                found.append(None)
                bad.add(name, np.flatnonzero(cells.codes == code) + 1, error.code, error.text)
        table = table.set_column(table.column_names.index(name), name, cells.mapped(found).strings())
    bad.stop_if_any()
    return table.replace_schema_metadata(), tuple(encrypted)
