"""What starting a child costs: a fresh interpreter that imports what a step imports.

    python -m benchmarks.child_start [--runs 5] [--out FOLDER]

For each part the wall and the CPU seconds of the whole process; CPU seconds are what a loaded machine leaves as they
are. Nothing is trained. Writes child_start.json and prints a table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PARTS = {
    "python": "pass",
    "torch": "import torch",
    "a step's code and the contract": "import worker.run",
    "step train": "from worker.run import LEFT_OUT, leave_out; leave_out(LEFT_OUT); import worker.train_step",
    "step train, optional libraries too": "import worker.train_step",
    "step combine": "import worker.combine_step",
}


def start_once(code: str) -> tuple[float, float]:
    """Wall and CPU seconds of an interpreter that runs `code`."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{code!r} failed; run it by hand")
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in PARTS}
    # In turns, so that what else the machine does falls on all alike; the first turn fills the page cache.
    for turn in range(arguments.runs + 1):
        for name, code in PARTS.items():
            wall, cpu = start_once(code)
            if turn:
                found[name]["wall"].append(wall)
                found[name]["cpu"].append(cpu)
    print("| part | wall, s | CPU, s |\n|---|---|---|")
    for name, runs in found.items():
        cells = [f"{statistics.median(own):.2f} ({min(own):.2f} to {max(own):.2f})" for own in runs.values()]
        print(f"| {name} | {cells[0]} | {cells[1]} |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "child_start.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
