"""How the demo is shown: progress while it runs, then two tables and what the coordinator could read."""

import collections
import logging
import pathlib
import sys
from collections.abc import Mapping

from fedveil_common.plan import MASKED, NoiseSource
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedveil_cli import demo, demo_record
from fedveil_cli.demo_processes import Prepared
from fedveil_cli.local_federation import temporary_folder
from fedveil_cli.output import Output, TextTable
from fedveil_cli.service_commands import configure_logging
from fedveil_cli.world import SystemClock, process_started_s


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


def run(seed: int, output: Output, protection: str = MASKED, noise: str = NoiseSource.PARTICIPANTS) -> None:
    """`fedveil demo`."""
    clock = SystemClock()
    began = process_started_s(clock)
    configure_logging(logging.ERROR)
    with Prepared(demo.PROCESSES) as processes, temporary_folder() as folder:
        progress = Progress()
        where, source = pathlib.Path(folder), NoiseSource(noise)
        made = demo.Demo(where, seed, protection, source, clock, began, progress.tell, processes.launch)
        if progress.console.is_terminal and not output.as_json:
            with Live(progress.table(), console=progress.console, refresh_per_second=8) as live:
                progress.live = live
                result = made.run()
        else:
            result = made.run()
    output.result(result.to_json(), closing_lines(result))


def closing_lines(result: demo.DemoResult) -> list[str | TextTable]:
    """What is printed when everything has ended."""
    hidden, plain = result.protected, result.unprotected
    attacks = [
        ("update of the first round, correlation with the true one", f"{hidden.update:+.3f}", f"{plain.update:+.3f}"),
        (
            "record, correlation with the true one",
            f"{hidden.record.correlation:+.3f}",
            f"{plain.record.correlation:+.3f}",
        ),
    ]
    attacks += [
        (
            f"  its {name}, truly {hidden.record.true[name]:.4g}",
            f"{hidden.record.read[name]:.4g}",
            f"{plain.record.read[name]:.4g}",
        )
        for name in demo_record.SHOWN
    ]
    dropped = [
        (one["number"], [str(name) for name in names])
        for one in result.rounds
        if isinstance(names := one["dropped"], list) and names
    ]
    how, without = ("masked", "without masks") if result.encrypted is None else ("encrypted", "little randomness")
    return [
        TextTable(("model", "accuracy", "log-loss"), demo.table_lines(result)),
        "",
        f"What the coordinator could read in the bytes it received from {demo.WATCHED} after TLS, by the same code:",
        TextTable((f"attack on {demo.WATCHED}'s upload", how, without), attacks),
        "update: of the first training round above; record: of a run in which it takes one step on one row",
        *_without(result, result.encrypted),
        "(31 and 30 numbers: unrelated ones correlate by about 0.2 either way;",
        "noise read as a record lies somewhere about the mean of all hospitals, which is public)",
        "",
        *[f"round {number}: opened without {', '.join(names)}, which was killed" for number, names in dropped],
        *_encrypted(result.encrypted),
        *_privacy(result.private),
        f"first model {result.first_round_s:.1f} s after the start of the command, everything {result.total_s:.1f} s",
    ]


def _privacy(private: demo.Private) -> list[str]:
    """What each of the two trainings says about a record."""
    ledger = private.ledger
    trusted = ledger["noise"] == NoiseSource.COORDINATOR
    aside = ", which can take it off for itself: against it there is no such promise" if trusted else ""
    return [
        "privacy: the first training opens exact sums (never one update), which all see; see SECURITY.md",
        f"the private one opens {private.steps} noisy sums: epsilon {ledger['epsilon']:.3f} of at most "
        f"{ledger['max_epsilon']:g} at delta {ledger['delta']:g} for each {ledger['unit']}, noise by the "
        f"{ledger['noise']}{aside}",
    ]


def _without(result: demo.DemoResult, encrypted: demo.Encrypted | None) -> list[str]:
    """What the last column is."""
    if encrypted is None:
        return [
            "without masks: both once more, from other first models, by processes restarted with the masks left out"
        ]
    found = "found in both uploads" if result.unprotected.guessed else "NOT found"
    other = "found, too" if result.protected.guessed else "not found"
    return [
        "little randomness: both once more, from other first models, by processes restarted so that a ciphertext hides",
        f"in {encrypted.tried_bits} random bits; the attack tries them all: {found}. In the encrypted uploads it is",
        f"{other}, and the slots of the ciphertexts are read as they lie",
    ]


def _encrypted(encrypted: demo.Encrypted | None) -> list[str]:
    """Who could open what, and who did."""
    if encrypted is None:
        return []
    times = collections.Counter(len(orgs) for orgs in encrypted.opened_by.values())
    opened = ", ".join(f"{count} by {holders} holders" for holders, count in sorted(times.items()))
    key, *more = encrypted.keys
    uses = ("the one record", "the private training")
    return [
        *key.lines(),
        *(
            f"key {one.terms.terms.key_id} of the same holders for {use}, {one.seconds:.1f} s"
            for one, use in zip(more, uses, strict=True)
        ),
        f"{len(encrypted.opened_by)} sums of the training were opened and made again from what was published: {opened}",
        f"received in the training: {encrypted.uploads.line()}",
        "here one process spoke for all holders when the keys were made: it shows the ceremony, it protects nobody",
    ]
