"""The built wheel in empty environments: what an extra installs suffices for what the documents promise of it.

Each test makes an environment and installs into it with pip, as a user would, from wherever pip is configured to look.
"""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.compose import ROOT
from tests.support.requirements import PROJECT, brought_along, declared

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PACKAGES = ("finetooth", "service", "worker", "migrations")
PROGRAM = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "recorder.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that no leftover of an earlier build gets into it."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", source / "dist", source]
    subprocess.run(command, check=True, timeout=600)
    (built,) = (source / "dist").iterdir()
    return built


class Environment:
    """A virtual environment with the wheel and one extra, and a folder to run in that holds nothing of the project."""

    def __init__(self, folder: Path, wheel: Path, extra: str | None) -> None:
        self.folder = folder / "empty"
        self.folder.mkdir()
        self._bin = folder / "environment" / "bin"
        subprocess.run([sys.executable, "-m", "venv", self._bin.parent], check=True, timeout=120)
        what = f"{wheel}[{extra}]" if extra else str(wheel)
        arguments = ["pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), what]
        installed = self.run(*arguments, timeout=1500)
        assert installed.returncode == 0, installed.stderr

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self._bin / "python"

    def run(self, command: str, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command that is installed in it."""
        return subprocess.run(
            [self._bin / command, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=timeout
        )

    def packages(self) -> set[str]:
        """Names of what is installed, but for pip and setuptools, which an environment may have from its beginning."""
        listed = json.loads(self.run("pip", "list", "--format", "json").stdout)
        return {entry["name"].lower().replace("_", "-") for entry in listed} - {"pip", "setuptools"}


def needed(extra: str) -> set[str]:
    """Names of all that an extra brings along, as in `Environment.packages`."""
    return brought_along(declared(extra)).keys() - {"setuptools"}


def test_the_wheel_holds_the_packages_with_their_types_and_nothing_of_the_tests(wheel: Path) -> None:
    assert wheel.name == f"finetooth-{PROJECT['version']}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, f"finetooth-{PROJECT['version']}.dist-info"}
    assert {f"{package}/py.typed" for package in ("finetooth", "service", "worker")} <= set(names)


def test_the_package_alone_is_imported_and_says_what_the_rest_needs(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path, wheel, None)
    assert environment.packages() == {"finetooth"}
    version = environment.run("python", "-c", "import finetooth; print(finetooth.__version__)")
    assert version.stdout == f"{PROJECT['version']}\n", version.stderr
    client = environment.run("python", "-c", "from finetooth import Client")
    assert "pip install 'finetooth[client]'" in client.stderr
    for command in (["finetooth", "up"], ["python", "-m", "finetooth", "up"]):
        answer = environment.run(*command)
        assert answer.returncode == 2
        assert answer.stderr.endswith("pip install 'finetooth[service]'\n")
        assert len(answer.stderr.splitlines()) == 1


def test_the_client_needs_httpx_alone_and_type_checkers_see_it(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path, wheel, "client")
    assert environment.packages() == {"finetooth", *needed("client")}
    program = "from finetooth import Client; Client('http://127.0.0.1:9', 'key').datasets().__next__()"
    assert "UnreachableError: cannot reach http://127.0.0.1:9" in environment.run("python", "-c", program).stderr
    checked = environment.folder / "checked.py"
    checked.write_text(
        "import finetooth\n"
        "reveal_type(finetooth.Client('http://127.0.0.1:9', 'key').audit('aud_1'))\n"
        "finetooth.Client(3)\n"
        "finetooth.Clint\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", environment.python, checked.name]
    found = subprocess.run(mypy, cwd=environment.folder, capture_output=True, text=True, timeout=300).stdout
    lines = [line.removeprefix("checked.py:") for line in found.splitlines() if line.startswith("checked.py:")]
    assert lines[0] == '2: note: Revealed type is "dict[str, Any]"', found
    assert any(line.startswith("3: error: Missing positional argument") for line in lines), found
    assert any(line.startswith("4: error: Module has no attribute") for line in lines), found


def test_the_documented_run_of_a_trainer_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path, wheel, "trainer")
    assert environment.packages() == {"finetooth", *needed("trainer")}
    assert PROGRAM is not None
    (environment.folder / "program.py").write_text(PROGRAM[1])
    ran = environment.run("python", "program.py")
    assert ran.returncode == 0, ran.stderr
    printed = re.findall(r"^row +(\d+)  flagged ([01]) ", ran.stdout, re.MULTILINE)
    assert sorted(int(row) for row, flagged in printed if flagged == "1") == list(range(8))
