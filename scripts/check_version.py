#!/usr/bin/env python3
"""Refuses to release a tag that does not fit the sources: scripts/check_version.py v1.2.0.

Reads the files of the folder that it is started in. Standard library only, since it runs before anything is installed.
"""

import json
import re
import sys
import tomllib
from pathlib import Path


def complaints(tag: str, root: Path) -> list[str]:
    """What does not fit a tag, as sentences that say what to do.

    Args:
        tag: The tag's name, such as v1.2.0.
        root: The folder of the sources.
    """
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    found = []
    if tag != f"v{version}":
        found.append(f"pyproject.toml says {version}: tag v{version}, or set the version and tag that commit.")
    served = json.loads((root / "docs" / "openapi.json").read_text())["info"]["version"]
    if served != version:
        found.append(f"docs/openapi.json says {served}: run `make openapi`.")
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", (root / "CHANGELOG.md").read_text(), re.M):
        found.append(f"CHANGELOG.md has no line `## {version} - YYYY-MM-DD`: give *Unreleased* its version and date.")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/check_version.py TAG")
    found = complaints(sys.argv[1], Path())
    if found:
        sys.exit("\n".join([f"{sys.argv[1]} cannot be released:", *found]))
