"""The database's schema, step by step (Alembic); `service.migration.migrate` runs it."""

OLDEST_CODE = "0025"
"""Head of the oldest code that runs on the schema of this one.

A test holds that the revisions after it only add. After one that does more, or adds what old code has to know of (a
kind of job, a state), this is that revision.
"""
