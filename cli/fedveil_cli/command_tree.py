"""The commands by name, each loaded and built when it is asked for.

Promise: `tree` answers as what typer builds of the same functions (`typer.main.get_command`), with the same names in
the same order, the same help and the same refusals; only the cost differs. typer reads the signature of every function
before it looks at the first word, and a program of a hundred commands would load them all to run one.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info, get_command_name, get_group_from_info
from typer.models import CommandInfo, TyperInfo

from fedveil_cli import plain_words

if TYPE_CHECKING:
    from typer._click import Command

Maker = Callable[[], "Command"]


def tree(app: typer.Typer, elsewhere: Mapping[str, Callable[[], typer.Typer]]) -> TyperGroup:
    """The group of `app`, with what was registered with it, and behind that the names of `elsewhere`: each is
    registered with the app that is made when the name is asked for.
    """
    group, makers = _bare(TyperInfo(app), app), _makers(app, app)
    loaded = {name: functools.partial(_loaded, load, name, app) for name, load in elsewhere.items()}
    group.commands = Commands(makers | loaded)
    return group


class Commands(MutableMapping[str, "Command"]):
    """Name -> command, in the order in which they were named; each is made when it is first asked for."""

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, Command] = {}

    def __getitem__(self, name: str) -> "Command":
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __setitem__(self, name: str, command: "Command") -> None:
        self._makers[name] = lambda: command
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._makers[name]
        self._made.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _makers(app: typer.Typer, root: typer.Typer) -> dict[str, Maker]:
    """What was registered with `app`, in typer's order: its commands, then its groups. `root` says how to show it."""
    commands: dict[str, Maker] = {
        one.name or _name(one): functools.partial(_command, one, root) for one in app.registered_commands
    }
    return commands | {one.name or "": functools.partial(_group, one, root) for one in app.registered_groups}


def _name(info: CommandInfo) -> str:
    return get_command_name(getattr(info.callback, "__name__", ""))


def _loaded(load: Callable[[], typer.Typer], name: str, root: typer.Typer) -> "Command":
    return _makers(load(), root)[name]()


def _command(info: CommandInfo, root: typer.Typer) -> "Command":
    ours = copy.copy(info)
    ours.cls = plain_words.Command
    return get_command_from_info(
        ours, pretty_exceptions_short=root.pretty_exceptions_short, rich_markup_mode=root.rich_markup_mode
    )


def _group(info: TyperInfo, root: typer.Typer) -> TyperGroup:
    group = _bare(info, root)
    group.commands = Commands(_makers(_app_of(info), root))
    return group


def _bare(info: TyperInfo, root: typer.Typer) -> TyperGroup:
    """A group with its own options and help, without commands."""
    ours, app = copy.copy(info), copy.copy(_app_of(info))
    app.registered_commands, app.registered_groups = [], []
    ours.typer_instance, ours.cls = app, plain_words.Group
    return get_group_from_info(
        ours,
        pretty_exceptions_short=root.pretty_exceptions_short,
        suggest_commands=root.suggest_commands,
        rich_markup_mode=root.rich_markup_mode,
    )


def _app_of(info: TyperInfo) -> typer.Typer:
    if info.typer_instance is None:
        raise TypeError("typer makes every group from an app")
    return info.typer_instance
