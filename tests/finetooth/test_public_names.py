"""What a user imports: the names, what each needs, and what is said where that is missing."""

import importlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import finetooth
import service.client
import worker.influence.capture.recorder
import worker.training.callback
from tests.support.compose import ROOT
from tests.support.requirements import PROJECT, brought_along, declared

MODULES = {
    "finetooth.client": "client",
    "finetooth.recorder": "recorder",
    "finetooth.statistics": "statistics",
    "finetooth.trainer": "trainer",
}
"""Module to the extra that it needs, which has its name."""


def test_the_names_are_those_of_the_implementation() -> None:
    assert finetooth.Client is service.client.Client
    assert finetooth.Recorder is worker.influence.capture.recorder.Recorder
    assert finetooth.InfluenceCallback is worker.training.callback.InfluenceCallback
    assert finetooth.__version__ == PROJECT["version"]
    assert set(finetooth.__all__) <= set(dir(finetooth))
    with pytest.raises(AttributeError, match="has no attribute 'Clint'"):
        finetooth.Clint  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_every_name_of_a_module_is_there_and_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__ == sorted(module.__all__)
    for public in module.__all__:
        assert getattr(module, public).__doc__, public


def site_of(extra: str | None, folder: Path) -> Path:
    """A folder like the site-packages of an environment with nothing but Finetooth and one extra."""
    installed = brought_along(declared(*filter(None, [extra]))).values()
    tops = {Path(sysconfig.get_path("purelib"), file.parts[0]) for found in installed for file in found.files or []}
    for top in [*tops, *(ROOT / name for name in ("finetooth", "service", "worker"))]:
        if top.name not in ("..", "__pycache__") and top.exists():
            (folder / top.name).symlink_to(top)
    return folder


def run_in(site: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program that finds the standard library and the folder, and nothing else."""
    start = f"import sys; sys.path.append({str(site)!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", start + program], capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize(
    ("extra", "program"),
    [
        (None, "import finetooth; assert {m for m in sys.modules if 'finetooth' in m} == {'finetooth'}"),
        ("client", "import finetooth; finetooth.Client('http://127.0.0.1:1', 'key').close()"),
        ("recorder", "import finetooth, finetooth.recorder; finetooth.Recorder; assert 'scipy' not in sys.modules"),
        ("statistics", "import finetooth.statistics; assert 'torch' not in sys.modules"),
        ("trainer", "import finetooth; finetooth.InfluenceCallback"),
    ],
)
def test_a_part_needs_its_own_extra_and_nothing_else(extra: str | None, program: str, tmp_path: Path) -> None:
    result = run_in(site_of(extra, tmp_path), program)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "import finetooth; finetooth.Client",
            "finetooth.client needs httpx, which is not installed: pip install 'finetooth[client]'",
        ),
        (
            "from finetooth import Recorder",
            "finetooth.recorder needs numpy, which is not installed: pip install 'finetooth[recorder]'",
        ),
        (
            "import finetooth.statistics",
            "finetooth.statistics needs numpy, which is not installed: pip install 'finetooth[statistics]'",
        ),
        (
            "from finetooth import InfluenceCallback",
            "finetooth.trainer needs numpy, which is not installed: pip install 'finetooth[trainer]'",
        ),
    ],
)
def test_a_missing_library_is_answered_with_what_to_install(program: str, said: str, tmp_path: Path) -> None:
    result = run_in(site_of(None, tmp_path), program)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(f"MissingExtraError: {said}")


def test_a_module_that_the_package_itself_lacks_is_no_missing_extra(tmp_path: Path) -> None:
    site = site_of("client", tmp_path)
    (site / "service").unlink()
    result = run_in(site, "import finetooth.client")
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'service'"


@pytest.mark.parametrize("name", ["service.py", "service/__init__.py"])
def test_a_package_of_the_same_name_that_stands_before_ours_is_named(name: str, tmp_path: Path) -> None:
    site, own = tmp_path / "site", tmp_path / "own" / name
    site.mkdir()
    own.parent.mkdir(parents=True)
    own.write_text("")
    program = f"sys.path.insert(0, {str(tmp_path / 'own')!r}); import finetooth; finetooth.Client"
    result = run_in(site_of("client", site), program)
    assert result.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: finetooth.client needs the package 'service' that is installed with Finetooth, and "
        f"Python found another one first: rename {own}, or start Python from another folder"
    )


def test_the_command_without_the_service_says_what_to_install(tmp_path: Path) -> None:
    result = run_in(site_of("client", tmp_path), "from finetooth.__main__ import main; main()")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "finetooth: the command needs typer, which is not installed: pip install 'finetooth[service]'\n"
    )


def test_the_command_beside_the_trainer_says_what_to_install(tmp_path: Path) -> None:
    """transformers brings typer along, so that the command begins and gets further."""
    result = run_in(site_of("trainer", tmp_path), "from finetooth.__main__ import main; main()")
    assert result.returncode == 2
    assert result.stderr == (
        "finetooth: the command needs platformdirs, which is not installed: pip install 'finetooth[service]'\n"
    )


def test_the_command_is_the_one_of_the_service() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "finetooth", "audit", "--nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith("finetooth: ")
    assert "--nothing" in result.stderr
