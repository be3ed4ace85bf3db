"""JSONL read as Arrow columns, many records at once."""
