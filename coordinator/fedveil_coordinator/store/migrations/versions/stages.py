"""Stages of models: statements, the status list in force, countersignatures."""

from alembic import op

revision = "stages"
down_revision = "published_keys"

TABLES = (
    """CREATE TABLE stages (
        seq INTEGER PRIMARY KEY, statement BLOB NOT NULL, digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT""",
    """CREATE TABLE status (
        one INTEGER PRIMARY KEY CHECK (one = 1), sequence INTEGER NOT NULL, document BLOB NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE countersignatures (
        run_id TEXT NOT NULL, org_id TEXT NOT NULL, blob BLOB NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (run_id, org_id)) STRICT""",
    *(
        f"CREATE TRIGGER stages_refuses_{what.lower()} BEFORE {what} ON stages "
        f"BEGIN SELECT RAISE(ABORT, 'stages is append-only'); END"
        for what in ("UPDATE", "DELETE")
    ),
)


def upgrade() -> None:
    """From the schema with published keys."""
    for statement in TABLES:
        op.execute(statement)
