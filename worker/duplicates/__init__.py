"""The near-duplicates of a dataset, counted in the background: what an upload is not kept waiting for."""

COUNTED_FILE = "near_duplicates.json"
"""What the child leaves: a contract.NearDuplicates."""
