"""The key with which a participant reads sealed data of its own: `participate --data-key`.

Promise: the plaintext of a sealed table is in memory only, and a file that was sealed as something else, or for another
federation, is not read as data.
"""

import io
import pathlib
from typing import BinaryIO

from fedveil_common.ids import FederationId
from fedveil_common.sealing import files, header, key_files, recipients
from fedveil_common.secret import Passphrase
from fedveil_participant.data.folder import Reveal

from fedveil_cli.files import read_file
from fedveil_cli.sealing_commands import KIND, LOCAL, MAX_KEY


def reveal_with(path: pathlib.Path, passphrase: Passphrase | None, federation: FederationId) -> Reveal:
    """Opens sealed tables with the private key in `path`: those of `federation` and those of none.

    ConfigError `bad_key_file`, `file_unreadable`; SealedError `passphrase_missing`, `passphrase_wrong`.
    """
    key = key_files.read_private(read_file(path, "the private key", MAX_KEY), str(path), passphrase)

    def expected(subject: header.Subject) -> None:
        where = None if subject.federation_id == LOCAL else federation
        files.expect(KIND, where, None)(subject)

    def reveal(stream: BinaryIO) -> BinaryIO:
        opened = files.Opened(stream, lambda found: recipients.unwrap(found, key), expected)
        return io.BufferedReader(files.Stream(opened), header.CHUNK)

    return reveal
