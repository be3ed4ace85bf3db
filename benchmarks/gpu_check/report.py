"""What was checked, what came of it, and the table of all."""

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Status(StrEnum):
    """What came of a check."""

    OK = "ok"
    FAILED = "failed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    part: str
    name: str
    status: Status
    found: str
    figures: dict[str, Any]
    """What was measured, for programs."""


class Report:
    """Collects checks, part by part, and prints each as soon as it is known."""

    def __init__(self, *, seconds: float) -> None:
        """Begin; parts that would begin later than `seconds` from now are not measured."""
        self.checks: list[Check] = []
        self.seconds: dict[str, float] = {}
        """How long each part took."""
        self._part = ""
        self._until = time.monotonic() + seconds

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(check.status is Status.FAILED for check in self.checks)

    @property
    def late(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() > self._until

    def checked(self, name: str, passed: bool, found: str, **figures: Any) -> None:
        """Note what a check has shown.

        Args:
            name: What had to hold.
            passed: Whether it does.
            found: What was measured, for a reader.
            **figures: The same for a program.
        """
        self._add(name, Status.OK if passed else Status.FAILED, found, figures)

    def not_measured(self, name: str, why: str, **figures: Any) -> None:
        """Note what could not be looked at, and why."""
        self._add(name, Status.NOT_MEASURED, why, figures)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Give the block's checks a common heading; an error in it is a failed check, and the next part runs."""
        self._part, started = name, time.monotonic()
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self._add("ran to its end", Status.FAILED, f"{type(error).__name__}: {error}", {})
        finally:
            self.seconds[name] = round(time.monotonic() - started, 1)

    def table(self) -> str:
        """All checks as Markdown."""
        lines = ["| part | check | result | found |", "|---|---|---|---|"]
        for check in self.checks:
            cells = (check.part, check.name, check.status.value, " ".join(check.found.split()).replace("|", "/"))
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        content = {"failed": self.failed, "seconds": self.seconds, "checks": [asdict(check) for check in self.checks]}
        path.write_text(json.dumps(content, indent=1))

    def _add(self, name: str, status: Status, found: str, figures: dict[str, Any]) -> None:
        self.checks.append(Check(self._part, name, status, found, figures))
        print(f"{status.value:>12}  {self._part}: {name}: {found}", flush=True)
