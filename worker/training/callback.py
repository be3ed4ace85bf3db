"""Records a run of the Hugging Face Trainer, which trains as it would without it."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.preconditioner import momentum_of
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import Directions, ProbeShape, plan
from worker.influence.momentum import Momentum
from worker.training.measurement import EncodedProbe, Measurement
from worker.training.refresh_schedule import warm_up_of
from worker.training.tokenization import IGNORED

PAD = 0
"""Fills up probe items in one batch; any id serves, since padding has neither attention nor loss."""


class InfluenceCallback(TrainerCallback):
    """Records effect and alignment signals of every draw of a `transformers.Trainer` on a PEFT LoRA causal model.

        callback = InfluenceCallback([EncodedProbe(unwanted)])
        Trainer(model, TrainingArguments(..., remove_unused_columns=False), callbacks=[callback], ...).train()
        observations, steps = callback.recorder.result()

    Every sample of the dataset holds its number in `row_column`, which the collator passes on as a tensor; the model
    never sees it. Gradients are those of each sample's own mean token loss, although the Trainer takes the mean over
    all tokens of a step. Weights end bit-equal to those of a run without the callback. Draws of the warm-up steps
    have no signal, and unlike in our own loop samples drawn only there are not scored at the end.

    Raises ValueError when training begins with what it cannot undo: several processes or devices, DeepSpeed, fp16
    loss scaling, label smoothing, a compiled model; an optimiser or a trainable layer that the recorder does not know.
    """

    recorder: Recorder
    momentum: Momentum
    measurement: Measurement

    def __init__(
        self, probes: Sequence[EncodedProbe], *, row_column: str = "row", directions: Directions | None = None
    ) -> None:
        """directions: of `plan`, where probe items are held out in folds; by default none are."""
        self._probes, self._column = probes, row_column
        self._directions = directions or plan(
            [ProbeShape(np.zeros(len(p.unwanted), dtype=np.int64), bool(p.reference)) for p in probes], seed=0
        )
        self._handles: list[Any] = []
        self._open: ExitStack | None = None
        self._draws = 0
        self._norm: Tensor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the hooks on the model.

        Args:
            args: The Trainer's arguments.
            state: Says how many steps there are.
            control: Is not used.
            **kwargs: What the Trainer works with, model and optimizer among it.
        """
        _check(args)
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self._remove()
        layers = lora_layers(model)
        self.momentum = momentum_of(optimizer)
        self.recorder = Recorder(layers, self._directions)
        items = [sample for probe in self._probes for side in probe.sides for sample in side]
        draws = args.train_batch_size * args.gradient_accumulation_steps * state.max_steps
        self.measurement = Measurement(
            model,
            self.recorder,
            self._probes,
            optimizer=optimizer,
            pad=PAD,
            device=args.device,
            warm_up=warm_up_of(state.max_steps),
            total=state.max_steps,
            # How long the samples are is not known before they are drawn: as long as the probe's, on average.
            planned_tokens=draws * sum(len(sample.ids) for sample in items) // len(items),
        )
        # The last lora_B: its gradient is zero only where the whole batch has none.
        self._witness = list(layers.values())[-1].weight
        self._handles = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True, prepend=True),
            self._witness.register_post_accumulate_grad_hook(self._note_norm),
        ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the probes if it is time.

        Args:
            args: Is not used.
            state: Says which step begins.
            control: Is not used.
            **kwargs: Is not used.
        """
        self._draws = 0
        self.measurement.begin_step(state.global_step)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close a micro-batch that is not the step's last.

        Args:
            args: Is not used.
            state: Is not used.
            control: Is not used.
            **kwargs: Is not used.
        """
        self._close()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the step's last micro-batch and the step, after clipping and before the learning rate moves on.

        Args:
            args: Is not used.
            state: Is not used.
            control: Is not used.
            **kwargs: What the Trainer works with, the optimizer among it.

        Raises:
            ValueError: The optimiser's parameter groups have different learning rates.
        """
        self._close()
        rates = {float(group["lr"]) for group in kwargs["optimizer"].param_groups}
        if len(rates) > 1:
            raise ValueError("the optimizer's parameter groups have different learning rates; give them the same")
        self.measurement.end_step(rates.pop(), self._clipping())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the probes a last time and take the hooks off the model.

        Args:
            args: Is not used.
            state: Says how many steps were made.
            control: Is not used.
            **kwargs: Is not used.
        """
        self.measurement.finish(state.global_step)
        self._remove()

    # ------------------------------------------------------------

    def _before_forward(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rows = kwargs.pop(self._column, None)
        # The probes and the Trainer's evaluation run in evaluation mode.
        if model.training and torch.is_grad_enabled():
            self._observe(rows, kwargs)
        return args, kwargs

    def _observe(self, rows: Tensor | None, inputs: dict[str, Any]) -> None:
        labels, total = inputs.get("labels"), inputs.get("num_items_in_batch")
        if rows is None:
            raise ValueError(
                f"a batch has no {self._column!r}; number the samples in a column of this name, and keep it with "
                "remove_unused_columns=False and a collator that passes it on"
            )
        if labels is None or total is None:
            raise ValueError(
                "the loss is not the model's own mean over the step's tokens, so it cannot be told whose share is "
                "what; train on `labels`, without a loss function of your own"
            )
        if rows.shape != labels.shape[:1]:
            raise ValueError(f"{len(labels)} sequences came with {tuple(rows.shape)} row numbers; do not pack samples")
        if self._open is not None:
            raise RuntimeError("the model ran twice in one training step; only one pass can be recorded")
        targets = inputs["shift_labels"] if inputs.get("shift_labels") is not None else labels[:, 1:]
        tokens = (targets != IGNORED).sum(1).clamp_min(1)
        self._draws += len(rows)
        with ExitStack() as stack:
            # The recorder multiplies by the draws, as for a mean over samples; here the mean is over tokens.
            stack.enter_context(self.recorder.gradients.rescaled(total / tokens / self._draws))
            stack.enter_context(self.measurement.batch(rows.tolist(), self._draws))
            self._open = stack.pop_all()

    def _close(self) -> None:
        if self._open is not None:
            stack, self._open = self._open, None
            stack.close()

    def _note_norm(self, weight: Tensor) -> None:
        assert weight.grad is not None
        self._norm = weight.grad.norm()

    def _clipping(self) -> float:
        """The factor that the Trainer clipped with: it is one for all weights, and the callback is not told it."""
        if self._norm is None or self._witness.grad is None:
            return 1.0
        before, after = torch.stack([self._norm, self._witness.grad.norm()]).tolist()
        return after / before if before > 0 else 1.0

    def _remove(self) -> None:
        if self._handles:
            self.recorder.remove()
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _check(args: Any) -> None:
    problems = {
        "several processes or devices": args.world_size > 1 or args.n_gpu > 1,
        "DeepSpeed": args.deepspeed,
        "fp16, whose loss scaling it cannot see: use bf16": args.fp16,
        "label smoothing": args.label_smoothing_factor,
        "a compiled model": args.torch_compile,
    }
    found = [name for name, present in problems.items() if present]
    if found:
        raise ValueError(f"InfluenceCallback does not record with {', '.join(found)}")
