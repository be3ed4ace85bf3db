"""Turns the recordings of all seeds into the results of an audit."""
