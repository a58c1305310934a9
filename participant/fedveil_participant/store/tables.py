"""The tables of a participant's journal, as `migrations` creates them."""

from fedveil_common.rows import AppendOnlyTable, CheckedTable

STAGE = CheckedTable("stage", "one", "run_id", "round", "attempt", "kind", "sealed")
TRAIL = AppendOnlyTable("trail", "wall_s", "run_id", "round", "attempt", "kind", "facts")
HIGH_WATER = CheckedTable("high_water", "run_id", "round", "attempt")
SPENT = CheckedTable("spent", "dataset", "version", "purpose", "subject")
PRESUMED_SPENT = CheckedTable("presumed_spent", "dataset", "version")
FORGIVEN = CheckedTable("forgiven", "dataset", "wall_s", "reason")
OPENED = CheckedTable("opened", "run_id", "round", "t3", "result")
TAG_KEYS = CheckedTable("tag_keys", "run_id", "round", "t3", "sealed")
DISPUTED = CheckedTable("disputed", "run_id")
SECRETS = CheckedTable("secrets", "name", "sealed")
MARKS = CheckedTable("marks", "name", "value")
DATASETS = CheckedTable("datasets", "name", "path")
ACCEPTED = CheckedTable("accepted", "plan_hash", "wall_s")
PLANS = CheckedTable("plans", "run_id", "plan_hash", "canonical", "version")
UPDATES = CheckedTable("updates", "dataset", "version", "purpose", "subject", "model_hash", "blob")
ENDS = CheckedTable("ends", "run_id", "plan_hash", "code", "model", "wall_s")
LEDGER = AppendOnlyTable("ledger", "wall_s", "dataset", "entry")
LIFETIMES = CheckedTable("lifetimes", "dataset", "max_epsilon", "delta")
SOURCES = CheckedTable("sources", "name", "content", "wall_s")
EXCLUDED = CheckedTable("excluded", "dataset", "field", "person", "wall_s")
SKETCHES = CheckedTable("sketches", "version", "sketch")
SNAPSHOTS = CheckedTable("snapshots", "plan_hash", "version", "dataset", "blob")
OUTBOX = AppendOnlyTable(
    "outbox", "wall_s", "kind", "what", "run_id", "round", "attempt", "size_bytes", "content", "awaits", "amends"
)
RECEIPTS = AppendOnlyTable("receipts", "wall_s", "message", "signer_id", "signer_key", "body", "sig")
CHECKPOINTS = AppendOnlyTable("checkpoints", "wall_s", "statement", "sig")
OFFERS = CheckedTable("offers", "run_id", "plan_hash", "canonical", "dataset", "binding", "wall_s")
APPROVALS = CheckedTable(
    "approvals", "number", "plan_hash", "dataset", "binding", "run_id", "runs", "until_s", "need", "open", "wall_s"
)
APPROVERS = CheckedTable("approvers", "number", "uid", "name", "shown", "wall_s")
DENIALS = CheckedTable("denials", "plan_hash", "uid", "name", "reason", "wall_s")
ADMISSIONS = CheckedTable(
    "admissions", "run_id", "plan_hash", "dataset", "approved_by", "number", "binding", "rounds", "epsilon", "wall_s"
)

ALL: tuple[CheckedTable, ...] = (
    STAGE,
    TRAIL,
    HIGH_WATER,
    SPENT,
    PRESUMED_SPENT,
    FORGIVEN,
    OPENED,
    TAG_KEYS,
    DISPUTED,
    SECRETS,
    MARKS,
    DATASETS,
    ACCEPTED,
    PLANS,
    UPDATES,
    ENDS,
    LEDGER,
    LIFETIMES,
    OUTBOX,
    SOURCES,
    EXCLUDED,
    SKETCHES,
    SNAPSHOTS,
    RECEIPTS,
    CHECKPOINTS,
    OFFERS,
    APPROVALS,
    APPROVERS,
    DENIALS,
    ADMISSIONS,
)
