"""People who sign in without a key: who they are, and what they may do in which workspace."""
