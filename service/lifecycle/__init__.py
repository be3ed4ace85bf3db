"""The states of a job and the commands that change them. Nothing else writes them."""
