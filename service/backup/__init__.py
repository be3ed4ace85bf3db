"""Backups of a whole installation, and the way back. `python -m service.backup` is how operators run it."""
