"""API keys and signing in."""
