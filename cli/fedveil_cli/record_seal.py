"""When a running participant signs how far its records have come: at its start, at its end, and every ROWS rows."""

from fedveil_common.secret import PrivateKey
from fedveil_participant.membership import Membership
from fedveil_participant.store import ParticipantStore

ROWS = 256
"""So many rows of trail, outbox, receipts and ledger may stand behind the last checkpoint, and half a second's more."""


class RecordSeal:
    """Puts checkpoints into the store. One thread. `key`: the protocol key of this member."""

    def __init__(self, store: ParticipantStore, key: PrivateKey, member: Membership) -> None:
        self._store = store
        self._key = key
        self._names = member.federation_id, member.org_id

    def put(self, reason: str) -> None:
        """A checkpoint now. StorageError."""
        self._store.checkpoint(self._key, *self._names, reason)

    def tick(self) -> None:
        """A checkpoint if ROWS rows have come since the last. StorageError."""
        if self._store.uncovered_rows() >= ROWS:
            self.put("rows")
