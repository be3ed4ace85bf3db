"""The results of an audit: two files, and a table of the top findings."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.errors import FAILED, CommandError
from service.cli.outputs import folders_made
from service.contract.results import ProbeSummary
from service.text.evidence import kind_words, sensitivity_words
from service.text.visible_text import excerpt
from service.text.wording import effect_places

FINDINGS_FILE = "findings.jsonl"
"""The file in the folder of results that holds every finding, one a line."""

SUMMARY_FILE = "summary.json"
"""The file in the folder of results that holds the audit's summary."""

FIELDS = (
    "row", "rank", "n", "tokens_left_out", "strongest_probe", "mu", "mu_low", "mu_high", "mu_composed", "z",
    "z_reference", "z_gradient", "z_representation", "side", "probability_unwanted", "probability_fair", "p", "q",
    "flagged", "cluster", "group",
)  # fmt: skip
TOP = 10
"""How many findings are shown."""

PIPE_WIDTH = 120
"""Columns of a table that is printed to a file or a pipe, which have no width of their own."""

NAME_CHARACTERS = 60
"""Characters of a probe's name that are shown."""

PROMPT_CHARACTERS = 40
"""Characters of a sample's prompt that the table shows."""

ANSWER_CHARACTERS = 60
"""Characters of a sample's answer that the table shows."""

COLUMNS_EXPLAINED = (
    "z: how unusual what the sample teaches is among these samples. Flags follow z.\n"
    "mu: how far it moved this one run. It can be near zero for a flagged sample, as when the sample was drawn while "
    "the learning rate was near zero."
)
"""What is printed below the table."""


def output_console() -> Console:
    """Open standard output. A pipe or a log has no width of its own and gets one that the table fits."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def write_results(folder: Path, findings: Iterable[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Write the findings and the summary to a folder: both files, or neither.

    Args:
        folder: The folder, which is created if it is missing.
        findings: The findings, one line each.
        summary: The summary.

    Raises:
        CommandError: The files cannot be written.
    """
    try:
        with folders_made(folder, keep=True), ExitStack() as unfinished:
            new_findings = _write(
                folder, unfinished, lambda file: file.writelines(_line(finding) for finding in findings)
            )
            new_summary = _write(folder, unfinished, lambda file: file.write(json.dumps(summary, indent=2) + "\n"))
            new_findings.replace(folder / FINDINGS_FILE)
            new_summary.replace(folder / SUMMARY_FILE)
    except OSError as error:
        raise CommandError(f"{folder}: cannot write the results: {error.strerror}", FAILED) from None


def _write(folder: Path, unfinished: ExitStack, fill: Callable[[IO[str]], Any]) -> Path:
    with NamedTemporaryFile("w", encoding="utf-8", dir=folder, prefix=".", suffix=".part", delete=False) as file:
        path = Path(file.name)
        unfinished.callback(path.unlink, missing_ok=True)
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    # The mode of the user's other files, not that of a temporary one.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    return path


def _line(finding: Mapping[str, Any]) -> str:
    return json.dumps({field: finding[field] for field in FIELDS}, ensure_ascii=False) + "\n"


def findings_table(findings: Sequence[Mapping[str, Any]], extra: Mapping[int, str] | None = None) -> Table:
    """Build a table of the findings with their first words, safe for a terminal.

    Args:
        findings: The findings as the API gives them.
        extra: A text for each row of the dataset, shown in a further column `truth`.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("rank", "row", "flag", "mu (95 %)", "z", "q"):
        table.add_column(name, justify="right", no_wrap=True)
    if extra is not None:
        table.add_column("truth", no_wrap=True)
    # The only column that may be cut on a narrow terminal: its cells refuse to wrap, not the column.
    table.add_column("sample", overflow="ellipsis")
    for finding in findings:
        cells = [
            str(finding["rank"]),
            str(finding["row"]),
            "yes" if finding["flagged"] else "",
            _interval(finding),
            _number(finding["z"], ".1f"),
            _number(finding["q"], ".2g"),
        ]
        if extra is not None:
            cells.append(extra[finding["row"]])
        table.add_row(*cells, Text(first_words(finding["messages"]), no_wrap=True, overflow="ellipsis"))
    return table


def first_words(messages: Sequence[Mapping[str, str]] | None) -> str:
    """Return the beginning of the first question and of the last answer, hidden characters named, in one line."""
    if not messages:
        return ""
    answer = excerpt(messages[-1]["content"], ANSWER_CHARACTERS)
    asked = next((message["content"] for message in messages[:-1] if message["role"] == "user"), None)
    return answer if asked is None else f"{excerpt(asked, PROMPT_CHARACTERS)} → {answer}"


def print_summary(console: Console, audit: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> None:
    """Print the result of an audit: the flags, what it could have found, cautions and the top findings.

    Args:
        console: Where to print.
        audit: The audit as the API gives it, with its summary.
        findings: The top findings.
    """
    summary = audit["summary"]
    console.print(
        f"{summary['flagged']} of {summary['rows']} samples flagged at a false discovery rate of {summary['q']:g}."
    )
    for record in summary["probes"]:
        probe = ProbeSummary.model_validate(record)
        name = f"{excerpt(probe.name, NAME_CHARACTERS)}: " if len(summary["probes"]) > 1 else ""
        alone = f"{probe.flagged} flagged on its own. " if name else ""
        words = [f"{alone}{sensitivity_words(probe.sensitivity)}", kind_words(probe)]
        for line in filter(None, words):
            console.print(f"{name}{line}", markup=False)
    for caution in summary["warnings"]:
        console.print(f"Caution: {caution['message']}", markup=False)
    if findings:
        console.print()
        console.print(findings_table(findings))
        console.print()
        console.print(COLUMNS_EXPLAINED, markup=False)


def _interval(finding: Mapping[str, Any]) -> str:
    mu = _effect(finding["mu"])
    if finding["mu_low"] is None or finding["mu_high"] is None:
        return mu
    return f"{mu} ({_effect(finding['mu_low'])} to {_effect(finding['mu_high'])})"


def _effect(value: float | None) -> str:
    return _number(value, f"+.{effect_places(value)}f")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
