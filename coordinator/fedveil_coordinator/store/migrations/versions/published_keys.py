"""Keys of Paillier protection that the holders made and the operator published, epoch by epoch."""

from alembic import op

revision = "published_keys"
down_revision = "renewals"


def upgrade() -> None:
    """From the schema with renewals."""
    op.execute(
        """CREATE TABLE keys (
        key_id TEXT NOT NULL, epoch INTEGER NOT NULL, fingerprint BLOB NOT NULL UNIQUE, terms BLOB NOT NULL,
        record BLOB NOT NULL, published_s REAL NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (key_id, epoch)) STRICT"""
    )
