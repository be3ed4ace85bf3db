"""What the command tells people to type next is what their shell finds."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "from service.cli.invocation import typed; print(typed('up'))\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program named as ours, started by its first line as pip's are."""
    path = tmp_path / "bin" / "finetooth"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{SCRIPT}")
    path.chmod(0o755)
    return path


def told(command: str, folder: Path, path: str) -> str:
    environment = {"PATH": path, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_program_that_the_path_names_is_typed_by_its_name(program: Path) -> None:
    assert told("finetooth", program.parents[1], f"{program.parent}:/usr/bin:/bin") == "finetooth up"


def test_another_is_typed_as_it_was(program: Path) -> None:
    assert told("bin/finetooth", program.parents[1], "/usr/bin:/bin") == "bin/finetooth up"
    assert told(str(program), program.parents[1], "/usr/bin:/bin") == f"{program} up"


def test_one_that_is_no_program_is_typed_by_its_name(program: Path) -> None:
    script = program.with_name("other.py")
    script.write_text(SCRIPT)
    assert told(f"{sys.executable} bin/other.py", program.parents[1], "/usr/bin:/bin") == "finetooth up"
