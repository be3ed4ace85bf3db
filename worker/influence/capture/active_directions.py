"""The directions that samples are compared with between two refreshes, in the alignment's metric."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.influence.capture.layer_stacks import Stack, kept_type, stacks_of
from worker.influence.capture.layer_weights import LayerWeights
from worker.influence.capture.probe_gradients import ProbeGradients
from worker.influence.directions import Directions, Kind

ALIGNED = ".lora_B."
"""Part of the names of the layers that the alignment is taken over: lora_A's gradient is mostly noise (`Recorder`)."""

Preconditioner = Mapping[str, Tensor]
"""P, the factor by which the optimiser multiplies a gradient: by name of the layer, [numel]."""


def is_aligned(name: str) -> bool:
    """Whether the alignment is taken over the layer of this name."""
    return ALIGNED in name


class ActiveDirections:
    """The targets, and the directions in the alignment's metric, between two refreshes."""

    def __init__(
        self,
        directions: Directions,
        targets: Mapping[str, Tensor],
        square: Mapping[str, Tensor],
        learned: LayerWeights,
    ) -> None:
        """Stack targets and metric, and make room for `aligned`, `norms`, `weights` and `norm`, which are filled later.

        Args:
            directions: The plan of all D directions.
            targets: By layer, [targets, numel], for every layer.
            square: P^2 by layer, [numel], for the layers that the alignment is taken over.
            learned: The weights of those layers.
        """
        like = next(iter(targets.values()))
        sizes = {name: own.shape[1] for name, own in targets.items()}
        self.stacks = stacks_of(sizes, like.device, is_aligned)
        self.place = {name: (stack, layer) for stack in self.stacks for layer, name in enumerate(stack.names)}
        """Each layer's stack, and where it lies in it."""
        self.stack_targets = {stack: stack.stacked(targets) for stack in self.stacks}
        self.stack_square = {stack: stack.stacked(square) for stack in self.stacks if is_aligned(stack.names[0])}
        self.stack_aligned = {
            stack: like.new_empty(len(directions), len(stack.names), stack.numel, dtype=kept_type(like))
            for stack in self.stack_square
        }
        """P^2 D of the layers that the alignment is over."""
        self.targets = _by_layer(self.stack_targets)
        """[targets, numel] of every layer; this and the next are views into the stacks."""
        self.aligned = _by_layer(self.stack_aligned)
        """P^2 D, [D, numel] of a layer that the alignment is over."""
        self.square = {name: rows[0] for name, rows in _by_layer(self.stack_square).items()}
        self.layer = {name: number for number, name in enumerate(square)}
        found = [name for stack in self.stack_square for name in stack.names]
        self.order = torch.tensor([found.index(name) for name in self.layer], device=like.device)
        """Where each aligned layer stands in the order of the stacks."""
        size = (len(self.layer), len(directions))
        self.norms = like.new_empty(size)
        """|P D| of each layer."""
        self.weights = like.new_empty(size)
        self.norm = like.new_empty(len(directions))
        """|P D| over all layers, weighted."""
        self.learned = learned
        self.unwanted = torch.as_tensor(np.flatnonzero(directions.kind == Kind.UNWANTED)).to(like.device)

    @classmethod
    def measured(
        cls,
        directions: Directions,
        sides: Iterable[Sequence[ProbeGradients]],
        preconditioner: Preconditioner,
        learned: LayerWeights,
        weights: Mapping[str, Tensor],
    ) -> "tuple[ActiveDirections, list[NDArray[np.float64]]]":
        """Combine the directions from new probe gradients, at a refresh.

        Args:
            directions: The plan of all D directions.
            sides: The gradients of each probe: its unwanted side and, where it has references, its reference side.
                They are taken one probe at a time, so that those of one alone need be in memory.
            preconditioner: The optimiser's P, by layer.
            learned: Weights of the aligned layers, which take the items of this refresh into account.
            weights: The trained weights of all layers, in their order.

        Returns:
            The directions, and for each probe the cosines of its item gradients with its own directions, [items,
            columns].

        Raises:
            ValueError: The sides do not match the targets of the plan.
        """
        targets = {
            name: weight.new_zeros(
                directions.targets, weight.numel(), dtype=torch.promote_types(weight.dtype, torch.float32)
            )
            for name, weight in weights.items()
        }
        metric = {name: preconditioner[name].square() for name in weights if is_aligned(name)}
        active = cls(directions, targets, metric, learned)
        del targets  # It has copied them where layers lie side by side.
        # Columns put targets of all probes first, by kind within; sides come by probe.
        column = {(int(directions.kind[k]), int(directions.probe[k])): k for k in range(directions.targets)}
        found: list[NDArray[np.float64]] = []
        for own in sides:
            probe = len(found)
            wanted = sum(of == probe for _, of in column)
            if len(own) != wanted:
                raise ValueError(f"the plan has {wanted} targets of probe {probe + 1}, but {len(own)} sides were given")
            for kind, side in enumerate(own):
                for name, mean in side.mean.items():
                    active.targets[name][column[kind, probe]] = mean
            found.append(active._combine(probe, own, directions))
            del own, side  # Before the next are measured.
        if len(found) != len(directions.coefficients):
            raise ValueError(f"the plan has {len(directions.coefficients)} probes, but {len(found)} were given")
        return active, found

    def state_dict(self) -> dict[str, Any]:
        """Return all tensors except those of the layer weights, which outlive a refresh."""
        return {
            "targets": _apart(self.targets),
            "square": _apart(self.square),
            "aligned": _apart(self.aligned),
            "norms": self.norms,
            "weights": self.weights,
            "norm": self.norm,
        }

    @classmethod
    def restored(
        cls, directions: Directions, state: Mapping[str, Any], learned: LayerWeights, like: Mapping[str, Tensor]
    ) -> "ActiveDirections":
        """Rebuild the directions from a `state_dict`.

        Args:
            directions: The plan of all D directions.
            state: As `state_dict` returned it.
            learned: The weights of the aligned layers.
            like: The layers' weights, in the order of the recorder; tensors are moved to their devices.

        Returns:
            Directions equal to those saved.
        """

        def of_layers(part: str) -> dict[str, Tensor]:
            own = state[part]
            return {name: own[name].to(weight.device) for name, weight in like.items() if name in own}

        active = cls(directions, of_layers("targets"), of_layers("square"), learned)
        for name, own in of_layers("aligned").items():
            active.aligned[name].copy_(own)
        device = active.norm.device
        active.norms, active.weights, active.norm = (state[part].to(device) for part in ("norms", "weights", "norm"))
        return active

    def _combine(self, probe: int, sides: Sequence[ProbeGradients], directions: Directions) -> NDArray[np.float64]:
        """Fill the probe's columns, and return the cosines of its item gradients with them, [items, columns]."""
        like = self.norm
        columns = torch.as_tensor(directions.of_probe(probe)).to(like.device)
        coefficients = torch.as_tensor(directions.coefficients[probe]).to(like)
        inner = like.new_empty(len(self.layer), coefficients.shape[1], len(columns))
        item_square = like.new_empty(len(self.layer), coefficients.shape[1])
        square = like.new_empty(len(self.layer), len(columns))
        for name, metric in self.square.items():
            layer = self.layer[name]
            items = torch.cat([side.items[name] for side in sides]).to(like.dtype)
            combined = coefficients @ items
            weighted = combined * metric
            self.aligned[name][columns] = weighted.to(self.aligned[name].dtype)
            square[layer] = (combined * weighted).sum(1)
            inner[layer] = items @ weighted.T
            item_square[layer] = items.square() @ metric
        tiny = torch.finfo(like.dtype).tiny
        self.norms[:, columns] = square.sqrt()
        weights = self.learned.of_probe(probe, self._held_out(inner, item_square, square, columns, directions, probe)).T
        self.weights[:, columns] = weights
        norm = (weights * square).sum(0).sqrt().clamp_min(tiny)
        self.norm[columns] = norm
        item_norm = (weights[:, None, :] * item_square[:, :, None]).sum(0).sqrt().clamp_min(tiny)
        cosines = (weights[:, None, :] * inner).sum(0) / norm / item_norm
        return np.asarray(cosines.cpu().double().numpy())

    @staticmethod
    def _held_out(
        inner: Tensor, item_square: Tensor, square: Tensor, columns: Tensor, directions: Directions, probe: int
    ) -> Tensor:
        """Return each unwanted item's cosine with the direction that leaves its fold out, [items, layers]."""
        left_out = directions.held_out[probe][0]
        items = torch.arange(len(left_out), device=inner.device)
        if left_out.min() < 0:
            return inner.new_zeros(len(items), len(inner))
        position = torch.as_tensor(np.searchsorted(columns.cpu().numpy(), left_out)).to(inner.device)
        scale = (item_square[:, items] * square[:, position]).sqrt().clamp_min(torch.finfo(inner.dtype).tiny)
        return (inner[:, items, position] / scale).T

    def turned_from(self, before: "ActiveDirections") -> NDArray[np.float64]:
        """Return the cosine between each target now and before, in the present metric, [targets]."""
        count = len(next(iter(self.targets.values())))
        inner = self.norm.new_zeros(count)
        square = self.norm.new_zeros(count)
        for name, metric in self.square.items():
            old, weight = before.targets[name], self.weights[self.layer[name], :count]
            inner += weight * (self.aligned[name][:count] * old).sum(1)
            square += weight * (old.square() @ metric)
        cosine = inner / (square.sqrt() * self.norm[:count]).clamp_min(torch.finfo(square.dtype).tiny)
        return np.asarray(cosine.cpu().double().numpy())


def _by_layer(stacks: Mapping[Stack, Tensor]) -> dict[str, Tensor]:
    """Return views of each layer's part of the stacks, by name."""
    return {name: rows[:, layer] for stack, rows in stacks.items() for layer, name in enumerate(stack.names)}


def _apart(of_layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies without the layers that lie between them in their stack."""
    return {name: rows.contiguous() for name, rows in of_layers.items()}
