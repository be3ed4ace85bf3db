"""Base models, and which of them may be registered."""
