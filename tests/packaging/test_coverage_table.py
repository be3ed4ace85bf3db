"""`make coverage` counts statements by package."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.compose import ROOT


def test_packages_and_the_total(tmp_path: Path) -> None:
    files = {
        "service/settings.py": (30, 30),
        "service/web/routes.py": (70, 35),
        "service/web/pages/audits.py": (30, 15),
        "worker/text/__init__.py": (0, 0),
    }
    report = tmp_path / "coverage.json"
    report.write_text(
        json.dumps(
            {
                "files": {
                    name: {"summary": {"num_statements": statements, "covered_lines": reached}}
                    for name, (statements, reached) in files.items()
                }
            }
        )
    )
    told = subprocess.run(
        [sys.executable, ROOT / "scripts/coverage_by_package.py", report], capture_output=True, text=True, check=True
    ).stdout
    assert told.splitlines()[2:] == [
        "| service | 30 | 100.0 % |",
        "| service/web | 100 | 50.0 % |",
        "| total | 130 | 61.5 % |",
    ]
