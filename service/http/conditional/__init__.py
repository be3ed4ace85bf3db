"""Entity tags, byte ranges and downloads (RFC 9110)."""
