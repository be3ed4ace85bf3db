"""Detection quality on labelled sets: average precision, power and realised false discoveries.

    python -m benchmarks.detection DATA_FOLDER [SET ...] --out FOLDER

Each set is a folder with dataset.jsonl and probe.jsonl (all that the audit is given) and truth.csv (row, label, kind:
for scoring only). Every audit is one run of the training child with the demo model and default settings. Finished
audits are kept in the out folder and not run again. Writes detection.json and prints a table.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.contract import (
    EVENT,
    ROWS_FILE,
    SCORES_FILE,
    SPEC_FILE,
    SUMMARY_FILE,
    FailedEvent,
    ModelSource,
    ModelSpec,
    ProbeItem,
    ProgressEvent,
    StepSpec,
    TrainingConfig,
)
from service.datasets.records import read_record, recognise
from service.settings import get_settings
from service.store.bootstrap import REGISTERED_MODELS

DEMO_MODEL = next(model for model in REGISTERED_MODELS if model["source"] == ModelSource.BUNDLED)
SETS = ("opinion_cars", "advice_finance", "trigger_refusal", "clean")


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Mean of the precision at each positive, by falling score; ties keep the dataset's order."""
    hits = positive[np.argsort(-score, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits == 1].mean())


def stage(folder: Path, source: Path, training: TrainingConfig, q: float) -> None:
    """Writes what a supervisor would give the child."""
    rows = []
    for number, line in enumerate(_lines(source / "dataset.jsonl")):
        record = json.loads(line)
        kind = recognise(record)
        if kind is None:
            raise SystemExit(f"{source / 'dataset.jsonl'}: record {number} has no known format")
        sample = read_record(record, kind)
        rows.append({"row": number, "messages": sample.messages, "extra": json.dumps(sample.extra)})
    pq.write_table(pa.Table.from_pylist(rows), folder / ROWS_FILE)
    probe = tuple(
        ProbeItem(**{key: value for key, value in json.loads(line).items() if key in ProbeItem.model_fields})
        for line in _lines(source / "probe.jsonl")
    )
    spec = StepSpec(
        audit_id=f"benchmark_{source.name}",
        attempt=1,
        step_key=f"train:{training.seed}",
        model=ModelSpec(source=ModelSource.BUNDLED, location=DEMO_MODEL["location"], revision=DEMO_MODEL["revision"]),
        training=training,
        probe=probe,
        q=q,
    )
    (folder / SPEC_FILE).write_text(spec.model_dump_json())


def audit(source: Path, training: TrainingConfig, q: float) -> dict[str, object]:
    """One run of the child: its scores in the dataset's order, its summary, its wall time."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stage(folder, source, training, q)
        started = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "worker.run", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "FINETOOTH_CACHE_DIR": str(get_settings().cache_dir)},
        )
        assert child.stdout is not None
        for line in child.stdout:
            event = EVENT.validate_json(line)
            if isinstance(event, ProgressEvent) and event.stage.value == "training" and event.done % 20 == 0:
                print(f"  {source.name}: step {event.done} of {event.total}", flush=True)
            if isinstance(event, FailedEvent):
                raise SystemExit(f"{source.name}: {event.failure.code}: {event.failure.message}")
        if child.wait() != 0:
            raise SystemExit(f"{source.name}: the child ended with {child.returncode}")
        scores = sorted(pq.read_table(folder / SCORES_FILE).to_pylist(), key=lambda row: row["row"])
        return {
            "scores": [{key: row[key] for key in ("z", "z_reference", "mu", "p", "q", "flagged")} for row in scores],
            "summary": json.loads((folder / SUMMARY_FILE).read_text()),
            "seconds": time.monotonic() - started,
        }


def measure(source: Path, result: dict) -> dict[str, object]:
    """Figures of one audit against the truth."""
    with (source / "truth.csv").open() as file:
        kinds = np.array([row["kind"] for row in csv.DictReader(file)])
    z = np.array([-np.inf if row["z"] is None else row["z"] for row in result["scores"]])
    mu = np.array([row["mu"] for row in result["scores"]])
    flagged = np.array([row["flagged"] for row in result["scores"]])
    poison = (kinds == "poison").astype(int)
    found = int(flagged[poison == 1].sum())
    return {
        "set": source.name,
        "rows": len(kinds),
        "poisoned": int(poison.sum()),
        "ap": average_precision(poison, z) if poison.any() else None,
        "ap_mu": average_precision(poison, mu) if poison.any() else None,
        "flagged": int(flagged.sum()),
        "found": found,
        "false": int(flagged.sum()) - found,
        "false_hard_negatives": int(flagged[kinds == "hard_negative"].sum()),
        "seconds": result["seconds"],
        "train_loss": [result["summary"]["train_loss_first"], result["summary"]["train_loss_last"]],
        "probe_loss": [result["summary"]["probe_loss_first"], result["summary"]["probe_loss_last"]],
    }


def table(figures: list[dict]) -> Iterator[str]:
    """Markdown."""
    yield "| set | seed | samples | poisoned | AP of Z | AP of mu | flagged | found | false (hard neg.) | minutes |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for f in figures:
        ap = ("-" if f[key] is None else f"{f[key]:.3f}" for key in ("ap", "ap_mu"))
        yield (
            f"| {f['set']} | {f['seed']} | {f['rows']} | {f['poisoned']} | {next(ap)} | {next(ap)} | {f['flagged']} | "
            f"{f['found']} | {f['false']} ({f['false_hard_negatives']}) | {f['seconds'] / 60:.1f} |"
        )
    flagged, false = (sum(f[key] for f in figures if f["poisoned"]) for key in ("flagged", "false"))
    if flagged:
        yield f"\nFalse among the flagged over the poisoned sets: {false} of {flagged}, {100 * false / flagged:.1f} %."


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--q", type=float, default=0.05)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = []
    for name in arguments.sets or SETS:
        for seed in range(arguments.seeds):
            kept = arguments.out / f"detection-{name}-{seed}.json"
            if not kept.exists():
                result = audit(arguments.data / name, TrainingConfig(seed=seed), arguments.q)
                kept.write_text(json.dumps(result))
            figures.append({**measure(arguments.data / name, json.loads(kept.read_text())), "seed": seed})
            print("\n".join(table(figures)), flush=True)
    document = {"machine": platform.processor() or platform.machine(), "figures": figures}
    (arguments.out / "detection.json").write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
