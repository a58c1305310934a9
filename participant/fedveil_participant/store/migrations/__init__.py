"""The schema of a participant's journal, step by step. A step that was released is never edited again."""

HEAD = "0004_outbox_receipts"
"""The newest revision: a database that is at it needs no alembic at start."""
