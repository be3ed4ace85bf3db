"""Detection quality on labelled sets: average precision, power and realised false discoveries, by seed and pooled.

    python -m benchmarks.detection DATA_FOLDER [SET ...] --seeds 3 --out FOLDER

Each set is a folder with dataset.jsonl and probe.jsonl (all that the audit is given) and truth.csv (row, label, kind:
for scoring only). Every seed is one training run of the child with the demo model and default settings; its recording
is kept in the out folder and not made again. Writes detection.json and prints a table: each seed as an audit of its
own and, with several, all of them as one.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.protocol import (
    BASELINES_FILE,
    EVENT,
    RECORDING_FILE,
    RECORDINGS_FOLDER,
    ROWS_FILE,
    SCORES_FILE,
    SPEC_FILE,
    SUMMARY_FILE,
    FailedEvent,
    ProgressEvent,
)
from service.contract.spec import (
    COMBINE,
    ModelSource,
    ModelSpec,
    Probe,
    ProbeItem,
    StepSpec,
    TrainingConfig,
    train_step_key,
)
from service.datasets.parsing.records import read_record, recognise
from service.settings import get_settings
from service.store.seed import REGISTERED_MODELS

DEMO_MODEL = next(
    ModelSpec(source=ModelSource.BUNDLED, location=model["location"], revision=model["revision"])
    for model in REGISTERED_MODELS
    if model["source"] == ModelSource.BUNDLED
)


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Mean of the precision at each positive, by falling score; ties keep the dataset's order."""
    hits = positive[np.argsort(-score, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits == 1].mean())


def read_probe(source: Path) -> tuple[ProbeItem, ...]:
    """The set's probe."""
    return tuple(
        ProbeItem(**{key: value for key, value in json.loads(line).items() if key in ProbeItem.model_fields})
        for line in _lines(source / "probe.jsonl")
    )


def read_rows(source: Path) -> list[dict[str, Any]]:
    """The set's samples in the columns of rows.parquet that a child reads."""
    rows = []
    for number, line in enumerate(_lines(source / "dataset.jsonl")):
        record = json.loads(line)
        kind = recognise(record)
        if kind is None:
            raise SystemExit(f"{source / 'dataset.jsonl'}: record {number} has no known format")
        sample = read_record(record, kind)
        rows.append({"row": number, "messages": sample.messages, "extra": json.dumps(sample.extra)})
    return rows


def spec_of(source: Path, step_key: str, seeds: Sequence[int], q: float) -> StepSpec:
    """The step as a supervisor would describe it, with default settings."""
    return StepSpec(
        audit_id=f"benchmark_{source.name}",
        attempt=1,
        step_key=step_key,
        model=DEMO_MODEL,
        training=TrainingConfig(seed=seeds[0]),
        seeds=tuple(seeds),
        probes=(Probe(name=source.name, items=read_probe(source)),),
        q=q,
    )


def stage(folder: Path, source: Path, spec: StepSpec) -> None:
    """Writes what a supervisor would give the child."""
    pq.write_table(pa.Table.from_pylist(read_rows(source)), folder / ROWS_FILE)
    (folder / SPEC_FILE).write_text(spec.model_dump_json())


def run_child(folder: Path, name: str) -> None:
    """One step in the folder; its progress in training is printed."""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "worker.child.run", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "FINETOOTH_CACHE_DIR": str(get_settings().cache_dir)},
    )
    assert child.stdout is not None
    for line in child.stdout:
        event = EVENT.validate_json(line)
        if isinstance(event, ProgressEvent) and event.stage.value == "training" and event.done % 20 == 0:
            print(f"  {name}: step {event.done} of {event.total}", flush=True)
        if isinstance(event, FailedEvent):
            raise SystemExit(f"{name}: {event.failure.code}: {event.failure.message}")
    if child.wait() != 0:
        raise SystemExit(f"{name}: the child ended with {child.returncode}")


def train(source: Path, seed: int, kept: Path, q: float) -> None:
    """Trains with `seed` and keeps the recording."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stage(folder, source, spec_of(source, train_step_key(seed), [seed], q))
        started = time.monotonic()
        run_child(folder, f"{source.name}, seed {seed}")
        print(f"  {source.name}, seed {seed}: {(time.monotonic() - started) / 60:.1f} min", flush=True)
        shutil.copy(folder / RECORDING_FILE, kept.with_suffix(".part"))
        kept.with_suffix(".part").rename(kept)


def combine(source: Path, recordings: dict[int, Path], q: float) -> dict[str, object]:
    """The answer over the seeds: scores in the dataset's order and the summary."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stage(folder, source, spec_of(source, COMBINE, list(recordings), q))
        (folder / RECORDINGS_FOLDER).mkdir()
        for seed, path in recordings.items():
            shutil.copy(path, folder / RECORDINGS_FOLDER / f"{seed}.npz")
        run_child(folder, source.name)
        scores = [row for row in pq.read_table(folder / SCORES_FILE).to_pylist() if row["probe_no"] == 0]
        scores.sort(key=lambda row: row["row"])
        baselines = pq.read_table(folder / BASELINES_FILE).to_pydict()
        summary = json.loads((folder / SUMMARY_FILE).read_text())
        return {"scores": scores, "baselines": baselines, "summary": summary}


