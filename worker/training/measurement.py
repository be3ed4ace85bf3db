"""Keeps a recorder supplied with probe gradients and preconditioners while a run trains; the run does not notice."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.contract.protocol import NoticeEvent
from worker.influence.capture.appended_rows import AppendedRows
from worker.influence.capture.preconditioner import preconditioner_of
from worker.influence.capture.probe_gradients import ProbeGradients, ProbeGradientSum, in_order, undisturbed
from worker.influence.capture.recorder import Recorder, is_aligned
from worker.training.activation_checkpointing import also_in_evaluation
from worker.training.batches import Outputs, TokenBatch, collate, forward
from worker.training.out_of_memory import fewer_directions, out_of_memory_told
from worker.training.passes import Passes
from worker.training.refresh_schedule import RefreshSchedule
from worker.training.representation import answer_representation, representation_similarity
from worker.training.spooled_rows import SpooledRows
from worker.training.token_budget import TokenBudget
from worker.training.tokenization import TokenizedSample

PROBE_CHUNK = {"cpu": 8, "cuda": 16}
"""Probe items in one forward pass, at most; on a GPU a pass costs more than its tokens."""


@dataclass(frozen=True)
class EncodedProbe:
    """Unwanted answers and, where every item has one, reference answers."""

    unwanted: Sequence[TokenizedSample]
    reference: Sequence[TokenizedSample] = ()

    @property
    def sides(self) -> list[Sequence[TokenizedSample]]:
        """One entry a target."""
        return [self.unwanted, self.reference] if self.reference else [self.unwanted]


@dataclass
class ByProducts:
    """What a run knows of each draw beside the recorder's signals, and of each measurement of the probes."""

    loss: AppendedRows = field(default_factory=AppendedRows)
    """[draws], the loss of each draw."""
    similarity: AppendedRows = field(default_factory=AppendedRows)
    """[draws, probes]: cosine of the answer's representation with the probe's unwanted answers."""
    inner: SpooledRows = field(default_factory=SpooledRows)
    """[turns, parts, width]: `Outputs.inner`, in half precision. Kilobytes a draw: too much for the memory."""
    turns: AppendedRows = field(default_factory=AppendedRows)
    """[draws]: how many turns of each draw are represented."""
    inner_items: list[list[Tensor]] = field(default_factory=list)
    """At each measurement of gradients, of each probe: likewise of its items, [items of both sides, parts, width]."""
    measured_at: list[int] = field(default_factory=list)
    """Steps taken before each measurement of the probe losses; the last is the run's end."""
    probe_loss: list[NDArray[np.float64]] = field(default_factory=list)
    """[targets] at each."""

    def state_dict(self) -> dict[str, Any]:
        """As tensors."""
        return {
            "loss": self.loss.whole(),
            "similarity": self.similarity.whole(),
            "inner": self.inner.whole(),
            "turns": self.turns.whole(),
            "inner_items": {
                str(probe): torch.stack(measured).cpu()
                for probe, measured in enumerate(zip(*self.inner_items, strict=True))
            },
            "measured_at": torch.tensor(self.measured_at, dtype=torch.int64),
            "probe_loss": torch.tensor(np.array(self.probe_loss, dtype=np.float64)),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Goes on from what `state_dict` gave."""
        self.loss, self.similarity = AppendedRows(state["loss"]), AppendedRows(state["similarity"])
        if state["inner"] is not None:
            self.inner.append(state["inner"])
        self.turns = AppendedRows(state["turns"])
        probes = [state["inner_items"][str(probe)].to(device) for probe in range(len(state["inner_items"]))]
        self.inner_items = [list(measured) for measured in zip(*probes, strict=True)]
        self.measured_at = state["measured_at"].tolist()
        self.probe_loss = list(state["probe_loss"].numpy())


class Measurement:
    """Measures the probes when it is time and opens the recorder for each micro-batch."""

    def __init__(
        self,
        model: Any,
        recorder: Recorder,
        probes: Sequence[EncodedProbe],
        *,
        optimizer: torch.optim.Optimizer,
        pad: int,
        device: torch.device,
        warm_up: int,
        total: int,
        planned_tokens: int,
        micro_batch_size: int | None = None,
        budget: TokenBudget | None = None,
        tell: Callable[[NoticeEvent], None] = lambda notice: None,
        spool: Path | None = None,
    ) -> None:
        """warm_up: steps whose draws get no signal; total: steps of the run; planned_tokens: of the run;
        micro_batch_size: the most probe items in one pass, if fewer than PROBE_CHUNK; budget: of tokens of a pass
        over probe items, None: no limit; tell: is told when memory sufficed for fewer only; spool: a folder for what
        is too much for the memory, None: where temporary files are.
        """
        self._model, self._recorder, self._device = model, recorder, device
        self._read_preconditioner = preconditioner_of(optimizer)
        self._probes, self._pad = probes, pad
        most = PROBE_CHUNK.get(device.type, PROBE_CHUNK["cpu"])
        self._passes = Passes(
            "a pass over probe items", samples=min(micro_batch_size or most, most), device=device, tell=tell
        )
        self._budget = budget
        self._warm_up = warm_up
        cost = sum(len(sample.ids) for probe in probes for side in probe.sides for sample in side)
        self._schedule = RefreshSchedule(
            start=warm_up, total=total, planned=planned_tokens, cost=cost, probes=len(probes)
        )
        self._unwanted = [int(c) for c in range(recorder.directions.targets) if recorder.directions.kind[c] == 0]
        self._observed: set[int] = set()
        self._preconditioner: dict[str, Tensor] | None = None
        self._representations: list[Tensor] = []
        """Of each probe's unwanted answers at the last measurement, [items, width]."""
        self._inner: list[Tensor] = []
        """Representations of the present step's draws, on the device until the step is closed."""
        self._outputs: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        """Losses, similarities, representations and their number of the present micro-batch."""
        self.by_products = ByProducts(inner=SpooledRows(spool))

    @property
    def measurements(self) -> int:
        """Gradient measurements so far."""
        return len(self._recorder.item_alignment)

    def begin_step(self, step: int) -> float | None:
        """Opens a step, counted from 0. Where the probes were measured: the loss of the first's unwanted answers."""
        recorded = step >= self._warm_up
        self._preconditioner = self._read_preconditioner(self._recorder.weights) if recorded else None
        if step == 0 and not recorded:
            return self._losses_alone(step)
        if recorded and self._schedule.due(step):
            turned = self._measure(step)
            self._schedule.measured(step, None if turned is None else float(turned[self._unwanted].min()))
            return float(self.by_products.probe_loss[-1][0])
        return None

    @contextmanager
    def batch(self, rows: Sequence[int], batch_size: int) -> Iterator[None]:
        """Record the forward and backward pass in the block; of a block that raises, nothing is recorded.

        Args:
            rows: The samples of the micro-batch.
            batch_size: Samples of the whole step.
        """
        self._outputs = None
        with self._recorder.batch(rows, self._preconditioner, batch_size=batch_size):
            yield
        if self._preconditioner is not None:
            self._observed.update(rows)
        if self._outputs is not None:
            loss, similarity, inner, turns = self._outputs
            self.by_products.loss.append(loss)
            self.by_products.similarity.append(similarity)
            self.by_products.turns.append(turns)
            self._inner.append(inner)

    def outputs(self, outputs: Outputs, turn: Tensor) -> None:
        """Note, within `batch`, what the forward pass says beside its loss.

        Args:
            outputs: Of the pass.
            turn: [batch, time], the turn that each position belongs to.
        """
        assert outputs.inner is not None
        if self._representations:
            own = answer_representation(outputs.hidden, outputs.answered)
            columns = [representation_similarity(own, unwanted) for unwanted in self._representations]
            similarity = torch.stack(columns, dim=1)
        else:
            similarity = outputs.losses.new_full((len(outputs.losses), len(self._probes)), torch.nan).detach()
        self._outputs = outputs.losses.detach(), similarity, outputs.inner.half(), turn.amax(1)

    def end_step(self, learning_rate: float, clip: float) -> None:
        """Close a step.

        Args:
            learning_rate: The step's learning rate.
            clip: The factor that clipping applied; 1 without.
        """
        if self._inner:
            # Many times as large as all else that is kept of a draw; by now the step's numbers have been waited for.
            self.by_products.inner.append(torch.cat(self._inner).cpu())
            self._inner = []
        self._recorder.end_step(learning_rate=learning_rate, clip=clip)

    def finish(self, step: int, *, late: bool = False) -> None:
        """Measure the probe losses at the end of training.

        Args:
            step: How many steps were made.
            late: Whether draws without a step follow, so that gradients are measured as well.
        """
        if late:
            self._preconditioner = self._read_preconditioner(self._recorder.weights)
            self._measure(step)
        else:
            self._losses_alone(step)

    def state_dict(self) -> dict[str, Any]:
        """All that a run that goes on from between two steps needs, the recorder's state included."""
        return {
            "recorder": self._recorder.state_dict(),
            "schedule": self._schedule.state_dict(),
            "by_products": self.by_products.state_dict(),
            "observed": torch.tensor(sorted(self._observed), dtype=torch.int64),
            "recording": self._preconditioner is not None,
            "representations": {str(number): own for number, own in enumerate(self._representations)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave; the optimiser's own state has to be there already."""
        self._recorder.load_state_dict(state["recorder"])
        self._schedule.load_state_dict(state["schedule"])
        self.by_products.load_state_dict(state["by_products"], self._device)
        self._observed = set(state["observed"].tolist())
        self._preconditioner = self._read_preconditioner(self._recorder.weights) if state["recording"] else None
        found = state["representations"]
        self._representations = [found[str(number)].to(self._device) for number in range(len(found))]

    def unseen(self, rows: Sequence[int]) -> list[int]:
        """Rows without a signal so far."""
        return [row for row in rows if row not in self._observed]

    # ------------------------------------------------------------

    def _measure(self, step: int) -> NDArray[np.float64] | None:
        assert self._preconditioner is not None
        self._recorder.make_room()
        representations: list[Tensor] = []
        inner: list[Tensor] = []
        losses: list[list[float]] = []

        def measured() -> Iterator[list[ProbeGradients]]:
            # One by one: item gradients of all probes at once would be many times the model's LoRA layers.
            for number, probe in enumerate(self._probes, 1):
                found = [self._measured(side, number) for side in probe.sides]
                representations.append(found[0].last)
                inner.append(torch.cat([own.inner for own in found]).half())
                losses.append([float(own.gradients.losses.mean()) for own in found])
                sides = [own.gradients for own in found]
                del found
                yield sides
                del sides

        with out_of_memory_told(partial(fewer_directions, len(self._probes))):
            turned = self._recorder.set_directions(measured(), self._preconditioner)
        self._representations = representations
        self.by_products.inner_items.append(inner)
        self._note_losses(step, losses)
        return turned

    def _measured(self, side: Sequence[TokenizedSample], probe: int) -> "_MeasuredSide":
        weights = self._recorder.weights
        total = ProbeGradientSum(self._recorder.gradients, weights, len(side), items_of=is_aligned)

        def measure(numbers: list[int]) -> tuple[Tensor, Tensor]:
            batch = self._collated(side, numbers)
            caught: list[tuple[Tensor, Tensor]] = []
            total.add(numbers, partial(self._run_and_keep, batch, caught))
            return caught[0]

        self._plan()
        with undisturbed(self._model), also_in_evaluation(self._model), torch.enable_grad():
            ran = self._passes.run(_lengths(side), measure, partial(_name, probe))
        return _MeasuredSide(
            total.result(),
            last=in_order([(numbers, last) for numbers, (last, _) in ran]),
            inner=in_order([(numbers, inner) for numbers, (_, inner) in ran]),
        )

    def _losses_alone(self, step: int) -> float:
        def losses_of(side: Sequence[TokenizedSample], probe: int) -> Tensor:
            def run(numbers: list[int]) -> Tensor:
                return forward(self._model, self._collated(side, numbers)).losses

            return in_order(self._passes.run(_lengths(side), run, partial(_name, probe))).cpu()

        self._plan()
        with undisturbed(self._model), torch.no_grad():
            values = [
                [float(losses_of(side, number).mean()) for side in probe.sides]
                for number, probe in enumerate(self._probes, 1)
            ]
        self._note_losses(step, values)
        return float(self.by_products.probe_loss[-1][0])

    def _plan(self) -> None:
        if self._budget is not None:
            self._passes.plan(self._budget.tokens())

    def _note_losses(self, step: int, losses: Sequence[Sequence[float]]) -> None:
        directions = self._recorder.directions
        ordered = [losses[directions.probe[c]][directions.kind[c]] for c in range(directions.targets)]
        self.by_products.measured_at.append(step)
        self.by_products.probe_loss.append(np.array(ordered))

    def _run_and_keep(self, batch: TokenBatch, caught: list[tuple[Tensor, Tensor]]) -> Tensor:
        # An item has one answer, and is represented by all of it.
        outputs = forward(self._model, batch, turn=batch.answered.long())
        assert outputs.inner is not None
        caught.append((answer_representation(outputs.hidden, outputs.answered), outputs.inner))
        return outputs.losses

    def _collated(self, side: Sequence[TokenizedSample], numbers: Sequence[int]) -> TokenBatch:
        return collate([side[number] for number in numbers], pad=self._pad, device=self._device)


@dataclass(frozen=True)
class _MeasuredSide:
    """One side of a probe at a measurement."""

    gradients: ProbeGradients
    last: Tensor
    """[items, width]: `answer_representation` of the last hidden states."""
    inner: Tensor
    """[items, parts, width]: `Outputs.inner`."""


def _lengths(side: Sequence[TokenizedSample]) -> list[int]:
    return [len(sample.ids) for sample in side]


def _name(probe: int, item: int) -> str:
    return f"Item {item + 1} of probe {probe}"
