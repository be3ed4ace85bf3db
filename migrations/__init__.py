"""The database's schema, step by step (Alembic); `service.migration.migrate` runs it."""
