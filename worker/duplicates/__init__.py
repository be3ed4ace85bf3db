"""The near-duplicates of a dataset, counted in the background: what an upload is not kept waiting for."""
