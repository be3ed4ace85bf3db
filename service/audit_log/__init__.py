"""Reading the audit log: who changed what in a workspace."""
