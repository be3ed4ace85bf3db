"""Celery's process: claims jobs, holds their leases and runs them in child processes. No torch."""
