"""Scripts for the scripted child, and how to wait for it and find it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.summaries import make_probe_summary, make_summary
from worker.process.launcher import Spawner

SCRIPTED_CHILD = Path(__file__).with_name("scripted_child.py")
SCRIPTED_FORK_SERVER = Path(__file__).with_name("scripted_fork_server.py")
LOOKING_CHILD = Path(__file__).with_name("looking_child.py")
LOOKING_FORK_SERVER = Path(__file__).with_name("looking_fork_server.py")

NOWHERE = Spawner(("/nowhere/program",))
"""Starts nothing, so that a fork that fails is not made good by a spawned child."""

SECRET = "text-of-a-sample"

SUMMARY: dict[str, Any] = make_summary(
    rows=40, rows_scored=40, flagged=3, q=0.1, probes=(make_probe_summary(flagged=3, threshold_z=37.0),)
).model_dump(mode="json")


def spawning(script: Sequence[list[Any]]) -> Spawner:
    """Spawns children that follow the script."""
    return Spawner((sys.executable, str(SCRIPTED_CHILD), json.dumps(script)))


def fork_server(script: Sequence[list[Any]] = (), **how: Any) -> tuple[str, ...]:
    """The command of a fork server whose children follow the script; `how` is for the server."""
    return (sys.executable, str(SCRIPTED_FORK_SERVER), json.dumps({"script": script, **how}))


def outputs(**options: Any) -> list[Any]:
    """What a child of either kind leaves, for 40 samples of which 3 are flagged; see scripted_child.write_results."""
    return ["outputs", {"rows": 40, "flagged": 3, "summary": SUMMARY, **options}]


OUTPUTS = outputs()
FINISHED = ["say", {"type": "finished"}]


def training_progress(done: int) -> list[Any]:
    """Reports so many of ten steps."""
    return ["say", {"type": "progress", "stage": "training", "done": done, "total": 10, "unit": "steps"}]


def training(*actions: list[Any]) -> list[Any]:
    """Actions of training steps only."""
    return ["if", "train:", list(actions)]


def combining(*actions: list[Any]) -> list[Any]:
    """Actions of the combining step only."""
    return ["if", "combine", list(actions)]


def scripted_children(of: Path) -> list[psutil.Process]:
    """Those that work in a folder below `of`: other tests, which run beside this one, have their own."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or [""]
        ours = str(SCRIPTED_CHILD) in command and Path(command[-1]).is_relative_to(of)
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
