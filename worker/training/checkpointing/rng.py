"""The random states that a run draws from, as tensors and numbers."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of the random numbers of Python, NumPy, torch and, where the run is on one, of the GPU."""
    version, words, gauss = random.getstate()
    own: Any = np.random.get_state(legacy=False)
    return {
        "python": [version, list(words), gauss],
        "numpy": {**own, "state": {**own["state"], "key": torch.as_tensor(own["state"]["key"].astype(np.int64))}},
        "torch": torch.random.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put every state back to what `random_state` returned.

    Args:
        state: What it returned.
        device: Where the run trains.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    own = state["numpy"]
    np.random.set_state({**own, "state": {**own["state"], "key": own["state"]["key"].numpy().astype(np.uint32)}})
    torch.random.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
