"""Scripts for the scripted child, and how to wait for it and find it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

SCRIPTED_CHILD = Path(__file__).with_name("scripted_child.py")

SUMMARY: dict[str, Any] = {
    "rows": 40, "rows_scored": 40, "rows_truncated": 0, "flagged": 3, "q": 0.1, "threshold_z": 37.0,
    "null": {"location": 0.0, "scale": 1.0, "degrees_of_freedom": 9.0},
    "histogram": {"edges": [0, 1], "counts": [40]}, "steps": 10, "tokens": 100, "train_loss_first": 2.0,
    "train_loss_last": 1.0, "probe_loss_first": 2.0, "probe_loss_last": 1.0, "probe_items": 1,
    "has_reference": False, "device": "cpu",
}  # fmt: skip
OUTPUTS = ["outputs", {"rows": 40, "flagged": 3, "summary": SUMMARY}]
FINISHED = ["say", {"type": "finished"}]


def processes_of(program: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(program) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
