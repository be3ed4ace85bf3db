"""Compares two finished audits."""
