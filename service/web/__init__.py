"""The dashboard: pages, charts, and the report of an audit as one file."""
