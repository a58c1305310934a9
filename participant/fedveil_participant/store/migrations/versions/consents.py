"""Plans that were offered and wait, what people approved or denied, and which runs were let in."""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLES = (
    """CREATE TABLE offers (
        run_id TEXT PRIMARY KEY, plan_hash BLOB NOT NULL, canonical BLOB NOT NULL, dataset TEXT NOT NULL,
        binding BLOB NOT NULL, wall_s REAL NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE approvals (
        number INTEGER PRIMARY KEY, plan_hash BLOB NOT NULL, dataset TEXT NOT NULL, binding BLOB NOT NULL,
        run_id TEXT NOT NULL, runs INTEGER NOT NULL, until_s REAL NOT NULL, need INTEGER NOT NULL,
        open INTEGER NOT NULL, wall_s REAL NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE approvers (
        number INTEGER NOT NULL, uid INTEGER NOT NULL, name TEXT NOT NULL, shown TEXT NOT NULL, wall_s REAL NOT NULL,
        digest BLOB NOT NULL, PRIMARY KEY (number, uid)) STRICT""",
    """CREATE TABLE denials (
        plan_hash BLOB PRIMARY KEY, uid INTEGER NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL,
        wall_s REAL NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE admissions (
        run_id TEXT PRIMARY KEY, plan_hash BLOB NOT NULL, dataset TEXT NOT NULL, approved_by TEXT NOT NULL,
        number INTEGER NOT NULL, binding BLOB NOT NULL, rounds INTEGER NOT NULL, epsilon REAL NOT NULL,
        wall_s REAL NOT NULL, digest BLOB NOT NULL) STRICT""",
)


def upgrade() -> None:
    """From a journal that knew plans by --accept alone."""
    for statement in TABLES:
        op.execute(statement)
