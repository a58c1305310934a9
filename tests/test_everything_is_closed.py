"""Whoever opens a database of a home closes it: found in the source, so that a command of tomorrow is looked at too.

An opening counts as closed where it is given to `contextlib.closing`, entered by `with`, or followed at once by a `try`
whose `finally` closes it. A function that returns what it opened opens it for its callers.
"""

import ast
import itertools
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("cli", "coordinator", "participant", "simulation", "common")
OPENERS = frozenset({"open_database", "open_store", "open_coordinator_store", "open_holdings", "Questions"})
"""What gives a connection, or several, to whoever calls it."""

CLOSED_ELSEWHERE = {"cli/fedveil_cli/doctor_home.py:_check_journal"}
"""Handed on in a tuple: `test_doctor` looks that it is closed."""


def called(node: ast.AST | None) -> str:
    """The name of the function that an expression calls; empty if it calls none by name."""
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name
        case _:
            return ""


def blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            found = getattr(node, field, None)
            if isinstance(found, list):
                yield found


def closes(name: str, following: ast.stmt) -> bool:
    """Whether a statement is a `try` that closes `name` at its end, however it ends."""
    if not isinstance(following, ast.Try):
        return False
    ends = [*following.finalbody, *(line for one in following.handlers for line in one.body)]
    return any(ast.unparse(line) == f"{name}.close()" for line in ends)


def closed_openings(tree: ast.AST) -> Iterator[ast.AST | None]:
    """The calls whose result is closed."""
    for node in ast.walk(tree):
        if called(node) in {"closing", "enter_context"}:
            assert isinstance(node, ast.Call)
            yield from node.args
        if isinstance(node, ast.With):
            yield from (item.context_expr for item in node.items)
    for block in blocks(tree):
        for line, following in itertools.pairwise(block):
            match line:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if closes(name, following):
                    yield value


def returned(tree: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """(function, call) of each call whose result a function hands to its callers."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Return):
                    yield function.name, node.value


def left_open(trees: dict[str, ast.Module], openers: frozenset[str] = OPENERS) -> set[str]:
    """Where something is opened that nobody closes, as "file:function called"."""
    handing = {
        name: {id(call): function for function, call in returned(tree) if called(call) in openers}
        for name, tree in trees.items()
    }
    wider = openers | {function for found in handing.values() for function in found.values()}
    if wider != openers:
        return left_open(trees, wider)
    closed = {id(call) for tree in trees.values() for call in closed_openings(tree)}
    return {
        f"{name}:{called(node)}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if called(node) in openers and id(node) not in closed and id(node) not in handing[name]
    }


def sources() -> dict[str, ast.Module]:
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def test_every_database_that_is_opened_is_closed() -> None:
    assert left_open(sources()) == CLOSED_ELSEWHERE


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ends = open_holdings(home).ends()", {"it:open_holdings"}),
        ("books = open_holdings(home)\nbooks.ends()", {"it:open_holdings"}),
        ("books = open_holdings(home)\ntry:\n    books.ends()\nfinally:\n    other.close()", {"it:open_holdings"}),
        ("books = open_holdings(home)\ntry:\n    books.ends()\nfinally:\n    books.close()", set()),
        ("with closing(open_holdings(home)) as books:\n    books.ends()", set()),
        ("def look():\n    return open_holdings(home)\nlook().ends()", {"it:look"}),
        ("def look():\n    return open_holdings(home)\nwith closing(look()) as books:\n    books.ends()", set()),
    ],
)
def test_the_search_finds_what_is_left_open(text: str, found: set[str]) -> None:
    assert left_open({"it": ast.parse(text)}) == found
