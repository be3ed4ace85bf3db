"""Each module measures one thing and writes one JSON and one table; docs/benchmarks.md quotes them."""
