"""Words that pages, reports and the console share. Knows the contract only."""
