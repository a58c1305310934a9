"""The root of a key: what the holders agreed on, and who they are, before any secret existed.

Promise: the root stays the same through all epochs, so that who pins it need not pin again when the seeds move on, and
nobody outside the named holders can make a key under it. Public throughout. Source: docs/paillier-keys.md (G6).
"""

from dataclasses import dataclass, field

from fedveil_common.crypto import signing
from fedveil_common.ids import COORDINATOR, OrgId, is_name
from fedveil_common.paillier.encoding import hp
from fedveil_common.paillier.public_key import Terms


def root(terms: Terms, protocol_keys: tuple[bytes, ...]) -> bytes:
    """Root = Hp("root", the fields of the fingerprint up to g, the holders' protocol keys in the holders' order).

    `protocol_keys`: raw Ed25519 public keys as the roster has them. ValueError unless there is one of 32 bytes for each
    holder, all distinct (one person with two seats would count twice), and every holder has a legal name that is not
    the coordinator's.
    """
    if len(protocol_keys) != len(terms.holders) or any(len(k) != signing.PUBLIC_KEY_BYTES for k in protocol_keys):
        raise ValueError("one protocol key of 32 bytes for each holder")
    if len(set(protocol_keys)) != len(protocol_keys):
        raise ValueError("two holders have one protocol key")
    if not all(is_name(holder) and holder != COORDINATOR for holder in terms.holders):
        raise ValueError("a holder has no legal name")
    return hp("root", *terms.fields(), *protocol_keys)


@dataclass(frozen=True, slots=True)
class Holders:
    """Terms and the holders' protocol keys, in the holders' order. ValueError as `root`."""

    terms: Terms
    keys: tuple[bytes, ...]
    root: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", root(self.terms, self.keys))

    def name(self, index: int) -> OrgId:
        """The holder with this index."""
        return self.terms.holders[index]
