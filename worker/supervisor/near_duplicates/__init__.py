"""One attempt at counting the near-duplicates of a dataset."""
