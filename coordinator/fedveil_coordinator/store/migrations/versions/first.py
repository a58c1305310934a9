"""The first schema: facts, runs, sums owed and answered, rosters, members, evidence, audit."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = (
    """CREATE TABLE facts (
        seq INTEGER PRIMARY KEY, run_id TEXT NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL,
        digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT""",
    "CREATE INDEX facts_of_run ON facts (run_id, seq)",
    """CREATE TABLE runs (
        run_id TEXT PRIMARY KEY, canonical_plan BLOB NOT NULL, plan_hash BLOB NOT NULL, created_s REAL NOT NULL,
        status TEXT NOT NULL, code TEXT NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE deliveries (
        run_id TEXT NOT NULL REFERENCES runs, org_id TEXT NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (run_id, org_id)) STRICT""",
    """CREATE TABLE answers (
        query_digest BLOB PRIMARY KEY, run_id TEXT NOT NULL, round INTEGER NOT NULL, result_hash BLOB NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    "CREATE TABLE rosters (version INTEGER PRIMARY KEY, signed BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
    "CREATE TABLE trust (number INTEGER PRIMARY KEY, document BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
    """CREATE TABLE invites (
        token_id BLOB PRIMARY KEY, org_id TEXT NOT NULL, role TEXT NOT NULL, expires_s REAL NOT NULL,
        signed BLOB NOT NULL, used_by BLOB NOT NULL, serial TEXT NOT NULL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE members (
        org_id TEXT PRIMARY KEY, role TEXT NOT NULL, protocol_key BLOB NOT NULL, proof BLOB NOT NULL,
        token_id BLOB NOT NULL REFERENCES invites, joined_s REAL NOT NULL, revoked_s REAL, reason TEXT NOT NULL,
        digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE certificates (
        serial TEXT PRIMARY KEY, org_id TEXT NOT NULL, role TEXT NOT NULL, spki_hash BLOB NOT NULL, pem BLOB NOT NULL,
        not_after_s REAL NOT NULL, revoked_s REAL, digest BLOB NOT NULL) STRICT""",
    """CREATE TABLE evidence (
        seq INTEGER PRIMARY KEY, wall_s REAL NOT NULL, run_id TEXT NOT NULL, org_id TEXT NOT NULL, code TEXT NOT NULL,
        blobs TEXT NOT NULL, digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT""",
    """CREATE TABLE audit (
        seq INTEGER PRIMARY KEY, wall_s REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL,
        digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT""",
)
APPEND_ONLY = ("facts", "evidence", "audit")


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
