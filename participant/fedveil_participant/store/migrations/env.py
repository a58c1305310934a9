"""What alembic runs: the upgrade, on the connection that `open_database` handed over."""

from fedveil_common.database import run_migrations

run_migrations()
