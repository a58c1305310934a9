"""The tables of the coordinator's database, as `migrations` creates them."""

from fedveil_common.rows import AppendOnlyTable, CheckedTable

FILE = "coordinator.db"
"""The database, in the coordinator's home."""

FACTS = AppendOnlyTable("facts", "run_id", "kind", "body")
RUNS = CheckedTable("runs", "run_id", "canonical_plan", "plan_hash", "created_s", "status", "code")
DELIVERIES = CheckedTable("deliveries", "run_id", "org_id")
ANSWERS = CheckedTable("answers", "query_digest", "run_id", "round", "result_hash")
ROSTERS = CheckedTable("rosters", "version", "signed")
TRUST = CheckedTable("trust", "number", "document")
INVITES = CheckedTable("invites", "token_id", "org_id", "role", "expires_s", "signed", "used_by", "serial")
MEMBERS = CheckedTable(
    "members", "org_id", "role", "protocol_key", "proof", "token_id", "joined_s", "revoked_s", "reason"
)
CERTIFICATES = CheckedTable("certificates", "serial", "org_id", "role", "spki_hash", "pem", "not_after_s", "revoked_s")
RENEWALS = CheckedTable("renewals", "serial", "predecessor", "made_s", "used_s", "withdrawn_s")
FREEZES = CheckedTable("freezes", "role", "org_id", "serial", "frozen_s")
EVIDENCE = AppendOnlyTable("evidence", "wall_s", "run_id", "org_id", "code", "blobs")
KEYS = CheckedTable("keys", "key_id", "epoch", "fingerprint", "terms", "record", "published_s")
STAGES = AppendOnlyTable("stages", "statement")
STATUS = CheckedTable("status", "one", "sequence", "document")
COUNTERSIGNATURES = CheckedTable("countersignatures", "run_id", "org_id", "blob")
AUDIT = AppendOnlyTable("audit", "wall_s", "who", "what", "detail")

ALL: tuple[CheckedTable, ...] = (
    FACTS,
    RUNS,
    DELIVERIES,
    ANSWERS,
    ROSTERS,
    TRUST,
    INVITES,
    MEMBERS,
    CERTIFICATES,
    RENEWALS,
    FREEZES,
    KEYS,
    STAGES,
    STATUS,
    COUNTERSIGNATURES,
    EVIDENCE,
    AUDIT,
)
