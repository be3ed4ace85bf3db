"""Reading JSONL as Arrow columns, many records at once."""
