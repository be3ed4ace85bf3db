"""Answers that last: event streams, long-polls, and the server being told to stop."""
