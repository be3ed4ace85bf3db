"""Versions of a dataset: which one replaces which, what has changed, and what audits said of each."""
