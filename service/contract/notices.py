"""Notices of a dataset that an audit repeats among its warnings: what is in the rows, and no audit does as it says."""

CONTROL_TOKENS = "control_tokens"
"""The audit's own warning of this name counts what its model takes for control tokens."""
UNTRAINED_COLUMNS = "untrained_columns"
ZERO_WEIGHTS = "zero_weights"
UNDESIRED_ANSWERS = "undesired_answers"

REPEATED = (UNTRAINED_COLUMNS, ZERO_WEIGHTS, UNDESIRED_ANSWERS)
