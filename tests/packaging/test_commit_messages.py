"""The hook that reads commit messages, called by git itself in a repository of its own."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.compose import ROOT

BODY = "\n\nThe reason, in a sentence.\n"
LONGEST = "N" + "ä" * 71


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty repository with the hook switched on as CONTRIBUTING.md says."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "scripts" / "hooks").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "hooks" / "commit-msg", tmp_path / "scripts" / "hooks")
    shutil.copy(ROOT / "scripts" / "check_commits.sh", tmp_path / "scripts")
    git(tmp_path, "config", "core.hooksPath", "scripts/hooks")
    return tmp_path


def run(folder: Path, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a command that asks git about this folder alone, whatever hook the test run itself was started from."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments])


def commit(folder: Path, message: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return git(folder, "commit", "--allow-empty", "--message", message, *arguments)


@pytest.mark.parametrize(
    "message",
    [
        f"Leases are renewed by a thread of their own{BODY}",
        f"{LONGEST}{BODY}",
        f"tus: an upload goes on after a lost connection{BODY}".replace("tus:", "Tus"),
        "Merge branch 'main' into topic",
        "fixup! Leases are renewed by a thread of their own",
    ],
)
def test_messages_by_the_convention_are_taken(repository: Path, message: str) -> None:
    result = commit(repository, message)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (f"{LONGEST}ä{BODY}", "The subject has 73 characters: use at most 72"),
        (f"feat: leases are renewed{BODY}", "Leave the prefix 'feat:' out"),
        (f"fix(jobs)!: leases are renewed{BODY}", "Leave the prefix 'fix(jobs)!:' out"),
        (f"Leases are renewed.{BODY}", "End the subject without a full stop"),
        ("Leases are renewed", "Add a body"),
        ("Leases are renewed\nThe reason.", "Leave the second line empty"),
    ],
)
def test_other_messages_are_refused_with_what_to_do(repository: Path, message: str, said: str) -> None:
    result = commit(repository, message)
    assert result.returncode != 0
    assert said in result.stderr
    assert git(repository, "rev-parse", "--verify", "--quiet", "HEAD").returncode != 0


def test_comments_and_the_diff_of_a_verbose_commit_are_not_counted(repository: Path) -> None:
    cut = f"# {'-' * 24} >8 {'-' * 24}\ndiff --git a/x b/x\n"
    result = commit(repository, f"# a comment\nLeases are renewed\n\n# another\n{cut}", "--cleanup=verbatim")
    assert result.returncode != 0
    assert (
        result.stderr.strip()
        == "Add a body, after an empty line: the reason for the change, and what shows that it works."
    )


def test_a_range_of_commits_is_checked_and_every_bad_one_is_named(repository: Path) -> None:
    commit(repository, f"The first{BODY}")
    commit(repository, f"A good one{BODY}")
    commit(repository, "Without a body", "--no-verify")
    commit(repository, f"fix: a prefix{BODY}", "--no-verify")
    script = [repository / "scripts" / "check_commits.sh"]
    good = run(repository, [*script, "HEAD~3..HEAD~2"])
    assert (good.returncode, good.stderr) == (0, "")
    bad = run(repository, [*script, "HEAD~3..HEAD"])
    assert bad.returncode == 1
    assert "Without a body" in bad.stderr
    assert "fix: a prefix" in bad.stderr
    assert "A good one" not in bad.stderr


def test_without_the_environment_a_commit_is_refused_with_what_to_do(repository: Path) -> None:
    shutil.copy(ROOT / "scripts" / "hooks" / "pre-commit", repository / "scripts" / "hooks")
    result = commit(repository, f"Leases are renewed{BODY}")
    assert result.returncode != 0
    assert "run 'make install' first" in result.stderr


def test_hooks_can_be_run() -> None:
    for hook in (ROOT / "scripts" / "hooks").iterdir():
        assert hook.stat().st_mode & 0o111, hook
