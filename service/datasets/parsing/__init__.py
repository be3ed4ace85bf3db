"""The child process that reads an upload, and all it needs."""
