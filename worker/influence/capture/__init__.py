"""Records per-sample gradient signals of a training run, in PyTorch."""
