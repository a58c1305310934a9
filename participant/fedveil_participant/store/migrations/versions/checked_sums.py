"""Checksum keys of sums that are still to be checked, sealed; runs in which a false sum was signed."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = (
    """CREATE TABLE tag_keys (
        run_id TEXT NOT NULL, round INTEGER NOT NULL, t3 BLOB NOT NULL, sealed BLOB NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (run_id, round, t3)) STRICT""",
    "CREATE TABLE disputed (run_id TEXT PRIMARY KEY, digest BLOB NOT NULL) STRICT",
)


def upgrade() -> None:
    """From the first schema."""
    for statement in TABLES:
        op.execute(statement)
