"""The outbox by message, run and round; the receipts that came; checkpoints of the records."""

from alembic import op
from fedveil_common.rows import AppendOnlyTable

revision = "0005"
down_revision = "0004"

_OUTBOX = AppendOnlyTable(
    "outbox", "wall_s", "kind", "what", "run_id", "round", "attempt", "size_bytes", "content", "awaits", "amends"
)

TABLES = (
    """CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY, wall_s REAL NOT NULL, kind TEXT NOT NULL, what TEXT NOT NULL, run_id TEXT NOT NULL,
        round INTEGER NOT NULL, attempt INTEGER NOT NULL, size_bytes INTEGER NOT NULL, content BLOB NOT NULL,
        awaits BLOB NOT NULL, amends INTEGER NOT NULL, digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT""",
    "CREATE INDEX outbox_awaits ON outbox (awaits)",
    """CREATE TABLE receipts (
        seq INTEGER PRIMARY KEY, wall_s REAL NOT NULL, message INTEGER NOT NULL, signer_id TEXT NOT NULL,
        signer_key BLOB NOT NULL, body BLOB NOT NULL, sig BLOB NOT NULL, digest BLOB NOT NULL,
        chain BLOB NOT NULL) STRICT""",
    "CREATE INDEX receipts_message ON receipts (message)",
    """CREATE TABLE checkpoints (
        seq INTEGER PRIMARY KEY, wall_s REAL NOT NULL, statement BLOB NOT NULL, sig BLOB NOT NULL,
        digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT""",
)
APPEND_ONLY = ("outbox", "receipts", "checkpoints")


def upgrade() -> None:
    """From an outbox with a row a frame. What it holds is taken over and chained anew."""
    connection = op.get_bind()
    for what in ("update", "delete"):
        op.execute(f"DROP TRIGGER outbox_refuses_{what}")
    op.execute("ALTER TABLE outbox RENAME TO outbox_before")
    for statement in TABLES:
        op.execute(statement)
    before = connection.exec_driver_sql("SELECT * FROM outbox_before ORDER BY seq").mappings()
    _OUTBOX.append(
        connection,
        (
            {
                "wall_s": row["wall_s"],
                "kind": row["kind"],
                "what": "",
                "run_id": "",
                "round": 0,
                "attempt": 0,
                "size_bytes": row["size_bytes"],
                "content": row["content"],
                "awaits": b"",
                "amends": 0,
            }
            for row in before
        ),
    )
    op.execute("DROP TABLE outbox_before")
    for table in APPEND_ONLY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuses_{what.lower()} BEFORE {what} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
