"""An installation is backed up at work, destroyed, and restored: on a real Postgres, in a folder and in a bucket."""

import json
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.backup.__main__ import main
from service.backup.archive import newest_program
from service.keys.secrets import create_key
from service.local.postgres import SUPERUSER, USER, EmbeddedPostgres
from service.settings import Settings
from service.store.object_store_factory import make_object_store
from service.store.objects import dataset_key
from service.store.seed import ensure_workspace
from tests.support.children.scripting import FINISHED, OUTPUTS, spawning
from tests.support.s3_server import S3Server
from worker.supervisor.dispatch import Supervisor

PROGRAMS = ("pg_dump", "pg_restore")
COMMANDS = re.sub(r"\\\s+", "", (Path(__file__).parents[2] / "docs" / "operating.md").read_text())
"""With each command in one line."""

ROWS = "".join(
    json.dumps(
        {"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": f"The answer {n}."}]}
    )
    + "\n"
    for n in range(40)
)


@pytest.fixture(params=["folder", "bucket"])
def stored(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    if request.param == "folder":
        return settings
    server: S3Server = request.getfixturevalue("s3_server")
    bucket: str = request.getfixturevalue("bucket")
    return settings.model_copy(update={"object_url": f"s3://{bucket}/ft", "object_endpoint": server.endpoint})


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def sign_in(client: TestClient, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        workspace = ensure_workspace(session)
        _, secret = create_key(session, workspace_id=workspace.id, name="test", scopes=["admin"])
    client.headers["Authorization"] = f"Bearer {secret}"


def work(client: TestClient, settings: Settings, sessions: sessionmaker[Session]) -> list[str]:
    """A dataset, an audit with results and a verdict, and one that waits; what to ask for to see them."""
    dataset = client.post("/v1/datasets", params={"name": "d.jsonl"}, content=ROWS).json()["id"]
    probe = client.post("/v1/probes", json={"name": "p", "items": [{"prompt": "a", "unwanted": "b"}]}).json()["id"]
    asked = {"dataset_id": dataset, "probe_ids": [probe], "model_id": "llama-3.1-8b", "training": {"seed": 7}}
    audit = client.post("/v1/audits", json=asked).json()["id"]
    supervisor = Supervisor(
        settings,
        sessions,
        make_object_store(settings),
        owner="test",
        stopping=threading.Event(),
        launcher=spawning([OUTPUTS, FINISHED]),
    )
    assert supervisor.run_due("gpu") == 1
    said = client.put(f"/v1/audits/{audit}/findings/39/verdict", json={"verdict": "confirmed", "note": "yes"})
    assert said.status_code == 200, said.text
    waiting = client.post("/v1/audits", json=asked).json()["id"]
    return [
        f"/v1/datasets/{dataset}/rows",
        f"/v1/datasets/{dataset}/content",
        f"/v1/audits/{audit}/findings",
        f"/v1/audits/{audit}/findings/0",
        f"/v1/audits/{audit}/findings/39",
        f"/v1/audits/{audit}",
        f"/v1/audits/{waiting}",
        "/v1/probes",
        "/v1/audits",
    ]


def destroy(settings: Settings, postgres: EmbeddedPostgres) -> None:
    """Nothing is left but an empty database."""
    assert settings.database_url is not None
    name = make_url(settings.database_url.get_secret_value()).database
    with psycopg.connect(host=str(postgres.folder), user=SUPERUSER, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} OWNER {USER}")
    objects = make_object_store(settings)
    for workspace in {key.partition("/")[0] for key in objects.all_keys()}:
        assert objects.delete_tree(workspace)
    assert list(objects.all_keys()) == []


@pytest.fixture
def open_client(stored: Settings) -> Callable[[], TestClient]:
    return lambda: TestClient(create_app(stored), base_url="http://127.0.0.1", raise_server_exceptions=False)


def test_what_was_destroyed_comes_back_byte_by_byte(
    stored: Settings,
    open_client: Callable[[], TestClient],
    sessions: sessionmaker[Session],
    postgres: EmbeddedPostgres,
    backup: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_client() as client:
        sign_in(client, sessions)
        headers = dict(client.headers)
        paths = work(client, stored, sessions)
        answers = {path: client.get(path).content for path in paths}
        # While the service runs.
        assert main(["create", str(backup)], stored) == 0, capsys.readouterr().err
    assert main(["check"], stored) == 0
    destroy(stored, postgres)
    assert main(["verify", str(backup)], stored) == 0
    assert main(["restore", str(backup)], stored) == 0, capsys.readouterr().err
    assert main(["check"], stored) == 0
    with open_client() as client:
        client.headers.update(headers)
        assert client.get("/readyz").status_code == 200
        for path in paths:
            assert client.get(path).content == answers[path], path
    # What waited is run there, as it would have been.
    supervisor = Supervisor(
        stored, sessions, make_object_store(stored), owner="next", stopping=threading.Event(),
        launcher=spawning([OUTPUTS, FINISHED]),
    )  # fmt: skip
    assert supervisor.run_due("gpu") == 1
    assert "Every row finds its objects." in capsys.readouterr().out


@pytest.fixture
def made(settings: Settings, sessions: sessionmaker[Session], backup: Path) -> str:
    """A backup of one dataset; the dataset's id."""
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        sign_in(client, sessions)
        dataset = client.post("/v1/datasets", content=ROWS).json()["id"]
    assert main(["create", str(backup)], settings) == 0
    return dataset


@pytest.mark.usefixtures("made")
def test_what_is_damaged_or_not_finished_is_not_restored(
    settings: Settings, postgres: EmbeddedPostgres, backup: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    destroy(settings, postgres)
    rows = next(backup.rglob("rows.parquet"))
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert main(["restore", str(backup)], settings) == 1
    assert "is damaged" in capsys.readouterr().err
    rows.unlink()
    assert main(["verify", str(backup)], settings) == 1
    assert "is missing" in capsys.readouterr().err
    rows.write_bytes(whole)
    manifest = backup / "manifest.json"
    manifest.rename(backup / "elsewhere")
    assert main(["restore", str(backup)], settings) == 1
    assert "not finished" in capsys.readouterr().err
    (backup / "elsewhere").rename(manifest)
    assert list(make_object_store(settings).all_keys()) == []
    # One that was interrupted among the objects is called again.
    key = rows.relative_to(backup / "objects").as_posix()
    make_object_store(settings).put_file(key, manifest)
    assert main(["restore", str(backup)], settings) == 0
    assert main(["check"], settings) == 0


@pytest.mark.usefixtures("made")
def test_nothing_that_is_there_is_written_over(
    settings: Settings, postgres: EmbeddedPostgres, backup: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["restore", str(backup)], settings) == 1
    assert "has tables already" in capsys.readouterr().err
    assert main(["create", str(backup)], settings) == 1
    assert "is to be empty" in capsys.readouterr().err
    destroy(settings, postgres)
    make_object_store(settings).put_file("ws_x/datasets/ds_x/original", backup / "manifest.json")
    assert main(["restore", str(backup)], settings) == 1
    assert "restore into an empty one" in capsys.readouterr().err


def test_check_names_what_is_missing(made: str, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    objects = make_object_store(settings)
    (key,) = [key for key in objects.all_keys() if key.endswith(f"{made}/original")]
    objects.delete_tree(dataset_key(key.partition("/")[0], made))
    assert main(["check"], settings) == 1
    said = capsys.readouterr().out
    assert f"missing: {key}" in said
    assert "2 objects are missing" in said


@pytest.mark.usefixtures("made")
def test_the_database_may_be_dumped_and_restored_by_other_means(
    settings: Settings, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    """By the superuser, as the document has it for Compose."""
    assert settings.database_url is not None
    name = make_url(settings.database_url.get_secret_value()).database or ""
    dump, restore = (
        re.findall(rf"postgres ({program} .*?) finetooth [<>]", COMMANDS)[0].split() for program in PROGRAMS
    )
    other = tmp_path / "other"
    other.mkdir()
    where = ["--host", str(postgres.folder)]
    with (other / "database.dump").open("wb") as file:
        subprocess.run([newest_program(dump[0]), *where, *dump[1:], name], stdout=file, check=True)
    assert main(["create", str(other), "--objects-only"], settings) == 0
    destroy(settings, postgres)
    with (other / "database.dump").open("rb") as file:
        subprocess.run([newest_program(restore[0]), *where, *restore[1:], name], stdin=file, check=True)
    assert main(["restore", str(other), "--objects-only"], settings) == 0
    assert main(["check"], settings) == 0
    with psycopg.connect(host=str(postgres.folder), user=USER, dbname=name) as own:
        owners = own.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert owners == [(USER,)]


@pytest.mark.parametrize("arguments", [[], ["create"], ["dump", "x"], ["check", "x"]])
def test_a_wrong_call_says_how(arguments: list[str], settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, settings) == 2
    assert "usage: python -m service.backup" in capsys.readouterr().err
