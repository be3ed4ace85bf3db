"""What a finished audit says: summary, histogram, curves, groups, metrics."""
