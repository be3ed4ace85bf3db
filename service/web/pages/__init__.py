"""The dashboard's pages: what their addresses take, and what their templates are given."""
