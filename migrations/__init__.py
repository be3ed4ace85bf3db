"""The database's schema, step by step (Alembic); `service.store.bootstrap.migrate` runs it."""
