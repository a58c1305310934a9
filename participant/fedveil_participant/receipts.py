"""The coordinator's signed receipts: what one must say, and under whose key.

A receipt proves that whoever held the coordinator's protocol key says that exactly this input (by its leaf root) or
this reveal (by its body) arrived, in the attempt whose manifest hashes to T0. It proves nothing about when, and nothing
about what became of it.
"""

from fedveil_common import wire
from fedveil_common.crypto import signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR
from fedveil_common.messages import BlobType, SignedBlob


def check(receipt: SignedBlob, key: bytes, due: bytes) -> None:
    """Returns if `receipt` is signed under the coordinator's protocol key `key` and says what `due`, the body of the
    receipt that is awaited, says. PeerError `receipt_false`.
    """
    try:
        signing.verify(receipt, key, BlobType.RECEIPT)
        said = wire.parse_body(BlobType.RECEIPT, receipt.body)
    except PeerError as error:
        raise _false(f"it is not one of this coordinator: {error.code}") from error
    if receipt.signer_id != COORDINATOR:
        raise _false("another than the coordinator signed it")
    if said != wire.parse_body(BlobType.RECEIPT, due):
        raise _false("it acknowledges something else than what was sent")


def _false(why: str) -> PeerError:
    return PeerError(
        "receipt_false",
        f"a receipt of the coordinator does not verify: {why}",
        peer=COORDINATOR,
        not_done="what was sent stays on record without a receipt that counts",
        next_step="fedveil outbox --verify names the message; ask the operator what became of it",
    )
