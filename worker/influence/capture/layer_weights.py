"""The weight of each layer in the alignment: how far held-out probe answers stand out from the samples there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worker.influence.directions import Directions, Kind


class LayerWeights:
    """Learns during a run, without any label, in which layers the probe's behaviour can be told apart.

    In layer m let a_m be the mean cosine of a probe's items with the direction that leaves their own fold out, and c_m
    the cosines of the samples drawn so far with the probe's direction. The layer's weight is how far the items stand
    out,

        w_m = max(0, (a_m - mean c_m) / sd c_m) / size of the layer,

    averaged over the refreshes so far. The alignment's metric becomes w_m P^2 in each layer; whitened by P, a layer
    would otherwise count by its size alone. A held-out direction takes its weights from the items of the other folds,
    so that no tracer chooses the layers that it is seen in. A probe whose items cannot be held out, and every probe
    before the first samples were drawn, has w_m = 1 / size (docs/decisions/0013).
    """

    def __init__(self, directions: Directions, sizes: Tensor) -> None:
        """Start without any observation.

        Args:
            directions: The plan of all directions.
            sizes: [layers], number of parameters of each aligned layer.
        """
        probes = len(directions.coefficients)
        self._directions = directions
        self._sizes = sizes
        self._sum = sizes.new_zeros(len(sizes), probes)
        self._square = sizes.new_zeros(len(sizes), probes)
        self._samples = 0
        self._standing: list[list[Tensor]] = [[] for _ in range(probes)]

    def note(self, cosines: Tensor) -> None:
        """Add the cosines of samples with each probe's unwanted answers, [layers, samples, probes].

        It waits for no device.
        """
        total, square = cosines.sum(1), cosines.square().sum(1)
        self._sum += total
        self._square += square
        self._samples += cosines.shape[1]

    def of_probe(self, probe: int, held_out: Tensor) -> Tensor:
        """Update the weights of a probe at a refresh, and return them, [columns of the probe, layers].

        Args:
            probe: The probe's number, counted from 0.
            held_out: [items, layers], the cosine of each item of the probe with the direction that leaves its fold out.

        Returns:
            The weight of each layer for each of the probe's columns.
        """
        columns = torch.as_tensor(self._directions.of_probe(probe))
        weights = self._sum.new_ones(len(columns), len(self._sizes))
        held_out_by = torch.as_tensor(self._directions.held_out[probe])
        if not self._samples or int(held_out_by.min()) < 0:
            return weights / self._sizes
        mean = self._sum[:, probe] / self._samples
        variance = self._square[:, probe] / self._samples - mean.square()
        spread = variance.clamp_min(torch.finfo(mean.dtype).tiny).sqrt()
        self._standing[probe].append((held_out - mean) / spread)
        standing = torch.stack(self._standing[probe]).mean(0)
        for position, column in enumerate(columns.tolist()):
            others = standing
            if self._directions.kind[column] == Kind.HELD_OUT:
                others = standing[(held_out_by != column).all(0).to(standing.device)]
            weight = others.mean(0).clamp_min(0)
            if bool(weight.any()):
                weights[position] = weight
        return weights / self._sizes

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned so far."""
        return {
            "sum": self._sum,
            "square": self._square,
            "samples": self._samples,
            "standing": {
                str(probe): torch.stack(refreshes) for probe, refreshes in enumerate(self._standing) if refreshes
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._sum.copy_(state["sum"])
        self._square.copy_(state["square"])
        self._samples = state["samples"]
        for probe, own in enumerate(self._standing):
            refreshes = state["standing"].get(str(probe), self._sum.new_empty(0))
            own[:] = refreshes.to(self._sum.device).unbind()
