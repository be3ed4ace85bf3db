"""The bundled demo: a dataset with planted poison, its probe, its truth, and the run that compares."""
