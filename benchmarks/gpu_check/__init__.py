"""The acceptance on a GPU in one command: `python -m benchmarks.gpu_check`."""
