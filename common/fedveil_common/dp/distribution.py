"""Which noise stands on a coordinate: a discrete Gaussian or a discrete Laplace, by exact integers.

Promise: what is accounted, what is drawn, what an input or a slot must hold and what a result says is left are all made
from the same value, so they cannot differ. Laplace noise has one drawer: a sum of several is not Laplace (D9).
Source: `gaussian`, `laplace`; docs/privacy.md, sections 2 and 10.
"""

from dataclasses import dataclass

from fedveil_common.dp import gaussian, laplace
from fedveil_common.dp.cumulative import Sampler


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """P(x) proportional to exp(-x^2 / 2 variance); `variance` in squared steps of the grid."""

    variance: int

    @property
    def sampler(self) -> Sampler:
        """ValueError for a variance that no table is made for."""
        return gaussian.table(self.variance)

    @property
    def drawable(self) -> bool:
        """Whether its scale is not too large to be drawn."""
        return self.variance <= gaussian.MAX_VARIANCE

    @property
    def unlikely(self) -> float:
        """Standard deviations that a draw passes about once in 10^15."""
        return 8.0


@dataclass(frozen=True, slots=True)
class DiscreteLaplace:
    """P(x) proportional to exp(-|x| / scale); `scale` in steps of the grid."""

    scale: int

    @property
    def variance(self) -> int:
        """2 scale^2: never below the variance and, from scale 1 on, above it by less than 1/6.

        Proof. With u = 1/scale the variance is 1/(cosh u - 1), which is 2/u^2 - 1/6 + u^2/120 - ..; the series
        alternates for u <= 1, and cosh u - 1 >= u^2/2.
        """
        return 2 * self.scale**2

    @property
    def sampler(self) -> Sampler:
        """ValueError for a scale that no table is made for."""
        return laplace.table(self.scale)

    @property
    def drawable(self) -> bool:
        """Whether its scale is not too large to be drawn."""
        return self.scale <= laplace.MAX_SCALE

    @property
    def unlikely(self) -> float:
        """Standard deviations that a draw passes about once in 10^15: e^(-25 sqrt 2) is 4 10^-16."""
        return 25.0


Distribution = DiscreteGaussian | DiscreteLaplace
