"""What an audit will take in time and memory."""
