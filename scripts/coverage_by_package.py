"""Prints how many statements the tests reach, by package, from a report of `coverage json`."""

import json
import sys
from collections import Counter
from pathlib import Path


def rows(report: dict[str, dict[str, dict[str, dict[str, int]]]]) -> list[tuple[str, int, float]]:
    """Return each package with its statements and the percentage that was reached; the last row is the total.

    Args:
        report: The content of the report.
    """
    statements, reached = Counter[str](), Counter[str]()
    for file, facts in report["files"].items():
        top, *below = Path(file).parts
        for name in (f"{top}/{below[0]}" if len(below) > 1 else top, "total"):
            statements[name] += facts["summary"]["num_statements"]
            reached[name] += facts["summary"]["covered_lines"]
    names = [*sorted(statements.keys() - {"total"}), "total"]
    return [(name, statements[name], 100 * reached[name] / statements[name]) for name in names if statements[name]]


if __name__ == "__main__":
    table = ["| Package | Statements | Reached |", "|---|---|---|"]
    for name, number, share in rows(json.loads(Path(sys.argv[1]).read_text())):
        table.append(f"| {name} | {number:,} | {share:.1f} % |")
    sys.stdout.write("\n".join([*table, ""]))
