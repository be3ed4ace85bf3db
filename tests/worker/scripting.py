"""Scripts for the scripted child, and how to wait for it and find it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.summaries import make_probe_summary, make_summary

SCRIPTED_CHILD = Path(__file__).with_name("scripted_child.py")

SUMMARY: dict[str, Any] = make_summary(
    rows=40, rows_scored=40, flagged=3, q=0.1, probes=(make_probe_summary(flagged=3, threshold_z=37.0),)
).model_dump(mode="json")


def outputs(**options: Any) -> list[Any]:
    """What a child of either kind leaves, for 40 samples of which 3 are flagged; see scripted_child.write_results."""
    return ["outputs", {"rows": 40, "flagged": 3, "summary": SUMMARY, **options}]


OUTPUTS = outputs()
FINISHED = ["say", {"type": "finished"}]


def training(*actions: list[Any]) -> list[Any]:
    """Actions of training steps only."""
    return ["if", "train:", list(actions)]


def combining(*actions: list[Any]) -> list[Any]:
    """Actions of the combining step only."""
    return ["if", "combine", list(actions)]


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
