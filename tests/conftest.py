"""No test is skipped in silence: under CI (or with --strict-skips) an unlisted skip or expected failure is a failure.

Listed means: a line `PATTERN | REASON` in tests/ALLOWED_SKIPS whose shell pattern matches the node id. This file holds
nothing else but the hypothesis profile (the same examples every time, no deadline: the machine's speed is not ours),
the cost of passphrases and the product's short limits; fixtures stand beside the tests that use them.
"""

import fnmatch
import os
import pathlib
from collections.abc import Generator

import hypothesis
import pytest

from tests import passphrase_costs, patience

ALLOWED_SKIPS = pathlib.Path(__file__).with_name("ALLOWED_SKIPS")

hypothesis.settings.register_profile("fedveil", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fedveil")

passphrase_costs.lower()
patience.lengthen()


def allowed_skips(text: str) -> dict[str, str]:
    """Pattern -> reason; raises ValueError for a line without a reason."""
    allowed = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = (part.strip() for part in line.partition("|"))
        if not pattern or not reason:
            raise ValueError(f"ALLOWED_SKIPS: no reason given in {line!r}")
        allowed[pattern] = reason
    return allowed


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --strict-skips (the environment variable CI=true means the same) and --rewrite."""
    parser.addoption("--strict-skips", action="store_true", help="an unlisted skip is a failure (tests/ALLOWED_SKIPS)")
    parser.addoption("--rewrite", action="store_true", help="write tests/rounds/*.txt anew instead of comparing")


def _is_strict(config: pytest.Config) -> bool:
    return bool(config.getoption("--strict-skips")) or os.environ.get("CI") == "true"


def _refuse_unlisted(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped":
        return
    patterns = allowed_skips(ALLOWED_SKIPS.read_text(encoding="utf-8"))
    if not any(fnmatch.fnmatchcase(report.nodeid, pattern) for pattern in patterns):
        vars(report).pop("wasxfail", None)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped and is not in tests/ALLOWED_SKIPS: {report.longrepr}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns the skip of one test into its failure."""
    report = yield
    if _is_strict(item.config):
        _refuse_unlisted(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turns the skip of a whole module into a collection error."""
    report = yield
    if _is_strict(collector.config):
        _refuse_unlisted(report)
    return report
