"""Probes, the behaviours that a model must not learn, and packs of them."""
