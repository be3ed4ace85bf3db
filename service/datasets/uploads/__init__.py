"""Uploads in parts, by the core of the tus protocol 1.0: they go on where they were after a connection was lost."""
