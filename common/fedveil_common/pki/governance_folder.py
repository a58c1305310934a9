"""The folder of one holder of governance keys: its keys, what it pinned, and what it has signed.

    governance.key governance.pub          the first key: sealed under a passphrase, and its public half in hex
    governance-HEX.key governance-HEX.pub  further ones, made to replace it
    pinned.json                            fingerprint, trust chain and roster accepted last
    signed.json                            digest of what was signed under each number

Promise: a key is opened only to sign; whoever holds this folder signs no second document of one number unasked, and
nothing that goes back behind what it pinned.
"""

import pathlib
from dataclasses import dataclass

from fedveil_common import durable, jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError, StorageError
from fedveil_common.limits import MAX_DOCUMENT
from fedveil_common.pki import sealed_keys
from fedveil_common.pki.documents import Fields, canonical
from fedveil_common.pki.governance import GovernanceSet
from fedveil_common.ports import Entropy
from fedveil_common.secret import Passphrase, PrivateKey

KEY_FILE = "governance.key"
PURPOSE = "governance"
MAX_NUMBERS = 100_000
_PINNED, _SIGNED = "pinned.json", "signed.json"


@dataclass(frozen=True, slots=True)
class Pinned:
    """What this holder accepted last: the federation's fingerprint, its chain and its signed roster, as bytes."""

    fingerprint: bytes
    chain: bytes
    roster: bytes


@dataclass(frozen=True, slots=True)
class GovernanceFolder:
    """One holder's folder; it need not exist."""

    path: pathlib.Path

    def public_keys(self) -> dict[bytes, pathlib.Path]:
        """Public key (32 bytes) -> the file of the sealed key."""
        found: dict[bytes, pathlib.Path] = {}
        for path in sorted(self.path.glob("governance*.pub")):
            try:
                key = bytes.fromhex(path.read_text("ascii").strip())
            except (OSError, ValueError) as error:
                raise ConfigError("bad_key_file", f"{path} does not hold a public key in hex") from error
            found[key] = path.with_suffix(".key")
        return found

    def make_key(self, passphrase: Passphrase, entropy: Entropy) -> bytes:
        """A new key in this folder, beside those that are there; its public half. ConfigError `weak_passphrase`."""
        key = PrivateKey(entropy.take(32))
        public = signing.public_key(key)
        sealed = sealed_keys.seal_key(key.expose(), passphrase, PURPOSE, entropy)
        durable.make_folder(self.path)
        first = self.path / KEY_FILE
        path = self.path / f"governance-{public.hex()[:16]}.key" if first.exists() else first
        durable.write_file(path, sealed)
        durable.write_file(path.with_suffix(".pub"), public.hex().encode("ascii"))
        return public

    def open_key(self, governance: GovernanceSet, passphrase: Passphrase | None) -> PrivateKey:
        """The key of this folder that is in `governance`. Secret.

        ConfigError `not_a_governance_key` if none is, `bad_key_file`; SealedError `passphrase_missing`,
        `passphrase_wrong`.
        """
        for public, path in self.public_keys().items():
            if public in governance.keys:
                key = PrivateKey(sealed_keys.open_key(sealed_keys.read_private(path), passphrase, PURPOSE))
                if signing.public_key(key) != public:
                    raise ConfigError("bad_key_file", f"{path} holds another key than the file beside it says")
                return key
        raise ConfigError(
            "not_a_governance_key",
            f"{self.path} holds no key of the governance set in force",
            next_step="use the folder that holds one; `fedveil governance show` lists the keys in force",
        )

    def pinned(self) -> Pinned | None:
        """What was accepted last; None before the first time. StorageError `own_file_damaged`."""
        path = self.path / _PINNED
        if not path.exists():
            return None
        try:
            data = canonical(sealed_keys.read_private(path, 4 * MAX_DOCUMENT), _PINNED, 4 * MAX_DOCUMENT)
            fields = Fields(data, _PINNED, {"chain", "fingerprint", "roster"})
            return Pinned(
                fields.hex("fingerprint", 32),
                fields.text("chain", MAX_DOCUMENT).encode("utf-8"),
                fields.text("roster", MAX_DOCUMENT).encode("utf-8"),
            )
        except PeerError as error:
            raise _damaged(path) from error

    def pin(self, pinned: Pinned) -> None:
        """Remember it, durably; before anything is signed under it."""
        durable.make_folder(self.path)
        data = {
            "chain": pinned.chain.decode("utf-8"),
            "fingerprint": pinned.fingerprint.hex(),
            "roster": pinned.roster.decode("utf-8"),
        }
        durable.write_file(self.path / _PINNED, jcs.dumps(data))

    def remember_signing(self, kind: str, number: int, digest: bytes, *, again: bool = False) -> None:
        """Note, durably, that the document of this digest is being signed; called before the signature is given out.

        ConfigError `signed_another` if another document of this kind and number was signed here, unless `again`.
        """
        known, name = self._signed(), f"{kind} {number}"
        if known.get(name, digest.hex()) != digest.hex() and not again:
            raise ConfigError(
                "signed_another",
                f"this holder has already signed another document as {name}",
                not_done="nothing was signed",
                next_step="two of one number split the federation: only if the other one can no longer be published, "
                "sign with --again",
            )
        durable.make_folder(self.path)
        rows: list[jcs.Json] = [
            {"digest": item, "name": key} for key, item in sorted({**known, name: digest.hex()}.items())
        ]
        durable.write_file(self.path / _SIGNED, jcs.dumps({"signed": rows}))

    def _signed(self) -> dict[str, str]:
        path = self.path / _SIGNED
        if not path.exists():
            return {}
        try:
            fields = Fields(canonical(sealed_keys.read_private(path), _SIGNED), _SIGNED, {"signed"})
            rows = [Fields(row, _SIGNED, {"digest", "name"}) for row in fields.rows("signed", MAX_NUMBERS)]
            return {row.text("name", 64): row.hex("digest", 32).hex() for row in rows}
        except PeerError as error:
            raise _damaged(path) from error


def _damaged(path: pathlib.Path) -> StorageError:
    return StorageError(
        "own_file_damaged", f"{path} is damaged", next_step="restore this file from a backup of the folder"
    )
