"""Certificates that succeed each other, and identities that are frozen because a superseded one was used."""

from alembic import op

revision = "renewals"
down_revision = "0001"

TABLES = (
    """CREATE TABLE renewals (
        serial TEXT PRIMARY KEY REFERENCES certificates, predecessor TEXT NOT NULL, made_s REAL NOT NULL, used_s REAL,
        withdrawn_s REAL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE freezes (
        role TEXT NOT NULL, org_id TEXT NOT NULL, serial TEXT NOT NULL, frozen_s REAL NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (role, org_id)) STRICT""",
)


def upgrade() -> None:
    """From the first schema."""
    for statement in TABLES:
        op.execute(statement)
