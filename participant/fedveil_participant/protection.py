"""From a stored update to what leaves this machine, under either protection, and a holder's answer: the heavy work.

Promise: each piece ends with one event for the round machine and moves nothing itself. Doing it again after a crash is
harmless: a masked input has the same bytes, an encrypted one is made afresh, and none of them was sent.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor

import structlog
from fedveil_common.errors import FedveilError, IntegrityError, RoundAborted, StorageError, Unreachable
from fedveil_common.ids import OrgId
from fedveil_common.leafshape import BlockShape
from fedveil_common.paillier.round_shape import shape_in_use
from fedveil_common.ports import Clock

from fedveil_participant.certified_headers import gather
from fedveil_participant.checks import AcceptedPlan
from fedveil_participant.encrypted_checks import pinned_key
from fedveil_participant.events import (
    AnswerFailed,
    AnswerQuorum,
    AnswerReady,
    CiphertextsReady,
    EncryptUpdate,
    Event,
    InputReady,
    ProtectUpdate,
    UpdateFailed,
)
from fedveil_participant.inputs import encoded, masked_input
from fedveil_participant.ports import Bench, Cipher, Journal, Link, StoredUpdate

log = structlog.get_logger("fedveil.participant")


class Protection:
    """Runs on the workers. StorageError is raised: nothing can go on without the disk."""

    def __init__(
        self, journal: Journal, bench: Bench, link: Link, cipher: Cipher, pool: Executor | None, clock: Clock
    ) -> None:
        self._journal = journal
        self._bench = bench
        self._link = link
        self._cipher = cipher
        self._pool = pool
        self._clock = clock

    def mask(self, action: ProtectUpdate, accepted: AcceptedPlan, me: OrgId) -> Event:
        """Decrypt, encode, mask, pack, hash and write durably in one pass. Doing it again gives the same bytes."""

        def work(known: StoredUpdate) -> Event:
            made = masked_input(action, accepted.plan, me, known, self._bench, self._journal, self._pool)
            return InputReady(action.manifest.key, action.t2, *made, self._now())

        return self._of_update(action, work)

    def encrypt(self, action: EncryptUpdate, accepted: AcceptedPlan, me: OrgId) -> Event:
        """Decrypt the stored update, encode and encrypt it, write it durably. Doing it again encrypts anew."""
        manifest = action.manifest

        def work(known: StoredUpdate) -> Event:
            use = pinned_key(manifest, accepted.keys)
            integers = encoded(action, accepted.plan, me, known, self._bench)
            shape = shape_in_use(use, manifest)
            sink = self._journal.new_blocks(manifest.key, BlockShape(shape.blocks.count, shape.input_leaf_bytes))
            made = self._cipher.encrypt(action, use, me, integers, sink)
            return CiphertextsReady(manifest.key, action.t2, *made, self._now())

        return self._of_update(action, work)

    def _of_update(self, action: ProtectUpdate | EncryptUpdate, work: "Work") -> Event:
        key = action.manifest.key
        try:
            known = self._journal.open_update(action.update_key)
            if known is None:
                return UpdateFailed(key, "update_lost", self._now())
            with contextlib.closing(known):
                return work(known)
        except IntegrityError as error:  # the kept update is not what was written: the next attempt makes it anew
            log.error("update.unreadable", code=error.code, what=error.what)
            self._journal.drop_update(action.update_key)
            return UpdateFailed(key, error.code, self._now())
        except StorageError:
            raise
        except FedveilError as error:
            return UpdateFailed(key, error.code, self._now())

    def answer(self, action: AnswerQuorum, accepted: AcceptedPlan, me: OrgId) -> Event:
        """Fetch what was certified, check it, decrypt its product in part, write the answer durably.

        Unreachable, RoundAborted if it could not be fetched: it is to be tried again.
        """
        manifest, key = action.manifest, action.manifest.key
        try:
            use = pinned_key(manifest, accepted.keys)
            shape = shape_in_use(use, manifest)
            survivors = [blob.signer_id for blob in action.headers]
            try:
                fetched = gather(self._link.fetch_headers(key), survivors, shape, noise=bool(action.noise))
            except StorageError as error:  # of the coordinator's disk: no reason to stop this process
                raise Unreachable(error.code, f"the coordinator could not read the headers: {error.what}") from error
            sink = self._journal.new_answer(
                key, action.quorum, BlockShape(shape.blocks.count, shape.partial_leaf_bytes)
            )
            made = self._cipher.answer(action, use, me, fetched, sink)
        except (Unreachable, RoundAborted, StorageError):
            raise
        except FedveilError as error:
            log.error("answer.refused", code=error.code, what=error.what, peer=getattr(error, "peer", ""))
            return AnswerFailed(key, action.quorum, error.code, self._now())
        return AnswerReady(key, action.t3, action.quorum, *made, self._now())

    def _now(self) -> float:
        return self._clock.monotonic_s()


Work = Callable[[StoredUpdate], Event]
