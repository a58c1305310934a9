"""How the demo is shown: progress while it runs, then two tables and what the coordinator could read."""

import logging
import pathlib
import sys
from collections.abc import Mapping

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedveil_cli import demo
from fedveil_cli.local_federation import temporary_folder
from fedveil_cli.output import Output, TextTable
from fedveil_cli.service_commands import configure_logging
from fedveil_cli.world import SystemClock


class Progress:
    """A growing table of rounds on stderr; plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, markup=False, highlight=False)
        self._rows: list[tuple[str, str, str, str]] = []
        self.live: Live | None = None

    def tell(self, kind: str, facts: Mapping[str, str]) -> None:
        """Something happened."""
        if kind == "round":
            loss, accuracy = facts.get("loss", ""), facts.get("accuracy", "")
            self._rows.append((facts["round"], facts["purpose"], loss, accuracy))
            if self.live is not None:
                self.live.update(self.table())
                return
        if kind in {"plan_answer", "offer"} and self.live is not None:
            return
        shown = " ".join(f"{name}={value}" for name, value in facts.items() if value)
        self.console.print(f"{kind} {shown}".rstrip())

    def table(self) -> Table:
        """The rounds so far."""
        grid = Table(box=SIMPLE, show_edge=False)
        for column in ("round", "purpose", "holdout loss", "holdout accuracy"):
            grid.add_column(column)
        for row in self._rows:
            grid.add_row(*row)
        return grid


def run(seed: int, output: Output) -> None:
    """`fedveil demo`."""
    configure_logging(logging.ERROR)
    progress = Progress()
    with temporary_folder() as folder:
        made = demo.Demo(pathlib.Path(folder), seed, SystemClock(), progress.tell)
        if progress.console.is_terminal and not output.as_json:
            with Live(progress.table(), console=progress.console, refresh_per_second=8) as live:
                progress.live = live
                result = made.run()
        else:
            result = made.run()
    dropped = [
        (one["number"], [str(name) for name in names])
        for one in result.rounds
        if isinstance(names := one["dropped"], list) and names
    ]
    lines: list[str | TextTable] = [
        TextTable(("model", "accuracy", "log-loss"), demo.table_lines(result)),
        "",
        "What the coordinator could see: the bytes it received after TLS, read as an update",
        TextTable(
            ("attack by the coordinator", "masked (this run)", "no protection"),
            [
                (
                    "correlation with the hospital's update",
                    f"{result.attack.protected:+.3f}",
                    f"{result.attack.unprotected:+.3f}",
                ),
                (
                    "correlation with the one record in a batch",
                    f"{result.attack.record_protected:+.3f}",
                    f"{result.attack.record_unprotected:+.3f}",
                ),
            ],
        ),
        "(31 and 30 numbers: unrelated ones correlate by about 0.2 either way)",
        "",
        *[f"round {number}: opened without {', '.join(names)}, which was killed" for number, names in dropped],
        "privacy: none, so the sum itself (never one update) is seen by all; see SECURITY.md",
        f"first model after {result.first_round_s:.1f} s, everything after {result.total_s:.1f} s",
    ]
    output.result(result.to_json(), lines)
