"""One attempt at an audit: its steps, one after the other, each in a child process."""
