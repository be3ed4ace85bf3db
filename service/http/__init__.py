"""What routes share and no resource owns."""
