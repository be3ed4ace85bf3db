"""Importing a base model into the object store: checked, hashed, whole or not at all, and for one workspace alone."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.backup.missing import missing_objects
from service.contract.stored_models import StoredModel
from service.lifecycle.purging import LATE_SECONDS, purge_due
from service.lifecycle.workspaces import request_deletion
from service.model_import.__main__ import main
from service.model_import.importing import ImportRefusedError, import_model
from service.models.shapes import shape_of
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import model_key
from service.store.tables import AuditLogEntry, Model, ObjectPurge
from tests.support.leftovers import files_naming
from tests.support.model_folders import make_model_folder

Sessions = sessionmaker[Session]
CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 32,
}  # fmt: skip


@pytest.fixture
def objects(settings: Settings) -> LocalObjects:
    return LocalObjects(settings.objects)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "llama"
    folder.mkdir()
    make_model_folder(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("about it")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    return folder


def stored_files(settings: Settings) -> list[Path]:
    return [path for path in settings.objects.rglob("*") if path.is_file()]


def pass_hour(sessions: Sessions) -> None:
    with sessions.begin() as session:
        ago = timedelta(seconds=LATE_SECONDS)
        session.execute(
            update(ObjectPurge).values(created_at=ObjectPurge.created_at - ago, due_at=ObjectPurge.due_at - ago)
        )


def test_a_workspace_gets_a_model(
    client: TestClient, make_client: Callable[..., TestClient], sessions: Sessions, objects: LocalObjects,
    settings: Settings, folder: Path, other_workspace_id: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["other", "llama-8b", str(folder)], settings) == 0
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    size = sum((folder / name).stat().st_size for name in names)
    tenant = make_client("admin", workspace=other_workspace_id)
    (shown,) = tenant.get("/v1/models").json()["data"]
    assert (shown["name"], shown["source"], shown["bytes"]) == ("llama-8b", "stored", size)
    assert capsys.readouterr().out == f"{shown['id']}: 3 files, {size:,} bytes, SHA-256 {shown['revision']}\n"
    with sessions() as session:
        model = session.get_one(Model, shown["id"])
        stored = StoredModel.model_validate(model.stored)
        assert [file.name for file in stored.files] == names, "what describes it, and its weights: no program"
        for file in stored.files:
            content = (folder / file.name).read_bytes()
            assert file.sha256 == hashlib.sha256(content).hexdigest()
            assert objects.path(model_key(other_workspace_id, model.id, file.sha256)).read_bytes() == content
        assert len(stored_files(settings)) == 3
        shape = shape_of(model)
        assert shape is not None
        assert (shape.hidden_size, shape.num_key_value_heads) == (8, 2), "what it takes can be estimated"
        assert missing_objects(session, objects) == []
        entry = session.scalars(select(AuditLogEntry).where(AuditLogEntry.action == "model.import")).one()
        assert (entry.workspace_id, entry.object_id, entry.key_id) == (other_workspace_id, model.id, None)
        assert session.scalars(select(ObjectPurge)).all() == []
    # No other workspace sees it.
    assert client.get(f"/v1/models/{shown['id']}").json()["code"] == "model_not_found"
    assert client.delete(f"/v1/models/{shown['id']}").status_code == 404
    # Nor does it lose its files to anything but its deletion.
    pass_hour(sessions)
    purge_due(sessions, objects, seconds=60)
    assert len(stored_files(settings)) == 3
    stored_files(settings)[0].unlink()
    with sessions() as session:
        assert len(missing_objects(session, objects)) == 1
    assert tenant.delete("/v1/models/llama-8b").status_code == 204
    purge_due(sessions, objects, seconds=60)
    assert files_naming(settings.objects, shown["id"]) == []


def test_the_digest_changes_with_any_byte_and_not_with_the_place(
    sessions: Sessions, objects: LocalObjects, folder: Path, workspace_id: str, other_workspace_id: str
) -> None:
    def digest(workspace: str, name: str) -> str | None:
        return import_model(sessions, objects, workspace=workspace, name=name, folder=folder).revision

    first = digest(workspace_id, "a")
    assert digest(other_workspace_id, "b") == first
    (folder / "tokenizer.json").write_text("{ }")
    assert digest(workspace_id, "c") != first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody", "m", "."], "there is no workspace 'nobody'"),
        (["default", "My Model", "."], "lower-case letters"),
        (["default", "llama-3.1-8b", "."], "has a model named 'llama-3.1-8b' already"),
        (["default", "m", "nowhere"], "nowhere: No such file or directory"),
        (["default", "m", "empty"], "The folder has no config.json"),
        (["default", "m", "pickled"], "a pickle that could run code"),
        (["default", "m", "odd"], "the folder holds 'vocab one.txt': rename it"),
    ],
)
@pytest.mark.usefixtures("workspace_id")
def test_what_is_refused_leaves_nothing(
    sessions: Sessions, settings: Settings, folder: Path, arguments: list[str], words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if arguments[2] == "pickled":
        (folder / "pytorch_model.bin").write_bytes(b"")
    if arguments[2] == "odd":
        (folder / "vocab one.txt").write_text("a")
    (folder.parent / "empty").mkdir()
    where = {".": folder, "pickled": folder, "odd": folder}.get(arguments[2], folder.parent / arguments[2])
    assert main([*arguments[:2], str(where)], settings) == 1
    assert words in capsys.readouterr().err
    assert stored_files(settings) == []
    with sessions() as session:
        assert session.scalars(select(Model).where(Model.stored.is_not(None))).all() == []


def test_a_wrong_call_says_how(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["default"], settings) == 2
    assert "usage: python -m service.model_import WORKSPACE NAME FOLDER" in capsys.readouterr().err


class Killed(Exception):  # noqa: N818
    """The process ends here."""


class Interrupted(LocalObjects):
    """Does something as the second file is copied."""

    def __init__(self, root: Path, act: Callable[[], None]) -> None:
        super().__init__(root)
        self._act = act
        self._files = 0

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        self._files += 1
        if self._files == 2:
            self._act()
        with super().create(key) as file:
            yield file


def test_what_a_killed_import_has_copied_is_deleted_an_hour_later(
    sessions: Sessions, objects: LocalObjects, settings: Settings, folder: Path, workspace_id: str
) -> None:
    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        import_model(sessions, Interrupted(settings.objects, die), workspace="default", name="m", folder=folder)
    purge_due(sessions, objects, seconds=60)
    assert len(stored_files(settings)) == 1, "it might still be going on"
    pass_hour(sessions)
    purge_due(sessions, objects, seconds=60)
    assert stored_files(settings) == []
    assert import_model(sessions, objects, workspace="default", name="m", folder=folder).name == "m"
    assert len(stored_files(settings)) == 3


def test_an_import_that_lost_its_files_meanwhile_registers_nothing(
    sessions: Sessions, objects: LocalObjects, settings: Settings, folder: Path, workspace_id: str
) -> None:
    """One file takes longer than the hour after which all would be deleted."""

    def wait() -> None:
        pass_hour(sessions)
        purge_due(sessions, objects, seconds=60)

    with pytest.raises(ImportRefusedError, match="import the model again"):
        import_model(sessions, Interrupted(settings.objects, wait), workspace="default", name="m", folder=folder)
    with sessions() as session:
        assert session.scalars(select(Model.name).where(Model.stored.is_not(None))).all() == []


def test_a_file_that_changes_meanwhile_is_noticed(
    sessions: Sessions, settings: Settings, folder: Path, workspace_id: str
) -> None:
    def change() -> None:
        (folder / "model.safetensors").write_bytes(b"other")

    with pytest.raises(ImportRefusedError, match=r"model\.safetensors changed"):
        import_model(sessions, Interrupted(settings.objects, change), workspace="default", name="m", folder=folder)
    assert len(stored_files(settings)) == 2, "what is not what was hashed does not appear"


def test_a_workspace_that_is_deleted_meanwhile_gets_none(
    sessions: Sessions, settings: Settings, folder: Path, other_workspace_id: str
) -> None:
    def delete() -> None:
        with sessions.begin() as session:
            request_deletion(session, workspace_id=other_workspace_id)

    with pytest.raises(ImportRefusedError, match="there is no workspace"):
        import_model(sessions, Interrupted(settings.objects, delete), workspace="other", name="m", folder=folder)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Model)) == 0


def test_it_is_not_registered_over_rest(client: TestClient) -> None:
    body = {"name": "m", "source": "stored", "location": "stored:m", "revision": "0" * 64}
    answer = client.post("/v1/models", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "model_invalid")
    assert "python -m service.model_import" in answer.json()["detail"]
