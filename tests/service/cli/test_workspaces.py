"""`finetooth workspaces`, `finetooth set-limits` and `finetooth delete-workspace`, on a real port."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner, Result

from service.cli.app import app
from service.keys.secrets import create_key
from service.settings import Settings
from service.store.tables import Workspace
from tests.support.builders import add_audit
from tests.support.live_api import LiveApi, live_api


@pytest.fixture
def api(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveApi]:
    with live_api(settings) as api:
        monkeypatch.setenv("FINETOOTH_URL", api.url)
        monkeypatch.setenv("FINETOOTH_API_KEY", api.key)
        monkeypatch.setenv("COLUMNS", "200")
        yield api


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def cells(result: Result, name: str) -> list[str]:
    (line,) = [line for line in result.output.splitlines() if name in line]
    return [cell.strip() for cell in line.strip(" │|").split("│")]


def test_limits_by_id_and_by_name(
    api: LiveApi, sessions: sessionmaker[Session], run: Callable[..., Result], other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        add_audit(session, other_workspace_id)
    assert cells(run("workspaces"), other_workspace_id) == [
        "other",
        other_workspace_id,
        "1 of 200",
        "0",
        "1.0 kB of 1.1 TB",
    ]
    result = run("set-limits", "other", "--max-queued-audits", "7", "--max-running-audits", "2")
    assert (result.exit_code, cells(result, other_workspace_id)[2:4]) == (0, ["1 of 7", "0 of 2"])
    result = run("set-limits", other_workspace_id, "--max-queued-audits", "default")
    assert (result.exit_code, cells(result, other_workspace_id)[2:4]) == (0, ["1 of 200", "0 of 2"])
    with sessions() as session:
        found = session.get_one(Workspace, other_workspace_id)
        assert (found.max_queued_audits, found.max_running_audits) == (None, 2)


def test_what_cannot_be_set_is_one_line(
    api: LiveApi, sessions: sessionmaker[Session], run: Callable[..., Result], other_workspace_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for arguments, words in [
        (["other"], "nothing to set: give at least one of --max-queued-audits"),
        (
            ["other", "--max-running-audits", "0"],
            "--max-running-audits must be a whole number from 1 on, or `default`",
        ),
        (["nobody", "--max-running-audits", "1"], "there is no workspace 'nobody'"),
    ]:
        result = run("set-limits", *arguments)
        assert result.exit_code == 2, result.output
        assert words in result.output
    with sessions.begin() as session:
        _, key = create_key(session, workspace_id=other_workspace_id, name="t", scopes=["admin"])
    monkeypatch.setenv("FINETOOTH_API_KEY", key)
    result = run("set-limits", "other", "--max-running-audits", "9")
    assert result.exit_code != 0
    assert "Only an admin of the installation" in result.output


def test_a_workspace_is_deleted_by_who_types_its_name_twice(
    api: LiveApi, sessions: sessionmaker[Session], run: Callable[..., Result], other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        add_audit(session, other_workspace_id)
    result = run("delete-workspace", "other")
    assert result.exit_code == 2
    assert f"nothing was deleted: 'other' ({other_workspace_id}, 1.0 kB) would be deleted" in result.output
    result = run("delete-workspace", "other", "--confirm", "Other")
    assert result.exit_code != 0
    assert "This is not the workspace's name. Nothing was deleted." in result.output
    with sessions() as session:
        assert session.get_one(Workspace, other_workspace_id).deletion_requested_at is None
    for name in ("other", other_workspace_id):
        result = run("delete-workspace", name, "--confirm", "other")
        assert (result.exit_code, f"{other_workspace_id} is being deleted" in result.output) == (0, True), result.output
    assert "of 6 gone" in cells(run("workspaces"), other_workspace_id)[5]
    result = run("delete-workspace", "default", "--confirm", "default")
    assert result.exit_code != 0
    assert "it cannot be deleted" in result.output
