"""Base models, and which are admitted."""
