"""Whether a signed sum is the sum of the inputs that were certified: its bound, its checksum, leaves made again here.

Promise: no model is derived from a sum that fails. The checksum is broken by a coordinator that works together with one
dealer; the audit is not, and looks at as many leaves as one vector has bytes, or at all where no checksum vouches for
the sum. Under paillier there is no checksum: every holder's answer is checked by its proof, every leaf of the sum is
opened again, and blocks of the product are made again, by the rule for a sum without a checksum.
Source: FLSA/1 section 4 with A4 (docs/protocol.md); docs/paillier.md, section 6.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from fedveil_common import audit, cipher_audit, published, published_cipher
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.masking import checksum
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import Result, SignedBlob
from fedveil_common.ports import Entropy
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.roster import Roster
from fedveil_common.secret import Seed

from fedveil_participant.events import OpenedSum, TagKey

log = structlog.get_logger("fedveil.participant")


@dataclass(frozen=True, slots=True)
class SumDownload:
    """An opened sum as it arrives: two signed blobs, then (leaf index, packed leaf) in order."""

    result: SignedBlob
    manifest: SignedBlob
    leaves: Iterator[tuple[int, bytes]]


FetchSum = Callable[[RunId, int], SumDownload]


class RoundSource(Protocol):
    """Where opened sums, and what was published of their rounds, are downloaded. Every method raises FedveilError."""

    def fetch_sum(self, run_id: RunId, round: int) -> SumDownload:
        """An opened sum."""
        ...

    def fetch_round(self, run_id: RunId, round: int) -> PublishedRound:
        """What was published of an opened round; nothing in it is believed yet."""
        ...

    def fetch_leaves(
        self, run_id: RunId, round: int, leaves: Sequence[int], kind: LeafKind = LeafKind.INPUT
    ) -> Iterable[tuple[OrgId, int, bytes]]:
        """These leaves of a kind, leaf after leaf, of each those who have one in the order of their ids."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DownloadedSum:
    """A sum whose leaves are those whose root the coordinator signed. `bound`: the largest absolute value a coordinate
    of an honest sum can have; `values`: as it was opened, which checksum and audit are about; `settled`: without the
    noise that no dropout used up, which models are made of; `stated_corrupt`: how many corrupt members the plan
    reckons with; `unproved`: the plan lets the coordinator alone see the exact sum, so nothing proves this one.
    """

    manifest: SignedBlob
    result_blob: SignedBlob
    result: Result
    values: Signed
    settled: Signed
    leaf_hashes: tuple[bytes, ...]
    bound: int
    stated_corrupt: int
    unproved: bool = False


PastRoster = Callable[[bytes], Roster]
"""A signed roster version -> the roster, if governance signed it. FedveilError."""


class Checker:
    """Checks downloaded sums against their rounds. Any thread."""

    def __init__(self, source: RoundSource, entropy: Entropy, past_roster: PastRoster) -> None:
        self._source = source
        self._entropy = entropy
        self._past_roster = past_roster

    def check(self, downloaded: DownloadedSum, found: OpenedSum, key: TagKey | None, *, audited: bool) -> None:
        """Returns if the sum is right as far as can be seen here. `key`: the dealers' checksum key, if held; `audited`:
        leaves of it are to be made again in any case, and not only if the checksum fails.

        Raises PeerError `sum_disputed` if the sum is false; `round_not_proved` or Unreachable if the round cannot be
        looked at: then nothing may be derived from it either.
        """
        values = downloaded.values
        if int(values.max()) > downloaded.bound or int(values.min()) < -downloaded.bound:
            raise audit.disputed(f"a coordinate lies beyond {downloaded.bound}")
        if downloaded.unproved:
            return  # by the plan that this organisation accepted: integrity and privacy rest on the coordinator (A5)
        vouched = key is not None and hmac.compare_digest(
            downloaded.result.tag_sum, checksum.to_bytes(checksum.weigh(key.key, 0, values))
        )
        if not audited and (key is None or vouched):
            return
        record = self._source.fetch_round(found.run_id, found.round)
        if (record.manifest, record.result) != (downloaded.manifest, downloaded.result_blob):
            raise published.not_proved("it is of another manifest or result than the sum")
        try:
            roster = self._past_roster(record.signed_roster)
        except FedveilError as error:
            raise published.not_proved(f"its roster is not governance's ({error.code})") from error
        if published.protection_of(record) == "paillier":
            self._check_cipher(downloaded, found, published_cipher.verify(record, roster, downloaded.stated_corrupt))
        else:
            proven = published.verify(record, roster, downloaded.stated_corrupt)
            self._check_masked(downloaded, found, proven, vouched=vouched)

    def _check_masked(
        self, downloaded: DownloadedSum, found: OpenedSum, proven: published.Proven, *, vouched: bool
    ) -> None:
        """Leaves of the sum are made again from the masked inputs: more of them if no checksum vouches for it."""
        if downloaded.result.tag_sum != proven.tag_sum:
            raise audit.disputed("its tag is not the sum of the tags in the headers")
        leaves = len(downloaded.leaf_hashes)
        if vouched:
            count = audit.routine_share(downloaded.result.survivors, leaves)
        else:
            count = audit.thorough_share(proven.manifest.quorum - proven.manifest.corrupt, leaves)
            log.warning("sum.not_vouched_for", run=found.run_id, round=found.round, audited_leaves=count, leaves=leaves)
        chosen = audit.draw(self._seed(), leaves, count)

        def fetch(wanted: Sequence[int]) -> Iterable[tuple[OrgId, int, bytes]]:
            return self._source.fetch_leaves(found.run_id, found.round, wanted)

        audit.audit(proven, {index: downloaded.leaf_hashes[index] for index in chosen}, fetch)

    def _check_cipher(self, downloaded: DownloadedSum, found: OpenedSum, proven: published_cipher.ProvenCipher) -> None:
        """Every answer and every leaf of the sum, which cost no further download; blocks of the product, drawn here."""

        def fetch(kind: LeafKind, wanted: Sequence[int]) -> Iterable[tuple[OrgId, int, bytes]]:
            return self._source.fetch_leaves(found.run_id, found.round, wanted, kind)

        answered = cipher_audit.download(proven, fetch)
        cipher_audit.check_partials(answered, self._seed())
        cipher_audit.audit_sum(answered, dict(enumerate(downloaded.leaf_hashes)))
        blocks = len(answered.product)
        count = audit.thorough_share(proven.manifest.quorum - proven.manifest.corrupt, blocks)
        cipher_audit.audit_product(answered, audit.draw(self._seed(), blocks, count), fetch)

    def _seed(self) -> Seed:
        return Seed(self._entropy.take(32))
