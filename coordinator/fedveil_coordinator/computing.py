"""The heavy work of the coordinator: each piece goes from the state that asked for it to the event that it ends with.

Promise: nothing here moves a run; a piece may be done again after a crash and comes to the same. Runs on the workers.
"""

from collections.abc import Callable
from concurrent.futures import Executor

from fedveil_common import member_noise
from fedveil_common.errors import IntegrityError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.messages import Manifest
from fedveil_common.plan import Plan
from fedveil_common.secret import Seed

from fedveil_coordinator.attempt import Attempt, Decrypting, Multiplying, Opening, Revealing
from fedveil_coordinator.cipher_desk import CipherDesk
from fedveil_coordinator.events import Event, NoiseReady, OpeningFailed, ProductReady, SumProcessed, SumReady
from fedveil_coordinator.noising import NoiseSource
from fedveil_coordinator.opening import reveal_of
from fedveil_coordinator.ports import Journal
from fedveil_coordinator.run import RunState
from fedveil_coordinator.sums import Sums

Now = Callable[[], float]
"""Seconds on the local monotonic clock."""


def multiply(ciphers: CipherDesk, attempt: Attempt, now: Now) -> Event:
    """The product of the certified inputs."""
    assert isinstance(attempt.stage, Multiplying)
    root = ciphers.multiply(attempt.frame, attempt.stage)
    return ProductReady(attempt.key, attempt.frame.noise, root, now())


def make_noise(
    ciphers: CipherDesk, state: RunState, draft: Manifest, source: NoiseSource, journal: Journal, now: Now
) -> Event:
    """The coordinator's own noise for an offer."""
    return NoiseReady(draft, ciphers.noise(state.keys[0], draft, source, journal), now())


def open_sum(sums: Sums, plan: Plan, attempt: Attempt, pool: Executor | None, now: Now, seed: Seed) -> Event:
    """The opened sum; or who dealt what does not fit, or why what was decrypted is no sum."""
    assert isinstance(attempt.stage, Opening)
    frame = attempt.frame
    try:
        root, tag_sum = sums.open(plan, frame, attempt.stage.revealing, pool, seed)
    except PeerError as error:
        return OpeningFailed(attempt.key, OrgId(error.peer), now())
    except IntegrityError as error:
        if not frame.keys or error.code not in {"not_opened", "sum_out_of_range"}:
            raise
        return OpeningFailed(attempt.key, OrgId(""), now(), error.code)
    left = noise_left(plan, frame.manifest, attempt.stage.revealing)
    return SumReady(attempt.key, root, tag_sum, left, now())


def noise_left(plan: Plan, manifest: Manifest, opened: Revealing | Decrypting) -> float:
    """The variance of the noise in the sum once it is settled: what its Result says."""
    dealers, survivors = len(opened.shares), len(opened.headers)
    silent = 0
    if isinstance(opened, Revealing):
        silent = sum(
            org not in opened.reveals or not reveal_of(opened.reveals[org]).noise_link for org in opened.headers
        )
    return member_noise.left(plan, manifest, dealers, survivors, silent)


def process_sum(sums: Sums, state: RunState, manifest: Manifest, survivors: int, now: Now, seed: Seed) -> Event:
    """What the strategy and the metrics make of an opened sum."""
    outcome = sums.process(state, manifest, survivors)
    measured = outcome.measured
    return SumProcessed(
        manifest.key,
        outcome.model_hash,
        outcome.standardisation_hash,
        measured.loss if measured else None,
        measured.accuracy if measured else None,
        measured.auc if measured else None,
        measured.rows if measured else None,
        outcome.rejected,
        now(),
        seed,
        outcome.state_hash,
        outcome.opened,
    )
