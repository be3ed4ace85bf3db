"""From the recordings of all seeds to what an audit says of every sample."""
