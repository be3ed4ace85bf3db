"""Checkpoints of a training run, which resume it bit for bit."""
