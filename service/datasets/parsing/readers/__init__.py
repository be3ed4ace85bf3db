"""From the bytes of an upload to its records, by format."""
