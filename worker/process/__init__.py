"""Starts, watches and ends child processes. Knows neither the supervisor nor what a child does."""
