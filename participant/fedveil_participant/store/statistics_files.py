"""The answers of statistics runs, one JSON file for each run in the folder `statistics` of the home.

Promise: a file is written whole or not at all, before the end of its run counts as stored. It is for people and their
programs: what is in it is known to every member, and its form is that of `run show --json`.
"""

import json
from pathlib import Path

from fedveil_common import durable
from fedveil_common.errors import ConfigError
from fedveil_common.ids import RunId, check_name

FOLDER = "statistics"


class StatisticsFiles:
    """Any thread. Methods may raise StorageError."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def path(self, run_id: str) -> Path:
        """Where the answers of a run stand, if there are any. ConfigError `bad_name`."""
        return self._folder / f"{check_name(run_id, 'the run')}.json"

    def put(self, run_id: RunId, answers: bytes) -> None:
        """The answers of a run are durable."""
        durable.make_folder(self._folder)
        durable.write_file(self.path(run_id), answers)

    def get(self, run_id: str) -> dict[str, object]:
        """The answers of a run. ConfigError `unknown_answers`."""
        path = self.path(run_id)
        with durable.storing(path):
            if not path.exists():
                raise ConfigError(
                    "unknown_answers", f"no answers of run {run_id} are kept here", next_step="fedveil model list"
                )
            found: dict[str, object] = json.loads(path.read_bytes())
        return found
