"""Notices of a dataset that an audit repeats among its warnings: what is in the rows, and no audit does as it says."""

CONTROL_TOKENS = "control_tokens"
UNTRAINED_COLUMNS = "untrained_columns"
ZERO_WEIGHTS = "zero_weights"
UNDESIRED_ANSWERS = "undesired_answers"

REPEATED = (CONTROL_TOKENS, UNTRAINED_COLUMNS, ZERO_WEIGHTS, UNDESIRED_ANSWERS)
