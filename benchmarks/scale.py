"""What a training step and a combining step take of memory and time with many samples.

    python -m benchmarks.scale [--rows 1000000] [--parts train combine] [--out FOLDER]

Samples are synthetic and short, drawn twice each; the model has one layer of 32 columns, so that nearly all of the
memory is for data. Each step is a child process. Its memory is read from /proc every half second: what it has in all
(RSS), and what of that is not of a file and cannot be dropped (anonymous). Writes scale.json and prints the table.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.protocol import RECORDINGS_FOLDER, ROWS_FILE, SUMMARY_FILE
from service.contract.spec import COMBINE
from tests.support.recordings import recording
from tests.support.steps import respecify, stage
from tests.support.tiny_model import build_tiny_model

PARTS = ("train", "combine")

ROWS_AT_ONCE = 20_000

WORDS = 20_000
"""Different words of the texts, of which the frequent ones are frequent as in any language."""

ASKED, ANSWERED = (4, 9), (4, 12)
"""Words of a prompt and of an answer: the least, and one above the most."""

EVERY_SECONDS = 0.5

MB = 1e6

KINDS = {"VmRSS": "RSS", "RssAnon": "anonymous"}

Figures = dict[str, dict[str, float]]


def write_rows(path: Path, rows: int) -> None:
    """Write a rows.parquet of so many samples."""
    generator = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    words = np.array(["".join(generator.choice(letters, generator.integers(2, 8))) for _ in range(WORDS)])
    share = 1 / np.arange(10, WORDS + 10)

    def texts(count: int, words_of_one: tuple[int, int]) -> list[str]:
        lengths = generator.integers(*words_of_one, count)
        chosen = words[generator.choice(WORDS, lengths.sum(), p=share / share.sum())]
        return [" ".join(own) for own in np.split(chosen, np.cumsum(lengths)[:-1])]

    writer = None
    for start in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - start)
        pairs = zip(texts(count, ASKED), texts(count, ANSWERED), strict=True)
        turns = [
            [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
            for asked, answered in pairs
        ]
        numbers = range(start, start + count)
        table = pa.table({"row": pa.array(numbers), "messages": turns, "extra": ["{}"] * count})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=count)
    if writer is not None:
        writer.close()


def run_step(folder: Path) -> Figures:
    """Run a child on the folder; seconds, and the largest memory in MB, of each of its stages and in all."""
    command = [sys.executable, "-P", "-m", "worker.child.run", str(folder)]
    found: Figures = {}
    stages = ["start"]
    # It ends where nobody holds the other end of its stdin.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        reader = threading.Thread(target=_follow, args=(child.stdout, stages), daemon=True)
        reader.start()
        while child.poll() is None:
            for name in (stages[-1], "in all"):
                own = found.setdefault(name, {"seconds": 0.0, "RSS": 0.0, "anonymous": 0.0})
                own["seconds"] += EVERY_SECONDS
                for kind, size in _memory(child.pid):
                    own[kind] = max(own[kind], size / MB)
            time.sleep(EVERY_SECONDS)
        reader.join()
    if child.returncode:
        raise SystemExit(f"the child failed in {stages[-1]}")
    return found


def _follow(events: IO[str], stages: list[str]) -> None:
    for line in events:
        event: dict[str, Any] = json.loads(line)
        if event["type"] == "progress" and event["stage"] != stages[-1]:
            stages.append(event["stage"])
        elif event["type"] == "failed":
            print(event)


def _memory(process: int) -> Iterator[tuple[str, float]]:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition(":")
        if name in KINDS:
            yield KINDS[name], 1024.0 * float(value.split()[0])


def train(root: Path, rows: int) -> Figures:
    """A training step of all samples, two epochs."""
    folder = stage(root / "train", build_tiny_model(root / "model", layers=1), batch_size=64, max_length=48)
    write_rows(folder / ROWS_FILE, rows)
    return run_step(folder)


def combine(root: Path, rows: int) -> Figures:
    """A combining step over one recording of a draw of each sample in each of two epochs."""
    folder = stage(root / "combine", build_tiny_model(root / "model"))
    respecify(folder, step_key=COMBINE)
    write_rows(folder / ROWS_FILE, rows)
    (folder / RECORDINGS_FOLDER).mkdir()
    # Elsewhere: what making it takes would be counted as taken by this process's children, never by the step.
    recording(rows=rows, represented=4.0).save(folder / RECORDINGS_FOLDER / "0.npz")
    found = run_step(folder)
    summary = json.loads((folder / SUMMARY_FILE).read_bytes())
    if summary["rows"] != rows:
        raise SystemExit(f"the summary is of {summary['rows']} rows")
    return found


def table(found: dict[str, Figures]) -> str:
    """A row a stage of each step."""
    lines = ["| step | stage | s | RSS, MB | anonymous, MB |", "|---|---|---|---|---|"]
    for part, stages in found.items():
        for name, own in stages.items():
            lines.append(f"| {part} | {name} | {own['seconds']:.0f} | {own['RSS']:.0f} | {own['anonymous']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="ft-scale-"))
    try:
        found = {part: {"train": train, "combine": combine}[part](root, arguments.rows) for part in arguments.parts}
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(table(found))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "scale.json").write_text(json.dumps({"rows": arguments.rows, **found}))


if __name__ == "__main__":
    main()
