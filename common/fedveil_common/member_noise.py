"""Each member's own noise in a sum: what it draws, and the opened sum without what no dropout used up.

Promise: a function of the plan, the manifest and the certified sets alone, so that a member, the coordinator and every
auditor find the same. Under masked the noise is XNoise: a base that stays, and components (`noise_links`). Under
paillier, where only the holders answer a certificate, a member has one share, made for the fewest survivors. What stays
is never below the plan's variance. Source: docs/privacy.md, section 2; A13, D14, D16 (docs/protocol.md).
"""

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common import noise_links, private_sum
from fedveil_common.crypto.kdf import derive
from fedveil_common.dp import xnoise
from fedveil_common.dp.distribution import DiscreteGaussian, Distribution
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import Manifest, Result
from fedveil_common.noise_links import Coins
from fedveil_common.plan import Plan
from fedveil_common.ringfile import leaf_count
from fedveil_common.secret import Seed
from fedveil_common.transcript import LEAF_COORDINATES

STRETCHES = 8
"""Jobs that a vector is cut into where there is a pool."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One draw on every coordinate: its seed is its owner's secret until the link before it is shown."""

    seed: Seed
    noise: Distribution

    def add_to(self, values: NDArray[np.int64], start: int, sign: int = 1) -> None:
        """Adds the draws of coordinates start .. start+len(values), in place."""
        values += sign * self.noise.sampler.draw(self.seed.expose(), start, len(values))


def pieces(plan: Plan, manifest: Manifest, coins: Coins) -> tuple[Piece, ...]:
    """All that a member draws for its input: the base, whose seed is never shown, and the components. None where the
    coordinator adds the noise, or nobody does.
    """
    levels = private_sum.shares(plan, coins.dealers, manifest.quorum, manifest.corrupt)
    if levels is None:
        return ()
    base = Piece(Seed(derive(b"", coins.secret.expose(), "dp/noise")), DiscreteGaussian(levels.base))
    links = noise_links.chain(manifest, coins)
    seeds = xnoise.component_seeds(links[:-1], coins.t2, coins.org_id, 1)
    return (base, *_of_seeds(seeds, levels.components))


def _of_seeds(seeds: Iterable[Seed], variances: Iterable[int]) -> list[Piece]:
    return [Piece(seed, DiscreteGaussian(one)) for seed, one in zip(seeds, variances, strict=True)]


def check_settling(plan: Plan, manifest: Manifest, result: Result) -> None:
    """What a signed Result says of its noise can be so: a removal where one is due, of this cohort, and the variance
    that stays. That survivors showed these links is proved by the record of the round (`published`). PeerError
    `bad_removal`.
    """
    links = tuple(org for one in result.removal for org, _ in one.links)
    dealers = result.removal[0].dealers if result.removal else result.survivors
    fits = manifest.quorum <= result.survivors <= dealers <= len(manifest.cohort) or not _of_members(plan, manifest)
    if fits and result.removal:
        fits = set(links) <= set(manifest.cohort) and noise_links.due(manifest, dealers, result.survivors, len(links))
    if not fits or result.noise_left != left(plan, manifest, dealers, result.survivors, result.survivors - len(links)):
        raise PeerError(
            "bad_removal",
            "what the result says of the noise in its sum cannot be",
            peer=COORDINATOR,
            not_done="no model was derived from the sum",
            next_step="keep the participant's folder and call the operator",
        )


def _of_members(plan: Plan, manifest: Manifest) -> bool:
    return private_sum.shares(plan, len(manifest.cohort), manifest.quorum, manifest.corrupt) is not None


def settled(plan: Plan, manifest: Manifest, result: Result, values: Signed, pool: Executor | None = None) -> Signed:
    """The opened sum without the components that no dropout used up: `values` itself where there are none, else int64
    in fresh memory. As public as the sum. `result` must have passed `check_settling`. With a pool, stretches of the
    vector are worked through side by side: members x components draws a coordinate are the longest work of a round.
    """
    gone = _gone(plan, manifest, result)
    if not gone:
        return values
    whole = values.astype(np.int64)

    def stretch(begin: int, end: int) -> None:
        for start in range(begin, end, LEAF_COORDINATES):
            part = whole[start : min(start + LEAF_COORDINATES, end)]
            for piece in gone:
                piece.add_to(part, start, -1)

    size = max(1, -(-leaf_count(len(whole)) // STRETCHES)) * LEAF_COORDINATES
    jobs = [(begin, min(begin + size, len(whole))) for begin in range(0, len(whole), size)]
    for _ in map(stretch, *zip(*jobs, strict=True)) if pool is None else pool.map(stretch, *zip(*jobs, strict=True)):
        pass
    return whole


def _gone(plan: Plan, manifest: Manifest, result: Result) -> list[Piece]:
    found: list[Piece] = []
    for one in result.removal:
        levels = private_sum.shares(plan, one.dealers, manifest.quorum, manifest.corrupt)
        assert levels is not None, "only a sum with its members' noise has a removal"
        stay = xnoise.staying(one.dealers - result.survivors, levels.tolerated)
        going = levels.components[stay:]
        for org, link in one.links:
            links = xnoise.chain(Seed(link), one.t2, org, len(going) - 1)
            seeds = xnoise.component_seeds(links, one.t2, org, stay + 1)
            found += _of_seeds(seeds, going)
    return found


def left(plan: Plan, manifest: Manifest, dealers: int, survivors: int, absent: int) -> float:
    """Variance of the noise in a settled sum, each coordinate, grid units squared; 0 for an exact one. `absent`: of the
    survivors, who showed no link.
    """
    levels = private_sum.shares(plan, dealers, manifest.quorum, manifest.corrupt)
    if levels is None:
        noise = private_sum.coordinator_noise(plan)
        return 0.0 if noise is None else float(noise.variance)
    if not levels.components:
        return float(survivors * levels.base)
    return float(levels.total(dealers - survivors, absent))
