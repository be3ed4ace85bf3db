"""One attempt at comparing a dataset with the version before it."""
