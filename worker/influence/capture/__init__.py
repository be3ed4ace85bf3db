"""What a training run records of each sample, in PyTorch."""
