"""The samples of an audit by rank, and people's verdicts on them."""
