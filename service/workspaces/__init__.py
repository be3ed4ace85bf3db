"""Workspaces, and keys made for them."""
