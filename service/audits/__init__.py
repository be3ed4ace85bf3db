"""Audits: creating, listing, cancelling, retrying and deleting them."""
