"""Sentences and labels that pages, reports and the command line share. Imports only the contract."""
