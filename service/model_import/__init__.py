"""What operators run to give a workspace a base model: its files are copied into the object store."""
