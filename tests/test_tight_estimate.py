"""The estimate of epsilon that reports show where its library is installed, and what stands there where it is not."""

import subprocess
import sys

import pytest
from fedveil_cli import tight_estimate
from fedveil_common import private_sum
from fedveil_common.plan import Plan
from private_federation import private_plan
from test_laplace_statistics import laplace_plan
from test_measured_runs import measuring
from test_private_statistics import noisy_plan


@pytest.mark.parametrize(
    ("z", "rate", "sums", "design"),
    [(1.0, 1.0, 50, 54.3766), (3.0, 1.0, 1, 1.27109), (1.0, 0.1, 100, 7.047), (1.1, 0.01, 1000, 1.515)],
)
def test_it_has_the_figures_of_the_design(z: float, rate: float, sums: int, design: float) -> None:
    assert tight_estimate.gaussian(z, rate, sums, 1e-5) == pytest.approx(design, abs=1.2e-3)


def training_plan() -> Plan:
    return private_plan(rounds=8, noise="noise_multiplier: 2.0", most=1000.0)


def measuring_plan() -> Plan:
    """In which a record that is held out pays more than one that trains."""
    return measuring(rounds=3, sample=0.001, noise="noise_multiplier: 1.0", most=1000.0)


@pytest.mark.parametrize("made", [training_plan, measuring_plan, noisy_plan, laplace_plan])
def test_it_lies_below_what_is_charged(made: object) -> None:
    assert callable(made)
    plan = made()
    sums = private_sum.sums_allowed(plan, plan.privacy)
    told = tight_estimate.statement(plan, plan.privacy)
    estimate, charged = told.figures["epsilon_estimate"], private_sum.spent(plan, plan.privacy, sums)
    assert 0.7 * charged < estimate < charged
    assert "no proven bound" in told.text


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dp_accounting", "dp_accounting.pld"):
        monkeypatch.setitem(sys.modules, name, None)
    plan = training_plan()
    assert plan.privacy is not None
    told = tight_estimate.statement(plan, plan.privacy)
    assert told.figures == {"epsilon_estimate": None}
    assert "fedveil[report]" in told.text
    with pytest.raises(ImportError):
        tight_estimate.of_run(plan, plan.privacy, 1)


def test_nothing_imports_it_at_the_start() -> None:
    code = "import fedveil_cli.main, sys; fedveil_cli.main.main(['version']); sys.exit('dp_accounting' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
