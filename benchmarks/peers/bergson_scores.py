"""Runs in the peers' environment: bergson's build and score over a trained adapter.

    python bergson_scores.py FOLDER

Two rankings, each from an index of the mean gradient of the unwanted answers and a pass over the samples: the cosine
(unit-normalised gradients) and the plain product, there of each answer's mean token loss, since that is what training
took the gradient of. No projection, float32, as its defaults are. Writes bergson-*.json: scores in the dataset's order,
wall and processor seconds of both commands, and those of a score over one sample alone, which is starting up.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from bergson.data import load_scores
from datasets import Dataset

TOKENS = 1024
"""A batch. Its default of 2,048 takes as long on a CPU and twice the memory."""

METHODS = {"cosine": ["--unit_normalize", "True"], "product": ["--loss_reduction", "mean"]}


def command(kind: str, run: Path, folder: Path, data: Path, options: list[str]) -> dict[str, float]:
    """Runs it; its wall and processor seconds."""
    model = json.loads((folder / "task.json").read_text())["model"]
    arguments = [kind, str(run), "--model", str(folder / "trained"), "--tokenizer", model, "--dataset", str(data)]
    arguments += ["--projection_dim", "0", "--token_batch_size", str(TOKENS), *options]
    shutil.rmtree(run, ignore_errors=True)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", "bergson", *arguments], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall": time.perf_counter() - started,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1]).resolve()
    task = json.loads((folder / "task.json").read_text())
    scratch = folder / "bergson"
    data = {"samples": task["samples"], "probe": task["probe"], "one": task["samples"][:1]}
    for name, samples in data.items():
        Dataset.from_list(samples).save_to_disk(str(scratch / f"{name}_data"))
    for method, options in METHODS.items():
        kept = folder / f"bergson-{method}.json"
        if kept.exists():
            continue
        query, scored = scratch / f"{method}_query", scratch / f"{method}_scores"
        build = command("build", query, folder, scratch / "probe_data", ["--aggregation", "mean", *options])
        asked = ["--query_path", str(query), *options]
        score = command("score", scored, folder, scratch / "samples_data", asked)
        start = command("score", scratch / f"{method}_one", folder, scratch / "one_data", asked)
        scores = np.asarray(load_scores(scored)[:]).reshape(len(task["samples"]))
        document = {"scores": scores.tolist(), "seconds": {"build": build, "score": score, "start": start}}
        kept.write_text(json.dumps(document))


if __name__ == "__main__":
    main()
