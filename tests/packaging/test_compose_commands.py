"""The commands of the containers, run as they stand there against a real Postgres and a real Valkey."""

import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from service.local.postgres import SUPERUSER, EmbeddedPostgres
from tests.support.compose import DOCKERFILE, SERVICES, command_of
from tests.support.ports import free_port

BIN = Path(sys.executable).parent

pytestmark = pytest.mark.e2e


@pytest.fixture
def environment(postgres: EmbeddedPostgres, valkey_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What compose sets, with the test's servers and an empty database."""
    name = f"compose_{secrets.token_hex(6)}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FINETOOTH_")}
    with psycopg.connect(host=str(postgres.folder), user=SUPERUSER, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield kept | {
            "FINETOOTH_DATABASE_URL": postgres.url(name),
            "FINETOOTH_BROKER_URL": valkey_url,
            "FINETOOTH_DATA_DIR": str(tmp_path / "data"),
            "FINETOOTH_CACHE_DIR": str(tmp_path / "cache"),
            "FINETOOTH_TRAIN_ON": "any",
        }
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def command(service: str) -> list[str]:
    program, *arguments = command_of(SERVICES[service])
    return [str(BIN / program), *arguments]


@contextmanager
def running(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Ends it as `docker stop` does, and waits for it."""
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, env=environment, cwd=log.parent, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def wait_for(ready: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while ready not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def prepare(environment: dict[str, str], folder: Path) -> None:
    """What compose runs before `migrate`."""
    superuser = environment | {"PGUSER": SUPERUSER, "PGPASSWORD": "not asked for here"}
    done = subprocess.run(command("own-database"), env=superuser, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_migrate_then_api_then_sign_in(environment: dict[str, str], tmp_path: Path) -> None:
    refused = subprocess.run(command("migrate"), env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (refused.returncode, "permission denied for schema public" in refused.stderr) == (1, True)
    prepare(environment, tmp_path)
    migrated = subprocess.run(command("migrate"), env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert migrated.returncode == 0, migrated.stderr
    port = str(free_port())
    api = [{"0.0.0.0": "127.0.0.1", "8000": port}.get(word, word) for word in command("api")]
    log = tmp_path / "api.log"
    with running(api, environment, log) as process:
        wait_for("Application startup complete", log, process)
        health = DOCKERFILE.split('CMD ["python", "-c", "', 1)[1].split('"]', 1)[0].replace("8000", port)
        assert subprocess.run([BIN / "python", "-c", health], env=environment).returncode == 0
        base = f"http://127.0.0.1:{port}"
        assert urllib.request.urlopen(f"{base}/readyz", timeout=60).status == 200
        link = subprocess.run(
            [BIN / "python", "-m", "service.bootstrap", "sign-in-link", base],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert sign_in(link) == (303, "/")
        assert sign_in(link)[0] == 403
        key = (tmp_path / "data" / "admin.key").read_text().strip()
        request = urllib.request.Request(f"{base}/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert urllib.request.urlopen(request, timeout=60).status == 200
    token = link.partition("token=")[2]
    assert token not in log.read_text()
    assert key not in log.read_text() + migrated.stdout + migrated.stderr


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def sign_in(link: str) -> tuple[int, str | None]:
    """Status, and where it leads."""
    assert urllib.request.urlopen(link, timeout=60).status == 200  # the page, which changes nothing
    button = urllib.request.Request(link, method="POST", headers={"Sec-Fetch-Site": "same-origin"})
    try:
        return urllib.request.build_opener(NoRedirect).open(button, timeout=60).status, None
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers.get("Location")


@pytest.mark.parametrize("service", ["worker-gpu", "worker-io"])
def test_workers_start_answer_a_wake_up_and_stop(service: str, environment: dict[str, str], tmp_path: Path) -> None:
    prepare(environment, tmp_path)
    subprocess.run(command("migrate"), env=environment, cwd=tmp_path, check=True, capture_output=True)
    log = tmp_path / "worker.log"
    _, program, *arguments = SERVICES[service]["healthcheck"]["test"]

    def health() -> int:
        return subprocess.run([BIN / program, *arguments], env=environment, cwd=tmp_path).returncode

    assert health() == 1
    with running(command(service), environment, log) as process:
        wait_for("finetooth.wake", log, process)
        wait_for("succeeded in", log, process)
        assert health() == 0
    assert process.returncode == 0, log.read_text()
    assert health() == 1
