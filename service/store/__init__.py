"""Postgres and the object store."""
