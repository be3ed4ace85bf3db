"""People's verdicts on an audit's findings: set and withdrawn one by one, or for all samples that a filter keeps."""
