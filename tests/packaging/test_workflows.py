"""What the forge reads: workflows, forms, owners, the development container. No forge is needed."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.support.compose import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
JOBS = {
    f"{path.stem}: {name}": job for path in WORKFLOWS for name, job in yaml.safe_load(path.read_text())["jobs"].items()
}
STEPS = [step for job in JOBS.values() for step in job["steps"]]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MADE = re.compile(r"\bmake ((?:[\w-]+ ?)+)")


def follows(schema: str, path: Path) -> None:
    """The file follows a schema that check-jsonschema carries."""
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", schema, path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_there_are_jobs_for_style_tests_documentation_and_images() -> None:
    commands = "\n".join(step.get("run", "") for step in STEPS)
    for command in ("make lint", "make test", "make docs", "docker build"):
        assert command in commands


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_follow_the_schema_and_end_by_themselves(path: Path, schema: str) -> None:
    follows(schema, path)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_read_and_nothing_else(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_actions_are_pinned() -> None:
    used = {step["uses"] for step in STEPS if "uses" in step}
    assert used
    assert [name for name in used if not re.search(r"@(v\d+|[0-9a-f]{40})$", name)] == []


def test_make_targets_of_workflows_and_container_exist() -> None:
    commands = [step.get("run", "") for step in STEPS]
    commands.append(json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["postCreateCommand"])
    named = {target for command in commands for found in MADE.findall(command) for target in found.split()}
    assert {"lint", "test", "docs", "install", "hooks"} <= named
    assert named <= TARGETS


def test_scripts_of_workflows_exist_and_can_be_run() -> None:
    named = {script for step in STEPS for script in re.findall(r"scripts/[\w./-]+", step.get("run", ""))}
    assert named
    for script in named:
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_nothing_from_outside_is_put_into_a_command() -> None:
    """A branch's name is a text that a stranger chooses: it reaches a shell as a variable alone."""
    assert [step["run"] for step in STEPS if "${{" in step.get("run", "")] == []


def test_every_supported_python_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = JOBS["checks: test"]["strategy"]["matrix"]["python"]
    assert all(isinstance(version, str) for version in tested), "3.10 without quotation marks is 3.1"
    supported = SpecifierSet(project["requires-python"])
    assert [version for version in tested if version not in supported] == []
    assert f">={tested[0]}" == str(supported)


def test_images_that_are_built_are_those_of_the_dockerfile() -> None:
    targets = JOBS["checks: images"]["strategy"]["matrix"]["target"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert sorted(targets) == sorted(re.findall(r"docker build --target (\w+)", dockerfile))


@pytest.mark.parametrize("name", ["bug.yml", "idea.yml"])
def test_issue_forms_follow_the_schema(name: str) -> None:
    follows("vendor.github-issue-forms", GITHUB / "ISSUE_TEMPLATE" / name)


def test_the_chooser_of_issues_follows_the_schema() -> None:
    follows("vendor.github-issue-config", GITHUB / "ISSUE_TEMPLATE" / "config.yml")


def test_owned_paths_exist() -> None:
    lines = (GITHUB / "CODEOWNERS").read_text().splitlines()
    owned = [line.split() for line in lines if line and not line.startswith("#")]
    assert owned[0][0] == "*"
    for path, *owners in owned:
        assert owners
        assert all(re.fullmatch(r"@[\w-]+(/[\w-]+)?", owner) for owner in owners)
        assert path == "*" or (ROOT / path.strip("/")).exists(), path


def test_the_pull_request_template_asks_for_what_contributing_asks() -> None:
    text = (GITHUB / "pull_request_template.md").read_text()
    for word in ("test fails without", "CHANGELOG.md", "72 characters"):
        assert word in text


def test_the_openapi_document_is_marked_as_generated() -> None:
    command = ["git", "check-attr", "linguist-generated", "--", "docs/openapi.json", "docs/api.md"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found == ["docs/openapi.json: linguist-generated: true", "docs/api.md: linguist-generated: unspecified"]
