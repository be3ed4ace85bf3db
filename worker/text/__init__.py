"""What finds poison before a behaviour is known, or without a model: the text alone.

Simple baselines that stand beside the influence of every audit, near-duplicates, and the folds of a probe.
"""
