"""Those who wait while the database restarts, or the server is told to stop."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.audits.live import event_stream as stream_module
from service.keys.secrets import create_key
from service.lifecycle.audits import request_cancel
from service.lifecycle.jobs import claim
from service.local.postgres import EmbeddedPostgres
from service.migration import migrate
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.seed import ensure_workspace
from tests.support.builders import add_audit
from tests.support.live_api import LiveApi, live_api
from tests.support.live_audits import Sessions, Stream, client_of, notice, poll, progress, tag_of, waiting
from tests.support.waiting import SOON, wait_for


@contextmanager
def own_postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "pg", log=folder / "pg.log", settings={"fsync": "off"})
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_a_restart_of_the_database_is_waited_out(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(stream_module, "AUTHENTICATED_SECONDS", 0.3)
    with own_postgres(tmp_path_factory.mktemp("p")) as server:
        url = server.url()
        migrate(url)
        with live_api(settings.model_copy(update={"database_url": type(settings.database_url)(url)})) as api:
            engine = make_engine(url, application_name="test")
            sessions = make_sessions(engine)
            with sessions.begin() as session:
                ensure_workspace(session)
                add_audit(session, api.workspace_id)
                held = claim(session, lane="gpu", owner="w", lease_seconds=3600)
            assert held is not None
            with client_of(api) as http, ThreadPoolExecutor(1) as pool:
                answer = pool.submit(poll, http, held, tag_of(http, held), 60)
                stream = Stream(http, held.subject_id)
                wait_for(lambda: waiting(api) == 2 and len(stream.events) == 2)
                server.stop()
                time.sleep(1.0)
                server.start()
                engine.dispose()
                notice(sessions, held, "Back.")
                progress(sessions, held, 3)
                changed = answer.result(SOON)
                assert (changed.status_code, changed.json()["progress"]["done"]) == (200, 3)
                wait_for(lambda: stream.messages[2:] == ["Back.", "Training."])
                with sessions.begin() as session:
                    request_cancel(session, workspace_id=api.workspace_id, audit_id=held.subject_id)
                wait_for(lambda: stream.messages[4:] == ["Cancel requested."])
                assert [event["seq"] for event in stream.events] == [1, 2, 3, 4, 5]
                stream.cut()
            engine.dispose()


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_a_server_that_is_told_to_stop_ends_those_who_wait(
    settings: Settings, sessions: Sessions, workspace_id: str, signal: str
) -> None:
    with sessions.begin() as session:
        _, key = create_key(session, workspace_id=workspace_id, name="x", scopes=["admin"])
        add_audit(session, workspace_id)
        held = claim(session, lane="gpu", owner="w")
    assert held is not None
    assert settings.database_url is not None
    environment = {
        "PATH": "/usr/bin:/bin",
        "FINETOOTH_DATABASE_URL": settings.database_url.get_secret_value(),
        "FINETOOTH_DATA_DIR": str(settings.data_dir),
    }
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "service.local.api", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=environment,
            cwd=Path(__file__).parents[4],
            stderr=subprocess.PIPE,
            text=True,
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        api = LiveApi(url, key, workspace_id, None)  # type: ignore[arg-type]
        with client_of(api) as http, ThreadPoolExecutor(1) as pool:
            tag = tag_of(http, held)
            answer = pool.submit(poll, http, held, tag, 60)
            stream = Stream(http, held.subject_id)
            wait_for(lambda: len(stream.events) == 2)
            time.sleep(0.5)
            told = time.monotonic()
            process.send_signal(getattr(__import__("signal"), f"SIG{signal}"))
            assert answer.result(SOON).status_code == 304
            stream.wait()
        process.wait(SOON)
        assert time.monotonic() - told < 14
        assert process.stderr is not None
        errors = process.stderr.read()
        assert "Traceback" not in errors, errors
    finally:
        process.kill()
        process.wait()