def measure(source: Path, result: dict) -> dict[str, object]:
    """Figures of one audit against the truth."""
    with (source / "truth.csv").open() as file:
        kinds = np.array([row["kind"] for row in csv.DictReader(file)])

    def column(name: str) -> np.ndarray:
        return np.array([-np.inf if row[name] is None else row[name] for row in result["scores"]])

    z, mu, flagged = column("z"), column("mu"), column("flagged").astype(bool)
    poison = (kinds == "poison").astype(int)
    found = int(flagged[poison == 1].sum())
    best = np.argsort(column("rank"), kind="stable")[: len(z) // 5]
    summary, probe = result["summary"], result["summary"]["probes"][0]
    baselines = {
        name: average_precision(poison, np.array([-np.inf if v is None else v for v in values], dtype=float))
        for name, values in result["baselines"].items()
        if name != "row" and poison.any()
    }
    return {
        "set": source.name,
        "rows": len(kinds),
        "poisoned": int(poison.sum()),
        "ap": average_precision(poison, -column("rank")) if poison.any() else None,
        "ap_z": average_precision(poison, z) if poison.any() else None,
        "ap_mu": average_precision(poison, mu) if poison.any() else None,
        "ap_baselines": baselines,
        "recall_at_20_percent": float(poison[best].sum() / poison.sum()) if poison.any() else None,
        "flagged": int(flagged.sum()),
        "found": found,
        "false": int(flagged.sum()) - found,
        "false_hard_negatives": int(flagged[kinds == "hard_negative"].sum()),
        "false_by_side": {
            str(side): sum(
                bool(row["flagged"]) and row["side"] == side and kind != "poison"
                for row, kind in zip(result["scores"], kinds, strict=True)
            )
            for side in ("toward", "against", "both", None)
        },
        "degrees_of_freedom": probe["null"]["degrees_of_freedom"],
        "placebo_flags": probe["placebo"] and probe["placebo"]["flagged_per_direction"],
        "sensitivity": probe["sensitivity"] and probe["sensitivity"]["points"],
        "drift": [probe["drift"]["slope"], probe["drift"]["correlation"]],
        "consistency": summary["consistency"],
        "refreshes": summary["refreshes"],
        "train_loss": [summary["train_loss_first"], summary["train_loss_last"]],
        "probe_loss": [probe["loss_first"], probe["loss_last"]],
        "warnings": [warning["code"] for warning in summary["warnings"]],
    }


def table(figures: list[dict]) -> Iterator[str]:
    """Markdown; AP is that of the ranking users see, the best baseline a score of the same run without error rates."""
    yield (
        "| set | seeds | samples | poisoned | AP | AP of z | best baseline | power | flagged | false (hard neg.) | "
        "recall in top 20 % |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for f in figures:
        ap, ap_z, recall = (
            "-" if f[key] is None else f"{f[key]:.3f}" for key in ("ap", "ap_z", "recall_at_20_percent")
        )
        baseline = max(((value, name) for name, value in f["ap_baselines"].items()), default=None)
        best = "-" if baseline is None else f"{baseline[0]:.3f} ({baseline[1]})"
        power = f"{f['found'] / f['poisoned']:.2f}" if f["poisoned"] else "-"
        yield (
            f"| {f['set']} | {f['seeds']} | {f['rows']} | {f['poisoned']} | {ap} | {ap_z} | {best} | {power} | "
            f"{f['flagged']} | {f['false']} ({f['false_hard_negatives']}) | {recall} |"
        )
    for kind in ("one seed", "all seeds"):
        chosen = [f for f in figures if f["poisoned"] and (("+" in f["seeds"]) == (kind == "all seeds"))]
        flagged, false = (sum(f[key] for f in chosen) for key in ("flagged", "false"))
        if flagged:
            mean = np.mean([f["false"] / max(f["flagged"], 1) for f in chosen])
            yield f"\nFalse among the flagged, {kind}: {false} of {flagged}; mean share over audits {100 * mean:.1f} %."


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*", help="folders of the data; all of them if none is named")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--q", type=float, default=0.05)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = []
    for name in arguments.sets or sorted(path.parent.name for path in arguments.data.glob("*/truth.csv")):
        source = arguments.data / name
        recordings = {seed: arguments.out / f"recording-{name}-{seed}.npz" for seed in range(arguments.seeds)}
        for seed, kept in recordings.items():
            if not kept.exists():
                train(source, seed, kept, arguments.q)
        asked = [{seed: path} for seed, path in recordings.items()] + ([recordings] if len(recordings) > 1 else [])
        for chosen in asked:
            figures.append(
                {**measure(source, combine(source, chosen, arguments.q)), "seeds": "+".join(map(str, chosen))}
            )
        print("\n".join(table(figures)), flush=True)
    document = {"machine": platform.processor() or platform.machine(), "figures": figures}
    (arguments.out / "detection.json").write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
