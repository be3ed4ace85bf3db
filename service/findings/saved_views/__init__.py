"""Lists of findings that a workspace keeps under names."""
