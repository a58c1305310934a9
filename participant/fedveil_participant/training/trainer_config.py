"""What an organisation says about its own trainer, in a TOML file on its own machine.

Promise: a file is understood completely or refused; coordinator and plan can name a trainer and nothing of this.
`entry` (module:Class) and `code` (a folder, seen from the file's) are required; `python` is an interpreter with numpy,
by default the one that Fedveil runs under; `memory_mib` bounds the address space, by default 8192; `rows_at_once` the
rows of a call of `gradients`, by default as many as there is room for.
"""

import re
import sys
import tomllib
from pathlib import Path

from fedveil_common.errors import ConfigError

from fedveil_participant.training.own_trainer import TrainerConfig

MAX_FILE = 65_536
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z", re.ASCII)
_MOST_ROWS = 1_000_000
_LEAST_MIB, _MOST_MIB, _MIB = 256, 16_777_216, 1024 * 1024


def read_config(name: str, path: Path) -> TrainerConfig:
    """The trainer described in `path`. ConfigError `trainer_config`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        found = tomllib.loads(data.decode()) if len(data) <= MAX_FILE else {}
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror})") from None
    except ValueError:
        raise _wrong(path, "is not TOML") from None
    entry, code = found.pop("entry", None), found.pop("code", None)
    python, memory = found.pop("python", sys.executable), found.pop("memory_mib", 8192)
    at_once = found.pop("rows_at_once", 0)
    if found:
        raise _wrong(path, f"has fields that are not known: {', '.join(sorted(found))}")
    if not isinstance(entry, str) or not _ENTRY.match(entry):
        raise _wrong(path, 'lacks `entry`, as in entry = "regression:Regression"')
    if not isinstance(code, str) or not (path.parent / code).is_dir():
        raise _wrong(path, "lacks `code`, a folder that is there")
    if not isinstance(python, str) or not Path(python).is_absolute() or not Path(python).is_file():
        raise _wrong(path, "names no interpreter: `python` is the whole path of one")
    if isinstance(memory, bool) or not isinstance(memory, int) or not _LEAST_MIB <= memory <= _MOST_MIB:
        raise _wrong(path, f"`memory_mib` is a whole number from {_LEAST_MIB} on")
    if isinstance(at_once, bool) or not isinstance(at_once, int) or not 0 <= at_once <= _MOST_ROWS:
        raise _wrong(path, "`rows_at_once` is a whole number: 1 asks for each record alone")
    return TrainerConfig(name, python, entry, (path.parent / code).absolute(), memory * _MIB, at_once)


def _wrong(path: Path, what: str) -> ConfigError:
    return ConfigError(
        "trainer_config",
        f"the description of a trainer {path} {what}",
        next_step='a TOML file: entry = "module:Class", code = "FOLDER", and python = "/usr/bin/python3" for another',
    )
