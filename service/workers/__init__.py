"""Workers and the queue of jobs, as a workspace sees them."""
