"""Lists of findings that a workspace saves under names."""
