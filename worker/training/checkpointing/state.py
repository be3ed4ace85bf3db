"""Where a training run stands between two steps, and how it goes on from there."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.training.checkpointing.rng import random_state, set_random_state
from worker.training.measurement import ByProducts, Measurement


@dataclass
class TrainingRun:
    """What a run leaves beside the model's weights."""

    steps: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    """Mean sample loss of each optimiser step."""
    measurements: int = 0
    """Times the probe gradients were measured."""
    by_products: ByProducts = field(default_factory=ByProducts)
    late: list[int] | None = None
    """Rows still to be scored without a step; None before the last step's end."""
    late_batches: int = 0
    """Scored so."""
    seconds: float = 0.0
    """In the loop, over all processes that had a part in the run, up to the checkpoint for each but the last."""


class TrainingState:
    """Everything that the next step depends on or that the result is made of, as a state dictionary.

    The learning rate and the order of the samples are functions of the number of steps and need no state.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        measurement: Measurement | None,
        run: TrainingRun,
        device: torch.device,
    ) -> None:
        """weights: what is trained, by name, as the optimiser has it."""
        self._weights = weights
        self._optimizer = optimizer
        self._measurement = measurement
        self._run = run
        self._device = device
        self._since = time.monotonic()

    @property
    def position(self) -> int:
        """Grows from one boundary to the next."""
        return self._run.steps + self._run.late_batches

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run between two steps."""
        run = self._run
        moments = self._optimizer.state
        return {
            "run": {
                "steps": run.steps,
                "tokens": run.tokens,
                "losses": torch.tensor(run.losses, dtype=torch.float64),
                "late": run.late,
                "late_batches": run.late_batches,
                "seconds": self.seconds(),
            },
            "weights": dict(self._weights),
            "optimizer": {name: dict(moments[weight]) for name, weight in self._weights.items()},
            "measurement": None if self._measurement is None else self._measurement.state_dict(),
            "random": random_state(self._device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts model, optimiser, measurement, run and random states to where `state_dict` was taken."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(state["weights"][name])
        groups = self._optimizer.state_dict()["param_groups"]
        moments = {number: state["optimizer"][name] for number, name in enumerate(self._weights)}
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self._measurement is not None:
            self._measurement.load_state_dict(state["measurement"])
        run, own = self._run, state["run"]
        run.steps, run.tokens, run.losses = own["steps"], own["tokens"], own["losses"].tolist()
        run.late, run.late_batches, run.seconds = own["late"], own["late_batches"], own["seconds"]
        set_random_state(state["random"], self._device)

    def seconds(self) -> float:
        """In the loop so far, over all processes."""
        return self._run.seconds + time.monotonic() - self._since
