"""Exports of cleaned data, flagged samples or scores."""
