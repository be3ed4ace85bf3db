"""The process that trains, combines or counts: a folder, two pipes, and no database."""
