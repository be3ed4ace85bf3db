"""Exports through the Python client and `finetooth export`, on a real port and with a real worker."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner, Result

from service.cli.app import app
from service.client import ApiError, Client, ExportError
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.tables import Audit
from tests.support.exportable import jsonl, publish_audit, store_dataset
from tests.support.live_api import LiveApi, live_api
from worker.supervisor.dispatch import Supervisor

UPLOAD = jsonl(4000)
CLEANED = b"".join(UPLOAD.splitlines(keepends=True)[5:])


@pytest.fixture
def api(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveApi]:
    with live_api(settings) as api:
        monkeypatch.setenv("FINETOOTH_URL", api.url)
        monkeypatch.setenv("FINETOOTH_API_KEY", api.key)
        yield api


@pytest.fixture
def client(api: LiveApi) -> Iterator[Client]:
    with Client(api.url, api.key) as client:
        yield client


@pytest.fixture
def audit(api: LiveApi, sessions: sessionmaker[Session], settings: Settings) -> Audit:
    """Rows 0 to 4 of 4000 are flagged."""
    with sessions.begin() as session:
        dataset = store_dataset(session, LocalObjects(settings.objects), api.workspace_id, UPLOAD)
        return publish_audit(session, dataset, range(5))


@pytest.fixture
def worker(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[None]:
    """A worker of the io lane."""
    over = threading.Event()
    supervisor = Supervisor(settings, sessions, LocalObjects(settings.objects), owner="w", stopping=over)

    def work() -> None:
        while not over.wait(0.1):
            supervisor.run_due("io")

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join(30)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["export", *arguments])


@pytest.mark.usefixtures("worker")
class TestClient:
    def test_the_file_is_the_export(self, client: Client, audit: Audit, tmp_path: Path) -> None:
        states: list[str] = []
        received: list[tuple[int, int]] = []
        path = client.export(
            audit.id,
            "cleaned",
            to=tmp_path / "clean.jsonl",
            on_progress=lambda export: states.append(export["status"]),
            on_download=lambda *progress: received.append(progress),
            poll_seconds=0.1,
        )
        assert path == tmp_path / "clean.jsonl"
        assert path.read_bytes() == CLEANED
        assert states[-1] == "succeeded"
        assert received[-1] == (len(CLEANED), len(CLEANED))
        assert [item["status"] for item in client.exports()] == ["succeeded"]
        assert os.listdir(tmp_path).count("clean.jsonl") == 1
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]

    def test_of_nothing_it_is_empty(self, client: Client, audit: Audit, tmp_path: Path) -> None:
        path = client.export(audit.id, "flagged", to=tmp_path / "f", max_q=0.001, poll_seconds=0.1)
        assert path.read_bytes() == b""

    def test_a_failed_export_leaves_no_file(
        self, client: Client, audit: Audit, tmp_path: Path, settings: Settings
    ) -> None:
        LocalObjects(settings.objects).delete_tree(dataset_key(audit.workspace_id, audit.dataset_id))
        with pytest.raises(ExportError, match="not in the object store"):
            client.export(audit.id, "flagged", to=tmp_path / "f", poll_seconds=0.1)
        assert not (tmp_path / "f").exists()

    def test_an_unknown_audit(self, client: Client, tmp_path: Path) -> None:
        with pytest.raises(ApiError) as refused:
            client.export("aud_none", "flagged", to=tmp_path / "f")
        assert refused.value.code == "audit_not_found"


def test_whoever_stops_waiting_cancels_it(client: Client, audit: Audit, tmp_path: Path) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.export(audit.id, "cleaned", to=tmp_path / "f", on_progress=interrupt)
    assert [item["status"] for item in client.exports()] == ["cancelled"]


class TestCommand:
    @pytest.mark.usefixtures("worker")
    def test_it_writes_the_file(self, run: Callable[..., Result], audit: Audit, tmp_path: Path) -> None:
        began = time.monotonic()
        result = run(audit.id, "--kind", "scores", "--format", "csv", "--out", "scores.csv")
        assert result.exit_code == 0, result.stderr
        assert len((tmp_path / "scores.csv").read_bytes().splitlines()) == 4001
        assert "scores.csv" in result.stdout
        assert "Downloading" in result.stderr
        assert time.monotonic() - began < 60

    @pytest.mark.usefixtures("worker")
    def test_what_people_said_decides(
        self, run: Callable[..., Result], client: Client, audit: Audit, tmp_path: Path
    ) -> None:
        client.set_verdict(audit.id, 2, "rejected")
        assert run(audit.id, "--filter", "not_rejected", "--out", "clean.jsonl").exit_code == 0
        lines = UPLOAD.splitlines(keepends=True)
        assert (tmp_path / "clean.jsonl").read_bytes() == lines[2] + b"".join(lines[5:])

    @pytest.mark.usefixtures("worker")
    def test_it_says_how_many_samples_were_not_measured_to_the_end(
        self, run: Callable[..., Result], audit: Audit
    ) -> None:
        said = run(audit.id, "--out", "clean.jsonl").stdout
        assert "Caution: 999 samples in it were not measured to the end" in said, "of every four one, row 2 is flagged"
        assert "Caution" not in run(audit.id, "--kind", "scores", "--out", "scores.jsonl").stdout

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--out", "nowhere/clean.jsonl"], "no such folder"),
            (["--out", "."], "a folder"),
            (["--out", "f", "--max-q", "1.5"], "between 0 and 1"),
            (["--out", "f", "--kind", "everything"], "everything"),
            (["--out", "f", "--format", "xlsx"], "xlsx"),
            ([], "--out"),
        ],
    )
    def test_a_wrong_call_is_one_line(self, run: Callable[..., Result], arguments: list[str], says: str) -> None:
        result = run("aud_x", *arguments)
        assert result.exit_code == 2
        lines = [line for line in result.stderr.splitlines() if line.startswith("finetooth: ")]
        assert len(lines) == 1
        assert says in lines[0]

    def test_an_unknown_audit(self, run: Callable[..., Result], api: LiveApi, tmp_path: Path) -> None:
        result = run("aud_none", "--out", "f")
        assert result.exit_code == 2
        assert "no audit of this id" in result.stderr
        assert not (tmp_path / "f").exists()
