"""The first schema: the open stage, standing facts, trail, secrets, plans and data sets, ends of runs, outbox."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = (
    """CREATE TABLE stage (
        one INTEGER PRIMARY KEY CHECK (one = 1), run_id TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
        kind TEXT NOT NULL, sealed BLOB NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE trail (
        seq INTEGER PRIMARY KEY, wall_s REAL NOT NULL, run_id TEXT NOT NULL, round INTEGER NOT NULL,
        attempt INTEGER NOT NULL, kind TEXT NOT NULL, facts TEXT NOT NULL,
        digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT""",
    """CREATE TABLE high_water (
        run_id TEXT PRIMARY KEY, round INTEGER NOT NULL, attempt INTEGER NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE spent (
        dataset TEXT NOT NULL, version BLOB NOT NULL, purpose TEXT NOT NULL, subject BLOB NOT NULL,
        digest BLOB NOT NULL, PRIMARY KEY (dataset, version, purpose, subject)) STRICT""",
    """CREATE TABLE presumed_spent (
        dataset TEXT NOT NULL, version BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (dataset, version)) STRICT""",
    """CREATE TABLE forgiven (
        dataset TEXT PRIMARY KEY, wall_s REAL NOT NULL, reason TEXT NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE opened (
        run_id TEXT NOT NULL, round INTEGER NOT NULL, t3 BLOB NOT NULL, result BLOB NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (run_id, round, t3, result)) STRICT""",
    "CREATE TABLE secrets (name TEXT PRIMARY KEY, sealed BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
    "CREATE TABLE marks (name TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
    "CREATE TABLE datasets (name TEXT PRIMARY KEY, path TEXT NOT NULL, digest BLOB NOT NULL) STRICT",
    "CREATE TABLE accepted (plan_hash BLOB PRIMARY KEY, wall_s REAL NOT NULL, digest BLOB NOT NULL) STRICT",
    """CREATE TABLE plans (
        run_id TEXT PRIMARY KEY, plan_hash BLOB NOT NULL, canonical BLOB NOT NULL, version BLOB NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE updates (
        dataset TEXT NOT NULL, version BLOB NOT NULL, purpose TEXT NOT NULL, subject BLOB NOT NULL,
        model_hash BLOB NOT NULL, blob BLOB NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (dataset, version, purpose, subject)) STRICT""",
    """CREATE TABLE ends (
        run_id TEXT PRIMARY KEY, plan_hash BLOB NOT NULL, code TEXT NOT NULL, model BLOB NOT NULL, wall_s REAL NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY, wall_s REAL NOT NULL, kind TEXT NOT NULL, size_bytes INTEGER NOT NULL,
        content BLOB NOT NULL, digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT""",
)
APPEND_ONLY = ("trail", "outbox")


def upgrade() -> None:
    """From nothing."""
    for statement in TABLES:
        op.execute(statement)
    for table in APPEND_ONLY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuses_{what.lower()} BEFORE {what} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
