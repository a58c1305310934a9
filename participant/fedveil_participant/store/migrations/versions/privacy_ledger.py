"""The ledger of what differential privacy was spent on each data set, and the limits over all runs."""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = (
    """CREATE TABLE ledger (
        seq INTEGER PRIMARY KEY, wall_s REAL NOT NULL, dataset TEXT NOT NULL, entry BLOB NOT NULL, digest BLOB NOT NULL,
        chain BLOB NOT NULL) STRICT""",
    """CREATE TABLE lifetimes (
        dataset TEXT PRIMARY KEY, max_epsilon REAL NOT NULL, delta REAL NOT NULL, digest BLOB NOT NULL) STRICT""",
    *(
        f"CREATE TRIGGER ledger_refuses_{what.lower()} BEFORE {what} ON ledger "
        f"BEGIN SELECT RAISE(ABORT, 'ledger is append-only'); END"
        for what in ("UPDATE", "DELETE")
    ),
)


def upgrade() -> None:
    """From a journal without a ledger."""
    for statement in TABLES:
        op.execute(statement)
