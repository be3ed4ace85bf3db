"""The worker: a Celery process and the child processes that train."""
