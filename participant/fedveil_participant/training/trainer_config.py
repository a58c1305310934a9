"""What an organisation says about its own trainer, in a TOML file on its own machine.

Promise: a file is understood completely or refused; coordinator and plan can name a trainer and nothing of this. It
says nothing of isolation: that is the organisation's policy, and not a matter of a file that lies beside code.
`entry` (module:name) and `code` (a folder, seen from the file's) are required; `adapter` says what the entry is, by
default a class of docs/trainer.md; `python` is an interpreter with numpy, by default the one that Fedveil runs under;
`memory_mib` bounds its memory, by default 8192, `scratch_mib` what it writes, by default 256; `rows_at_once` the rows
of a call of `gradients`, by default as many as there is room for. `outputs` (module:function) and the table
`node_config` are for the adapter `flower`.
"""

import re
import sys
import tomllib
from pathlib import Path

from fedveil_common.errors import ConfigError
from fedveil_common.jcs import Json
from fedveil_common.named_file import open_named

from fedveil_participant.training.own_trainer import SCRATCH_BYTES, TrainerConfig

MAX_FILE = 65_536
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z", re.ASCII)
_MOST_ROWS = 1_000_000
ADAPTERS = ("class", "sklearn", "torch", "flower")
_OF_FLOWER = ("outputs", "node_config")
_MOST_SETTINGS = 64
_LEAST_MIB, _MOST_MIB, _MIB = 256, 16_777_216, 1024 * 1024


def read_config(name: str, path: Path) -> TrainerConfig:
    """The trainer described in `path`. ConfigError `trainer_config`."""
    try:
        with open_named(path) as stream:
            data = stream.read(MAX_FILE + 1)
        found = tomllib.loads(data.decode()) if len(data) <= MAX_FILE else {}
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror})") from None
    except ValueError:
        raise _wrong(path, "is not TOML") from None
    entry, code = found.pop("entry", None), found.pop("code", None)
    python, memory = found.pop("python", sys.executable), found.pop("memory_mib", 8192)
    at_once, room = found.pop("rows_at_once", 0), found.pop("scratch_mib", SCRATCH_BYTES // _MIB)
    adapter = found.pop("adapter", "class")
    more: dict[str, Json] = {name: found.pop(name) for name in _OF_FLOWER if name in found}
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
    if isinstance(room, bool) or not isinstance(room, int) or not 1 <= room <= _MOST_MIB:
        raise _wrong(path, "`scratch_mib` is a whole number from 1 on")
    if adapter not in ADAPTERS:
        raise _wrong(path, f"`adapter` is one of {', '.join(ADAPTERS)}")
    if more and adapter != "flower":
        raise _wrong(path, f"has {' and '.join(more)}, which only the adapter flower reads")
    _check_flower(path, more)
    code = (path.parent / code).absolute()
    return TrainerConfig(name, python, entry, code, memory * _MIB, at_once, adapter, more, room * _MIB)


def _check_flower(path: Path, more: dict[str, Json]) -> None:
    outputs, node = more.get("outputs", "a:b"), more.get("node_config", {})
    if not isinstance(outputs, str) or not _ENTRY.match(outputs):
        raise _wrong(path, '`outputs` names a function, as in outputs = "metrics:outputs"')
    if not isinstance(node, dict) or len(node) > _MOST_SETTINGS:
        raise _wrong(path, f"`node_config` is a table of at most {_MOST_SETTINGS} values")
    if not all(isinstance(value, str | int | float | bool) and len(str(value)) <= 256 for value in node.values()):
        raise _wrong(path, "`node_config` has numbers, booleans and texts of at most 256 characters")


def _wrong(path: Path, what: str) -> ConfigError:
    return ConfigError(
        "trainer_config",
        f"the description of a trainer {path} {what}",
        next_step='a TOML file: entry = "module:Class", code = "FOLDER", and python = "/usr/bin/python3" for another',
    )
