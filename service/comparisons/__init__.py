"""Two finished audits beside each other."""
