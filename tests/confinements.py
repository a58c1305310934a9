"""Where the trainers of tests run: in the best isolation that this machine has, found once for each interpreter."""

import functools
import sys

from fedveil_participant.isolation import probe
from fedveil_participant.isolation.levels import Confinement


@functools.cache
def best(python: str = sys.executable) -> Confinement:
    """Of these levels only the last is none, where a machine has nothing else."""
    return probe.find(python, (), none_allowed=True)
