"""What people say of an audit's findings: set and withdrawn one by one or for all that a filter keeps."""
