"""Datasets: upload, listing and content."""
