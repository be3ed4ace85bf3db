"""What lies in the repository, what of it is packaged, and what it must not mention."""

import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def files() -> list[Path]:
    """Files of the working tree that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


FILES = files()


def test_no_file_names_a_package_registry_or_a_private_path() -> None:
    """An installation takes the registry that pip is configured with; a path of one machine means nothing elsewhere."""
    hosts = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "deb." + "debian.org"]
    forbidden = re.compile("|".join([*map(re.escape, hosts), r"(?<![\w.$}])/work/\w", r"/home/\w+/", r"/Users/\w+/"]))
    found = []
    for path in FILES:
        for number, line in enumerate(path.read_bytes().decode("utf-8", errors="replace").splitlines(), start=1):
            if path != Path(__file__) and forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert not found


def test_every_file_that_the_code_reads_is_packaged() -> None:
    """A wheel holds .py files and what package-data names, and nothing else."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    left_out = [
        str(path.relative_to(ROOT))
        for path in FILES
        if path.relative_to(ROOT).parts[0] in ("finetooth", "service", "worker", "migrations")
        and path.suffix not in (".py", ".md")
        and not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    ]
    assert not left_out, "add their suffix to [tool.setuptools.package-data]"


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PYPROJECT["project"]["license"] == "Apache-2.0"


def test_hooks_fetch_nothing_and_run_what_is_installed() -> None:
    scripts = {path.name for path in Path(sys.executable).parent.iterdir()}
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {"ruff-check", "ruff-format", "mypy", "lint-imports"} <= {hook["id"] for hook in hooks}
    for hook in hooks:
        assert hook["language"] == "system"
        program = shlex.split(hook["entry"])[0]
        assert program.startswith(".venv/bin/")
        assert program.removeprefix(".venv/bin/") in scripts


def test_pre_commit_accepts_its_configuration() -> None:
    result = subprocess.run(
        [Path(sys.executable).parent / "pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_a_reader_finds_what_every_project_has(name: str) -> None:
    assert (ROOT / name).stat().st_size > 200
