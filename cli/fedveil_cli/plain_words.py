"""Parameters of commands that take plain words as they come, without a library that validates types.

Promise: a command is given what typer would give it. typer loads pydantic to find that a word is a word and a path is a
path, which takes as long as everything else that a short command loads. Numbers and choices stay typer's, and so does
every word of which it would say something.
"""

import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import ParameterInfo

if TYPE_CHECKING:
    from typer._click import Context, Parameter


class Command(TyperCommand):
    """A command whose parameters take plain words."""

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        """As typer made them, that of --help included."""
        return [_of_plain_words(one) for one in super().get_params(ctx)]


class Group(TyperGroup):
    """The same of a group."""

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        """As typer made them, that of --help included."""
        return [_of_plain_words(one) for one in super().get_params(ctx)]


class Option(TyperOption):
    """An option whose words are taken as they come, where typer would do no more with them."""

    def process_value(self, ctx: "Context", value: object) -> object:
        """See `_taken`."""
        return _taken(self, ctx, value, super().process_value)


class Argument(TyperArgument):
    """The same of an argument."""

    def process_value(self, ctx: "Context", value: object) -> object:
        """See `_taken`."""
        return _taken(self, ctx, value, super().process_value)


WORDS: Mapping[object, Callable[[str], object]] = {
    str: str,
    pathlib.Path: pathlib.Path,
    list[str]: str,
    list[pathlib.Path]: pathlib.Path,
}
"""What a parameter is annotated with -> what one word of it becomes."""

NOTHING_ASKED = {
    "parser": None,
    "exists": False,
    "file_okay": True,
    "dir_okay": True,
    "writable": False,
    "readable": True,
    "resolve_path": False,
    "allow_dash": False,
    "path_type": None,
}
"""What a declaration can ask about a word, as it is where nothing but the default was asked."""

_NO_PATH = re.compile("[\0\ud800-\udfff]")
"""What the operating system takes in no name, or no UTF-8 has."""


def _of_plain_words(parameter: "Parameter") -> "Parameter":
    """The same object, as typer makes them without asking for a class."""
    if isinstance(parameter, TyperOption):
        parameter.__class__ = Option
    elif isinstance(parameter, TyperArgument):
        parameter.__class__ = Argument
    return parameter


def _taken(
    parameter: Option | Argument, ctx: "Context", value: object, ask: Callable[["Context", object], object]
) -> object:
    """What the command is given for `value`: by `ask`, which is typer's way, unless it is plain."""
    many = parameter.multiple or parameter.nargs != 1
    make = WORDS.get(parameter.type_descriptor.annotation)
    taken: object
    if value is None and not parameter.required:
        taken = () if many else None
    elif make is None or not _nothing_asked(parameter.type_descriptor.parameter_info):
        return ask(ctx, value)
    elif isinstance(value, str) and not many and _is_plain(value, make):
        taken = make(value)
    elif isinstance(value, list | tuple) and value and many and all(_is_plain(word, make) for word in value):
        taken = [make(word) for word in value]
    else:
        return ask(ctx, value)
    return taken if parameter.callback is None else parameter.callback(ctx, parameter, taken)


def _nothing_asked(declared: ParameterInfo) -> bool:
    return all(getattr(declared, name) == value for name, value in NOTHING_ASKED.items())


def _is_plain(word: object, make: Callable[[str], object]) -> bool:
    """Whether typer would hand `word` on as it is: a text that can be a path, and no file that may not be read."""
    if not isinstance(word, str) or _NO_PATH.search(word):
        return False
    return make is str or not os.path.exists(word) or os.access(word, os.R_OK)
