"""The documents show commands as the command line takes them, and README.md tells all options of `audit`."""

import re
import shlex
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from service.cli.app import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
SHOWN = re.compile(r"(?:^ +|^|`)(?:\.venv/bin/)?finetooth ((?:[a-z-]+)(?: [^`\n]+)?)", re.MULTILINE)


def group() -> TyperGroup:
    """The command with its subcommands."""
    found = get_command(app)
    assert isinstance(found, TyperGroup)
    return found


def options(command: str) -> set[str]:
    """Every spelling of the options of a subcommand."""
    return {spelling for parameter in group().commands[command].params for spelling in parameter.opts}


def test_readme_lists_the_options_of_audit() -> None:
    table = (ROOT / "README.md").read_text().split("| Option | Default | |\n", 1)[1].split("\n\n", 1)[0]
    documented = set(re.findall(r"^\| `(--[\w-]+)", table, re.MULTILINE))
    audit = group().commands["audit"]
    offered = {max(parameter.opts, key=len) for parameter in audit.params if parameter.param_type_name == "option"}
    assert documented == offered - {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_that_are_shown_exist(document: Path) -> None:
    for line in SHOWN.findall(document.read_text()):
        command, *words = shlex.split(line, comments=True)
        assert command in group().commands, line
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in options(command) | {"--help"}, line


def test_the_documents_show_commands_at_all() -> None:
    """What finds them has not gone blind."""
    shown = {line.split()[0] for document in DOCUMENTS for line in SHOWN.findall(document.read_text())}
    assert {"up", "audit", "sign-in", "export", "report", "retry"} <= shown
