"""The schema of the coordinator's database, step by step. A step that was released is never edited again."""

HEAD = "stages"
"""The newest revision: a database that is at it needs no alembic at start."""
