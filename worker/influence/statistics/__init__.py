"""From observations to mu, z, p and q. NumPy and SciPy only."""
