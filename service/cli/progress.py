"""Progress on stderr: bars with stage and time left on a terminal, else a plain line every few seconds."""

import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from service.text.wording import STAGES, seed_words, shown_stage

LINE_SECONDS = 5.0
"""Seconds between two plain lines of the same activity."""


class ProgressDisplay:
    """A display of one activity at a time. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        """`console` writes to stderr."""
        self._console = console
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[done]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}", markup=False),
                console=console,
            )
        self._task: TaskID | None = None
        self._act = ""
        self._act_at = 0.0
        self._line_at = 0.0

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def report(self, act: str) -> None:
        """Show an activity of unknown length."""
        self.show(act)

    def show(self, act: str, done: float = 0, total: float | None = None, *, text: str = "", eta: str = "") -> None:
        """Show an activity and how far it is. Another one than the last ends that.

        Args:
            act: The activity in a few words.
            done: How much of it is done, in units of `total`.
            total: The whole; None if it is not known.
            text: The progress in words.
            eta: The time left in words.
        """
        new = act != self._act
        self._act = act
        if self._bars is not None:
            if new:
                self._finish()
                self._task = self._bars.add_task(act, total=total, done=text, eta=eta)
            assert self._task is not None
            self._bars.update(self._task, completed=done, total=total, done=text, eta=eta)
            return
        now = time.monotonic()
        if new:
            self._act_at = now
        if new or now - self._line_at >= LINE_SECONDS:
            self._line_at = now
            # The same line again would look as if it had begun anew.
            told = text or ("" if new else f"{duration(now - self._act_at)} so far")
            self._console.print("  ".join(part for part in (act, told, eta) if part), markup=False, highlight=False)

    def upload(self, sent: int, total: int) -> None:
        """Show the progress of an upload.

        Args:
            sent: Bytes sent.
            total: Bytes in all.
        """
        self.show("Uploading the dataset", sent, total, text=f"{sent / 1e6:.1f} of {total / 1e6:.1f} MB")

    def audit(self, audit: dict[str, Any]) -> None:
        """Show an audit's status, stage and progress, as the API gives them."""
        progress = audit["progress"]
        if audit["status"] != "running" or audit["stage"] is None or progress is None:
            self.show(audit["status"].capitalize())
            return
        done, total = progress["done"], progress["total"]
        text = f"{done} of {total} {progress['unit']}".rstrip() if total else ""
        eta = f"about {duration(progress['eta_seconds'])} left" if progress["eta_seconds"] is not None else ""
        self.show(audit_act(audit), done, total or None, text=text, eta=eta)

    def export(self, export: dict[str, Any]) -> None:
        """Show an export's status and progress, as the API gives them."""
        progress = export["progress"]
        if export["status"] != "running" or progress is None or not progress["total"]:
            self.show("Exporting" if export["status"] == "running" else export["status"].capitalize())
            return
        text = f"{progress['done']} of {progress['total']} {progress['unit']}"
        eta = f"about {duration(progress['eta_seconds'])} left" if progress["eta_seconds"] is not None else ""
        self.show("Exporting", progress["done"], progress["total"], text=text, eta=eta)

    def download(self, received: int, total: int) -> None:
        """Show the progress of a download.

        Args:
            received: Bytes received.
            total: Bytes in all.
        """
        self.show("Downloading", received, total, text=f"{received / 1e6:.1f} of {total / 1e6:.1f} MB")

    def _finish(self) -> None:
        if self._bars is None or self._task is None:
            return
        task = self._bars.tasks[self._bars.task_ids.index(self._task)]
        total = task.total or 1
        self._bars.update(self._task, total=total, completed=total, eta="")
        self._bars.stop_task(self._task)


def audit_act(audit: dict[str, Any]) -> str:
    """Return what a running audit is doing, with the seed if it has several."""
    step = audit["step"]
    stage = shown_stage(audit["stage"], None if step is None else step["key"])
    # A newer service may have stages that this version has no words for.
    words = next((words for known, words in STAGES.items() if known == stage), str(stage).capitalize())
    seed = "" if step is None else seed_words(step["number"], audit["seeds"])
    return f"{words}, {seed}" if seed else words


def duration(seconds: float) -> str:
    """Return a duration in words, such as `45 s`, `12 min` or `3 h 20 min`."""
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
