"""What operators ask of the API: health, readiness, metrics and limits."""
