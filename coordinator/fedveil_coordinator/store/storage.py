"""Sealing of the files beside the database, where the operator says so: inputs, products, answers, sums, evidence.

Promise: with a storage key every such file is written sealed and read only if it is; each opens as what its name says
and as nothing else, except that an input may be another attempt's of its round. What is sealed is what a disk shows:
the process that serves holds the key in memory. `coordinator.db` stays in clear: what it holds of a model (plan,
signed manifests, metrics, statements) names parameters and holds none.
"""

from fedveil_common.crypto.labels import u64
from fedveil_common.leafform import LeafSeal
from fedveil_common.ports import Entropy
from fedveil_common.sealer import Sealer
from fedveil_common.secret import Seed


class Storage:
    """The seals of one coordinator's files, under one storage key. Any thread."""

    def __init__(self, key: Seed, entropy: Entropy) -> None:
        self._key, self._entropy = key, entropy

    @property
    def records(self) -> Sealer:
        """For evidence."""
        return Sealer(self._key, self._entropy)

    def sum(self, run_id: str, round: int) -> LeafSeal:
        """For the opened sum of a round."""
        return self._of(b"sum", run_id, round)

    def input(self, run_id: str, round: int, name: str) -> LeafSeal:
        """For what a member sent in a round, and for what the coordinator made of it. `name`: as in the file's name,
        the organisation with what stands behind its "+". The quorum of an answer does not count: a kept one loses it.
        """
        who, _, what = name.partition("+")
        return self._of(b"input", run_id, round, who.encode(), what.partition("-")[0].encode())

    def _of(self, kind: bytes, run_id: str, round: int, *fields: bytes) -> LeafSeal:
        return LeafSeal(self._key, self._entropy, (kind, run_id.encode(), u64(round), *fields))
