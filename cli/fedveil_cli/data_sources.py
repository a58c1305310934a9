"""How the registered data sets of a home are opened: files, sealed or not, and databases, with the secrets they need.

Promise: a secret is read from the file that the registration names, when the data is read, and is nowhere else; a data
set is opened as it was registered or not at all.
"""

import pathlib
from collections.abc import Sequence

import sqlalchemy as sa
from fedveil_common.ports import Clock
from fedveil_common.secret import Passphrase
from fedveil_participant import membership
from fedveil_participant.bench import FindFiles, OpenSource
from fedveil_participant.data.folder import table_files
from fedveil_participant.data.postgresql import postgresql_table
from fedveil_participant.data.records import TableFile
from fedveil_participant.data.registration import FileSource, Origin, Registration, SqlSource
from fedveil_participant.data.sql_address import SQLITE
from fedveil_participant.data.sqlite import sqlite_table

from fedveil_cli.data_keys import reveal_with
from fedveil_cli.output import Output
from fedveil_cli.passphrases import given_passphrase


def opening(home: pathlib.Path, clock: Clock, find_files: FindFiles = table_files) -> OpenSource:
    """Opens what is registered in `home`. `find_files`: files that name no key of their own.

    ConfigError and SealedError of `table_files`, `reveal_with`, `sqlite_table`, `postgresql_table`; `file_unreadable`
    for a secret that is not there.
    """

    def opened(registration: Registration) -> Sequence[TableFile]:
        match registration.source:
            case FileSource(path=path, key=None):
                return find_files(path)
            case FileSource(path=path, key=key, passphrase_file=passphrase_file):
                assert key is not None, "the case above"
                federation = membership.load_membership(home).federation_id
                return table_files(path, reveal_with(key, _secret(passphrase_file, "data-passphrase"), federation))
            case SqlSource(address=address, selected=selected, password_file=password_file):
                if address.dialect == SQLITE:
                    database = sa.make_url(address.url).database
                    assert database, "an address without a file was refused"
                    return [sqlite_table(pathlib.Path(database), selected, clock)]
                return [postgresql_table(address, selected, _secret(password_file, "database-password"))]

    return opened


def places(source: Origin) -> list[pathlib.Path]:
    """The files and folders of this machine that a source is read from, with those of its secrets."""
    match source:
        case FileSource(path=path, key=key, passphrase_file=passphrase_file):
            return [path, *(one for one in (key, passphrase_file) if one is not None)]
        case SqlSource(address=address, password_file=password_file):
            found = [] if password_file is None else [password_file]
            database = sa.make_url(address.url).database if address.dialect == SQLITE else None
            return [*found, *([] if database is None else [pathlib.Path(database)])]


def _secret(path: pathlib.Path | None, name: str) -> Passphrase | None:
    """What stands in the file; None where no file is named."""
    return None if path is None else given_passphrase(path, name, Output(as_json=False))
