"""Registered sources of data, persons who objected, sketches of data versions, snapshots of accepted data."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = (
    """CREATE TABLE sources (
        name TEXT PRIMARY KEY, content BLOB NOT NULL, wall_s REAL NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE excluded (
        dataset TEXT NOT NULL, field TEXT NOT NULL, person BLOB NOT NULL, wall_s REAL NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (dataset, field, person)) STRICT""",
    "CREATE TABLE sketches (version BLOB PRIMARY KEY, sketch BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
    """CREATE TABLE snapshots (
        plan_hash BLOB NOT NULL, version BLOB NOT NULL, dataset TEXT NOT NULL, blob BLOB NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (plan_hash, version)) STRICT""",
)


def upgrade() -> None:
    """From a journal that knew the paths of tables only."""
    for statement in TABLES:
        op.execute(statement)
