"""Runs in the peers' environment, from the repository's root: dattri-llm's callback inside a training run.

    python -m benchmarks.peers.dattri_scores FOLDER whole|turns

Model, batches, learning rates and clipping are those of the plain run. DataSelectionCallback scores every batch
against answers of the probe and drops nothing; a sample's score is the sum over its draws. `whole`: all of the probe's
unwanted answers at every step. `turns`: one answer a step, all of them in one pass once around (its
val_targets_per_pass). Over two such rounds, the first step left out, an uninstrumented twin takes the same steps in
turn, for the ratio of times.

Writes dattri-whole.jsonl or dattri-turns.jsonl, one line a step.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from dattri_llm import REGISTER_ALL, DataSelectionCallback, HookManager, HookManagerConfig
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from worker.training.batches import TokenBatch, collate, forward
from worker.training.tokenization import TokenizedSample

Tokens = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A batch as the package can join it with others."""


class Twin:
    """A model in training."""

    def __init__(self, task: dict[str, Any], folder: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained(
            task["model"], dtype=getattr(torch, task["dtype"]), attn_implementation=task["attention"]
        )
        self.model: Any = PeftModel.from_pretrained(base, str(folder / "untrained"), is_trainable=True).train()
        self._weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, weight_decay=task["weight_decay"])
        self._max_grad_norm = task["max_grad_norm"]

    def step(self, batch: TokenBatch, rate: float) -> dict[str, float]:
        """One optimiser step; its loss, wall and processor seconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = forward(self.model, batch).losses.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item(), "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def instrument(model: nn.Module, probe: list[Tokens], targets: int) -> tuple[DataSelectionCallback, HookManager]:
    """dattri-llm's callback on all LoRA layers, dropping nothing."""

    def loss(model: nn.Module, tokens: Tokens) -> torch.Tensor:
        return forward(model, TokenBatch(*tokens)).losses.mean()

    callback = DataSelectionCallback(
        model,
        target="val_loader",
        val_loader=probe,
        val_loss_fn=loss,
        val_targets_per_pass=targets,
        selection_kwargs={"threshold": float("-inf"), "threshold_mode": "hard"},
    )
    # "auto" forms a sample's gradient in the hook where that is smaller than its factors, as it is with LoRA.
    config = HookManagerConfig(linear_io=REGISTER_ALL, capture_style="auto")
    return callback, HookManager(model, config=config, callbacks=[callback])


def run(task: dict[str, Any], folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Trains; rows, scores and seconds of every step."""

    def batch_of(samples: list[dict[str, list[int]]]) -> TokenBatch:
        encoded = [TokenizedSample(tuple(sample["input_ids"]), tuple(sample["labels"])) for sample in samples]
        return collate(encoded, pad=task["pad"], device=torch.device("cpu"))

    watched, plain = Twin(task, folder), Twin(task, folder)
    whole = batch_of(task["probe"])
    answers = len(task["probe"])
    tokens = (whole.ids, whole.labels, whole.attention)
    if kind == "whole":
        callback, manager = instrument(watched.model, [tokens], 1)
    else:
        single = [(ids[None], labels[None], attention[None]) for ids, labels, attention in zip(*tokens, strict=True)]
        callback, manager = instrument(watched.model, single, answers)
    for number, step in enumerate(task["steps"]):
        batch = batch_of([task["samples"][row] for row in step["rows"]])
        with manager.collect():
            took = watched.step(batch, step["rate"])
        line = {"step": number, "rows": step["rows"], "scores": callback.last_scores.tolist(), "instrumented": took}
        if number <= 2 * answers:
            line["plain"] = plain.step(batch, step["rate"])
        yield line


def main() -> None:
    """Command line."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    task = json.loads((folder / "task.json").read_text())
    warnings.filterwarnings("ignore", message="val_targets_per_pass")
    kept = folder / f"dattri-{kind}.jsonl"
    with kept.with_suffix(".part").open("w") as file:
        for line in run(task, folder, kind):
            print(json.dumps(line), file=file, flush=True)
    kept.with_suffix(".part").rename(kept)


if __name__ == "__main__":
    main()
