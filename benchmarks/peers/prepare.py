"""Trains plainly and leaves what every method is given: adapters, tokens, and the steps that were taken.

    python -m benchmarks.peers.prepare SET_FOLDER --out FOLDER [--seed 0]

Plain files alone, so that scripts in another environment read them without ours.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.detection import DEMO_MODEL, read_probe, read_rows
from service.contract.protocol import MetricEvent
from service.contract.spec import Probe, TrainingConfig
from service.settings import get_settings
from worker.child.train import encoded_probe
from worker.training.batches import batches
from worker.training.bundled import bundled_model
from worker.training.loop import train
from worker.training.lora import with_lora
from worker.training.models import load_model
from worker.training.tokenization import TokenizedSample, encode

TASK = "task.json"
"""Model, samples, probe and steps; written last."""


def prepare(source: Path, out: Path, *, seed: int) -> None:
    """Writes the untrained adapter, the trained one and task.json."""
    config = TrainingConfig(seed=seed)
    cache = Path(get_settings().cache_dir) / "models"
    device = torch.device("cpu")
    base, tokenizer = load_model(DEMO_MODEL, config, device, cache=cache)
    model = with_lora(base, config)
    encoded = [encode(row["messages"], tokenizer, max_length=config.max_length) for row in read_rows(source)]
    probe = encoded_probe(Probe(name="probe", items=read_probe(source)), tokenizer, config)
    model.save_pretrained(str(out / "untrained"))

    clock = [(time.perf_counter(), time.process_time())]
    rates: list[float] = []

    def on_step(metric: MetricEvent, total: int) -> None:
        clock.append((time.perf_counter(), time.process_time()))
        rates.append(metric.learning_rate)
        print(f"step {metric.step} of {total}, loss {metric.loss:.3f}", flush=True)

    run = train(model, encoded, config, pad=tokenizer.pad_token_id, on_step=on_step)
    model.save_pretrained(str(out / "trained"))

    drawn = batches([row for row, sample in enumerate(encoded) if sample.has_loss], config)
    task: dict[str, Any] = {
        "set": source.name,
        "seed": seed,
        "model": str(bundled_model(DEMO_MODEL, cache)),
        "dtype": str(next(base.parameters()).dtype).removeprefix("torch."),
        "attention": base.config._attn_implementation,
        "threads": torch.get_num_threads(),
        "pad": tokenizer.pad_token_id,
        "max_grad_norm": config.max_grad_norm,
        "weight_decay": config.weight_decay,
        "samples": [_plain(sample) for sample in encoded],
        "probe": [_plain(sample) for sample in probe.unwanted],
        "steps": [{"rows": rows, "rate": rate} for rows, rate in zip(drawn, rates, strict=True)],
        "losses": run.losses,
        "tokens": run.tokens,
        "seconds": [[end - start for start, end in zip(*pair, strict=True)] for pair in itertools.pairwise(clock)],
        "seconds_are": "wall and processor seconds of each step",
    }
    (out / TASK).write_text(json.dumps(task))


def _plain(sample: TokenizedSample) -> dict[str, list[int]]:
    return {"input_ids": list(sample.ids), "labels": list(sample.labels)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(options.set, options.out, seed=options.seed)


if __name__ == "__main__":
    main()
