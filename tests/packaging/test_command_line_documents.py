"""README.md tells all options of the command that users put into scripts."""

import re
from pathlib import Path

from typer.core import TyperGroup
from typer.main import get_command

from service.cli.app import app

ROOT = Path(__file__).parents[2]


def test_readme_lists_the_options_of_audit() -> None:
    table = (ROOT / "README.md").read_text().split("| Option | Default | |\n", 1)[1].split("\n\n", 1)[0]
    documented = set(re.findall(r"^\| `(--[\w-]+)", table, re.MULTILINE))
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    audit = group.commands["audit"]
    offered = {max(parameter.opts, key=len) for parameter in audit.params if parameter.param_type_name == "option"}
    assert documented == offered - {"--help"}
