"""What can be wrong with a plan, as values: every problem with its line, all of them at once."""

from dataclasses import dataclass

from fedveil_common.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class PlanProblem:
    """One problem: `line` counts from 1, `path` is dotted (`data.features.age.range`), `code` is stable."""

    line: int
    path: str
    code: str
    text: str


def printable(text: str) -> str:
    """`text` with control and format characters escaped: names in a plan or a table are other people's text."""
    return text if text.isprintable() else ascii(text)[1:-1]


class PlanError(ConfigError):
    """`bad_plan`: the plan cannot be read; `problems` lists everything found, in line order."""

    def __init__(self, filename: str, problems: tuple[PlanProblem, ...]) -> None:
        self.filename = filename
        self.problems = tuple(sorted(problems))
        listing = "\n".join(
            f"{filename}:{p.line}: {printable(p.path) + ': ' if p.path else ''}{p.text}" for p in self.problems
        )
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            "bad_plan",
            f"{count} in the plan\n{listing}\n",
            not_done="no run was started and no plan was accepted",
            next_step="correct the lines named above and run `fedveil plan check` again",
        )


class NotInThisReleaseError(ConfigError):
    """`not_in_this_release`: the plan asks for what this release lacks; `fields` names every such field.

    `brought`: for each field the release that has it, in the same order.
    """

    def __init__(self, fields: tuple[str, ...], brought: tuple[str, ...], filename: str = "plan") -> None:
        self.fields = fields
        named = ", ".join(f"{field} (comes with {release})" for field, release in zip(fields, brought, strict=True))
        super().__init__(
            "not_in_this_release",
            f"{filename} asks for what this release does not have: {named}",
            not_done="the plan was refused; no field of a plan is ever ignored",
            next_step="take these fields out of the plan or use the release that brings them",
        )
