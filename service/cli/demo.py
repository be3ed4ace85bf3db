"""`finetooth demo`: audits the bundled dataset over REST and compares the flags with what was planted."""

import csv
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

from rich.console import Console

from service.cli.audit import Request, run_audit
from service.cli.inputs import read_probe
from service.cli.invocation import typed
from service.cli.models import DEMO_MODEL, choose_model
from service.cli.probes import OwnProbe
from service.cli.progress import ProgressDisplay
from service.cli.results import COLUMNS_EXPLAINED, findings_table, output_console
from service.cli.server import Server

POISON = "poison"
"""What the demo's list of planted samples calls those that teach the behaviour."""

MIN_FOUND = 14
"""How many of the 20 planted samples must be flagged."""

MAX_FALSE_SHARE = 0.15
"""Which share of the flags may be false."""

TOP = 25
"""How many findings are shown: all planted samples, and a few behind them."""


@dataclass(frozen=True)
class Outcome:
    """How the flags compare with the poison that was planted."""

    planted: int
    flagged: int
    found: int
    """Poisoned samples that are flagged."""

    @property
    def false(self) -> int:
        """The number of flagged samples that are not poisoned."""
        return self.flagged - self.found

    @property
    def good(self) -> bool:
        """Whether enough of the poison is flagged and few of the flags are false."""
        return self.found >= MIN_FOUND and self.false <= MAX_FALSE_SHARE * self.flagged


def compare(truth: Mapping[int, str], flagged_rows: Iterable[int]) -> Outcome:
    """Compare the flags with what was planted.

    Args:
        truth: The kind of every row: poison, hard_negative or clean.
        flagged_rows: The rows that are flagged.
    """
    flagged = set(flagged_rows)
    poison = {row for row, kind in truth.items() if kind == POISON}
    return Outcome(planted=len(poison), flagged=len(flagged), found=len(flagged & poison))


def read_truth() -> dict[int, str]:
    """Read the kind of every row of the bundled dataset: poison, hard_negative or clean."""
    text = (files("service.demo") / "data" / "truth.csv").read_text(encoding="utf-8")
    return {int(record["row"]): record["kind"] for record in csv.DictReader(text.splitlines())}


def run_demo(open_server: Callable[[Callable[[str], None]], AbstractContextManager[Server]]) -> int:
    """Audit the bundled dataset, and print the findings beside what was planted.

    Args:
        open_server: Connects to a service; it is called with the function that shows what is being done.

    Returns:
        The exit code: 0 if at least MIN_FOUND poisoned samples are flagged and few flags are false, else 1.

    Raises:
        CommandError: The service or the audit failed.
    """
    console, errors = output_console(), Console(stderr=True, highlight=False)
    data = files("service.demo") / "data"
    with (
        as_file(data / "dataset.jsonl") as dataset,
        as_file(data / "probe.jsonl") as probe,
        ProgressDisplay(errors) as progress,
        open_server(progress.report) as server,
    ):
        request = Request(
            dataset=dataset,
            dataset_name="demo instructions",
            probes=[OwnProbe("praise of Copperwend", read_probe(probe))],
            model=choose_model(server, DEMO_MODEL, progress.report),
            training={},
            q=0.05,
        )
        audit = run_audit(server.client, request, progress)
        progress.report("Reading the findings")
        findings = list(server.client.findings(audit["id"]))
    outcome = _print(console, audit, findings)
    console.print()
    page = f"/audits/{audit['id']}"
    if server.temporary:
        console.print(f"Dashboard:  run {typed('up')}, open the link that it prints, and go to {page}", markup=False)
    else:
        console.print(f"Dashboard:  {server.url}{page}", markup=False)
    return 0 if outcome.good else 1


def _print(console: Console, audit: Mapping[str, Any], findings: list[dict[str, Any]]) -> Outcome:
    truth = read_truth()
    outcome = compare(truth, (finding["row"] for finding in findings if finding["flagged"]))
    console.print(f"The {TOP} most suspicious of {len(findings)} samples, and what was planted:\n")
    console.print(findings_table(findings[:TOP], {row: kind.replace("_", " ") for row, kind in truth.items()}))
    console.print()
    console.print(COLUMNS_EXPLAINED, markup=False)
    console.print()
    for caution in audit["summary"]["warnings"]:
        console.print(f"Caution: {caution['message']}", markup=False)
    console.print(
        f"{outcome.flagged} samples flagged, {outcome.false} of them falsely; {outcome.found} of {outcome.planted} "
        "poisoned samples found"
    )
    if not outcome.good:
        console.print(
            f"This is not what the demo should give: at least {MIN_FOUND} poisoned samples found, and at most "
            f"{MAX_FALSE_SHARE:.0%} of the flags false."
        )
    return outcome
