"""Finetooth, bergson and dattri-llm on the same model, data and steps: what each costs and how well it ranks.

    python -m benchmarks.peers SET_FOLDER --python PEERS_PYTHON --out FOLDER [--recording FILE] [--seed 0] [--samples N]

PEERS_PYTHON is the interpreter of an environment made as README.md beside this file says. SET_FOLDER as in
benchmarks.detection. Every part is kept in the out folder and not made again. Writes peers.json and peers.md.

Time: processor seconds of one thread, for all alike, so that a shared machine says the same as an idle one. What works
in the run takes turns with its own uninstrumented loop; what works afterwards is set against the plain run, loading of
the model included and, in brackets, without start-up.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import detection, overhead
from benchmarks.peers.prepare import TASK

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bergson", "dattri-llm", "torch", "transformers", "peft")


def first_rows(source: Path, count: int, out: Path) -> Path:
    """The set's first rows as a set of their own."""
    folder = out / f"{source.name}-first-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("dataset.jsonl", count), ("truth.csv", count + 1), ("probe.jsonl", None)):
        with (source / name).open(encoding="utf-8") as file:
            (folder / name).write_text("".join(itertools.islice(file, lines)), encoding="utf-8")
    return folder


def run(arguments: list[str], log: Path) -> None:
    """A command of its own on one thread; raises SystemExit naming its log where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        code = subprocess.run(arguments, cwd=ROOT, env=environment, stdout=file, stderr=file).returncode
    if code:
        raise SystemExit(f"{' '.join(arguments)} ended with {code}; see {log}")


def ours(source: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Average precisions of an audit with this seed, and the ratio of instrumented to plain steps."""
    recording = options.recording or out / f"recording-{source.name}-{options.seed}.npz"
    if not recording.exists():
        detection.train(source, options.seed, recording, 0.05)
    figures = detection.measure(source, detection.combine(source, {options.seed: recording}, 0.05))
    asked = {
        "set": source,
        "samples": figures["rows"],
        "steps": options.steps,
        "probes": [1],
        "max_length": 512,
        "fill": False,
        "micro_batch_size": None,
        "shape": "demo",
    }
    torch.set_num_threads(1)
    cost = overhead.time_ratios(overhead.Setting(argparse.Namespace(**asked)))
    return {"figures": figures, "cost": cost["1_probes"], "steps": options.steps}


def kept(path: Path, make: Any) -> dict[str, Any]:
    """The JSON file's content, made first where it is not there."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1))
    return dict(json.loads(path.read_text()))


def rows_of(folder: Path, poison: np.ndarray) -> Iterator[dict[str, Any]]:
    """The table's rows."""
    own = json.loads((folder / "ours.json").read_text())
    extra = own["cost"]["ratio"] - 1
    figures = own["figures"]
    yield {"method": "Finetooth, z", "when": "in the run", "extra": extra, "ap": figures["ap"]}
    for name in ("representation_similarity", "tracin"):
        label = f"Finetooth's baseline {name.replace('_', ' ')}"
        yield {"method": label, "when": "in the same run", "extra": None, "ap": figures["ap_baselines"][name]}
    for kind, label in (("whole", "all probe answers every step"), ("turns", "one probe answer a step")):
        lines = [json.loads(line) for line in (folder / f"dattri-{kind}.jsonl").read_text().splitlines()]
        scores = np.zeros(len(poison))
        for line in lines:
            np.add.at(scores, line["rows"], line["scores"])
        # The first step holds what the libraries do once.
        timed = [line for line in lines if "plain" in line and line["step"] > 0]
        ratio = sum(line["instrumented"]["cpu"] for line in timed) / sum(line["plain"]["cpu"] for line in timed)
        ap = detection.average_precision(poison, scores)
        yield {"method": f"dattri-llm, {label}", "when": "in the run", "extra": ratio - 1, "ap": ap}
    plain = sum(cpu for _, cpu in json.loads((folder / TASK).read_text())["seconds"])
    for kind in ("cosine", "product"):
        found = json.loads((folder / f"bergson-{kind}.json").read_text())
        seconds = {name: value["cpu"] for name, value in found["seconds"].items()}
        both = seconds["build"] + seconds["score"]
        yield {
            "method": f"bergson, {kind}",
            "when": "after it",
            "extra": both / plain,
            "extra_without_start": (both - 2 * seconds["start"]) / plain,
            "ap": detection.average_precision(poison, np.array(found["scores"])),
        }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown."""
    yield "| method | works | extra time, share of plain training | AP |"
    yield "|---|---|---|---|"
    for row in rows:
        extra = "none of its own" if row["extra"] is None else f"{100 * row['extra']:.0f} %"
        if "extra_without_start" in row:
            extra += f" ({100 * row['extra_without_start']:.0f} %)"
        yield f"| {row['method']} | {row['when']} | {extra} | {row['ap']:.3f} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--python", required=True, help="interpreter of the peers' environment")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/peers"))
    parser.add_argument("--recording", type=Path, help="of benchmarks.detection, with the same seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, help="the first so many rows alone")
    parser.add_argument("--steps", type=int, default=60, help="steps over which our own cost is measured")
    options = parser.parse_args()
    source = first_rows(options.set, options.samples, options.out) if options.samples else options.set
    folder = (options.out / f"{source.name}-{options.seed}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent

    if not (folder / TASK).exists():
        prepare = [sys.executable, "-m", "benchmarks.peers.prepare", str(source)]
        run([*prepare, "--out", str(folder), "--seed", str(options.seed)], folder / "prepare.log")
    if not all((folder / f"bergson-{kind}.json").exists() for kind in ("cosine", "product")):
        run([options.python, str(here / "bergson_scores.py"), str(folder)], folder / "bergson.log")
    for kind in ("whole", "turns"):
        if not (folder / f"dattri-{kind}.jsonl").exists():
            dattri = [options.python, "-m", "benchmarks.peers.dattri_scores", str(folder), kind]
            run(dattri, folder / f"dattri-{kind}.log")
    kept(folder / "ours.json", lambda: ours(source, folder, options))

    with (source / "truth.csv").open() as file:
        poison = np.array([row["kind"] == "poison" for row in csv.DictReader(file)], dtype=int)
    rows = list(rows_of(folder, poison))
    asked = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {PACKAGES!r}}}))"
    versions = json.loads(subprocess.check_output([options.python, "-c", asked]))
    document = {"set": source.name, "machine": platform.processor() or platform.machine(), "peers": versions}
    (folder / "peers.json").write_text(json.dumps({**document, "threads": 1, "rows": rows}, indent=1))
    text = "\n".join(table(rows))
    (folder / "peers.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
