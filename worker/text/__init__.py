"""Finds near-duplicates and simple signs of poison from the text alone, without a model or a known behaviour.

It holds the baselines that are compared with the influence in every audit, near-duplicates, and the folds of a probe.
"""
