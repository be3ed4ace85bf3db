"""What starting a child costs: its imports one by one, a spawned child against a forked one, and a whole short audit.

    python -m benchmarks.child_start [--runs 5] [--out FOLDER]

Wall and CPU seconds; CPU seconds are what a loaded machine leaves as they are. Writes child_start.json and prints the
tables. The steps are real, of 40 samples on a model of two layers, so that what is not start-up takes a moment.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from service.contract.protocol import (
    CHECKPOINTS_FOLDER,
    RECORDING_FILE,
    RECORDINGS_FOLDER,
    FinishedEvent,
    ProgressEvent,
    Stage,
)
from service.contract.spec import COMBINE
from tests.support.chaos import SHORT, Chaos, Servers
from tests.support.steps import respecify, stage
from worker.process.child_process import ChildProcess, Exited, downloading_environment
from worker.process.fork_client import ForkClient, make_launcher
from worker.process.launcher import STEP_COMMAND, Launcher, Spawner
from worker.supervisor.dispatch import Supervisor

IMPORTS = {
    "python": "pass",
    "torch": "import torch",
    "a step's code and the contract": "import worker.child.run",
    "step train": "from worker.child.run import LEFT_OUT, leave_out; leave_out(LEFT_OUT); import worker.child.train",
    "step combine": "import worker.child.combine",
    "all that the fork server imports": "import worker.child.fork_server; worker.child.fork_server.import_steps()",
}

Figures = dict[str, list[float]]


def started(code: str) -> dict[str, float]:
    """What an interpreter costs that runs `code`."""
    with used() as cost:
        subprocess.run([sys.executable, "-P", "-c", code], stderr=subprocess.DEVNULL, check=True)
    return cost


def step(launcher: Launcher, folder: Path, until: Stage) -> dict[str, float]:
    """What one child costs: until its first word, until it begins its work, and in all."""
    environment = downloading_environment(os.environ, folder / "cache")
    while not launcher.prepared(environment, seconds=1):
        pass
    shutil.rmtree(folder / CHECKPOINTS_FOLDER, ignore_errors=True)
    told: dict[str, float] = {}
    item: Any = None
    last: Any = None
    with used() as cost:
        began = time.perf_counter()
        child = ChildProcess(launcher, folder, environment, ttl_s=300)
        while not isinstance(item := child.next(1), Exited):
            last = item or last
            if isinstance(item, ProgressEvent):
                told.setdefault("first event", time.perf_counter() - began)
                if item.stage is until:
                    told.setdefault("work begins", time.perf_counter() - began)
    if not isinstance(last, FinishedEvent):
        raise SystemExit(f"a child failed: {child.stderr_tail()}")
    return {**told, **cost}


@contextmanager
def used() -> Iterator[dict[str, float]]:
    """Wall seconds of the block, and CPU seconds of the children that ended in it."""
    cost: dict[str, float] = {}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    yield cost
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost["wall"] = time.perf_counter() - began
    cost["CPU"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def audit(chaos: Chaos, launcher: Launcher) -> dict[str, float]:
    """What a whole short audit costs its worker's children, and how long it takes from its claim to its result."""
    supervisor = Supervisor(
        chaos.settings, chaos.sessions, chaos.objects, owner="bench", stopping=threading.Event(), launcher=launcher
    )
    queued = chaos.create(SHORT)
    with used() as cost:
        supervisor.run_due("gpu")
    if chaos.job(queued).state != "succeeded":
        raise SystemExit(chaos.story(queued))
    return cost


def memory(fork_client: ForkClient) -> dict[str, float]:
    """MB of the fork server while it waits. PSS: shared pages count by share."""
    assert fork_client._server is not None
    found = psutil.Process(fork_client._server.pid).memory_full_info()
    return {"RSS": found.rss / 1e6, "PSS": found.pss / 1e6, "its own": found.uss / 1e6}


def table(found: dict[str, Figures]) -> str:
    """A row a part; each cell median (least to most)."""
    columns = list(dict.fromkeys(name for figures in found.values() for name in figures))
    lines = ["| | " + " | ".join(f"{name}, s" for name in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for part, figures in found.items():
        cells = [
            f"{statistics.median(own):.2f} ({min(own):.2f} to {max(own):.2f})" if (own := figures.get(name)) else "-"
            for name in columns
        ]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_turns(runs: int, parts: dict[str, Callable[[], dict[str, float]]]) -> dict[str, Figures]:
    """So that what else the machine does falls on all alike; the first turn, which fills caches, is not counted."""
    found: dict[str, Figures] = {name: {} for name in parts}
    for turn in range(runs + 1):
        for name, measure in parts.items():
            for figure, value in measure().items():
                if turn:
                    found[name].setdefault(figure, []).append(value)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="ft-s-"))
    servers, spawner, fork_client = Servers(root), Spawner(STEP_COMMAND), make_launcher()
    assert isinstance(fork_client, ForkClient)
    try:
        servers.start()
        chaos = Chaos(servers)
        train, combine = (stage(root / name, servers.folder / "model", rows=40) for name in ("train", "combine"))
        step(spawner, train, Stage.TRAINING)
        (combine / RECORDINGS_FOLDER).mkdir()
        shutil.copy(train / RECORDING_FILE, combine / RECORDINGS_FOLDER / "0.npz")
        respecify(combine, step_key=COMBINE)
        found = {
            "steps": in_turns(
                arguments.runs,
                {
                    "step train, spawned": lambda: step(spawner, train, Stage.TRAINING),
                    "step train, forked": lambda: step(fork_client, train, Stage.TRAINING),
                    "step combine, spawned": lambda: step(spawner, combine, Stage.SCORING),
                    "step combine, forked": lambda: step(fork_client, combine, Stage.SCORING),
                },
            ),
            "audits": in_turns(
                arguments.runs,
                {
                    "a short audit, spawned": lambda: audit(chaos, spawner),
                    "a short audit, forked": lambda: audit(chaos, fork_client),
                },
            ),
            "imports": in_turns(
                arguments.runs, {name: lambda code=code: started(code) for name, code in IMPORTS.items()}
            ),
        }
        for name in ("imports", "steps", "audits"):
            print(table(found[name]) + "\n")
        idle = memory(fork_client)
        print("The fork server while it waits, MB: " + ", ".join(f"{name} {size:.0f}" for name, size in idle.items()))
        fork_client.close()
        chaos.close()
    finally:
        fork_client.close()
        servers.stop()
        shutil.rmtree(root, ignore_errors=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "child_start.json").write_text(json.dumps({**found, "memory": idle}))


if __name__ == "__main__":
    main()
