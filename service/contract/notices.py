"""Codes of a dataset's notices that an audit repeats as warnings: what its rows hold that no audit follows."""

CONTROL_TOKENS = "control_tokens"
"""Text that spells control tokens. It is not repeated: an audit has its own warning, for the tokens of its model."""

UNTRAINED_COLUMNS = "untrained_columns"
"""Columns with system prompts, earlier turns or tools, which audits do not train on."""

ZERO_WEIGHTS = "zero_weights"
"""Answers that are marked as not to be learnt, which audits train on."""

UNDESIRED_ANSWERS = "undesired_answers"
"""Answers that are labelled as bad, which audits train on as if they were good."""

REPEATED = (UNTRAINED_COLUMNS, ZERO_WEIGHTS, UNDESIRED_ANSWERS)
"""The notices that an audit repeats."""
