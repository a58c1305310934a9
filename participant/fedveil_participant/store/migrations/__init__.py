"""The schema of a participant's journal, step by step. A step that was released is never edited again."""

HEAD = "0006"
"""The newest revision: a database that is at it needs no alembic at start."""
