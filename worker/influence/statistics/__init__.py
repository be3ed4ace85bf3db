"""Turns observations into mu, z, p and q, with NumPy and SciPy only."""
