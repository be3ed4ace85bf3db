"""What a killed upload has left is swept, and nothing else."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.orphans import sweep_datasets
from service.lifecycle.reconcile import Reconciler
from service.settings import Settings
from service.store.object_store_factory import make_object_store
from service.store.objects import ObjectStore, dataset_key
from tests.support.builders import add_dataset

DAYS = 86_400.0


def age(path: Path, days: float) -> None:
    """As if nobody had written there for so long."""
    at = time.time() - days * DAYS
    for part in (*path.rglob("*"), path):
        os.utime(part, (at, at))


@pytest.fixture
def leave(settings: Settings, workspace_id: str) -> Callable[..., Path]:
    """Leaves an unfinished object and a whole one of a dataset; the folder."""

    def leave(dataset_id: str, *, days: float, workspace: str = workspace_id) -> Path:
        folder = settings.objects / dataset_key(workspace, dataset_id)
        folder.mkdir(parents=True)
        (folder / ".abc.part").write_bytes(b"half an upload")
        (folder / "original").write_bytes(b"a whole one")
        age(folder, days)
        return folder

    return leave


@pytest.fixture
def objects(settings: Settings) -> ObjectStore:
    return make_object_store(settings)


def test_what_has_no_row_goes_after_a_day(
    settings: Settings,
    sessions: sessionmaker[Session],
    workspace_id: str,
    objects: ObjectStore,
    leave: Callable[..., Path],
) -> None:
    with sessions.begin() as session:
        recorded = leave(add_dataset(session, workspace_id), days=30)
    lost, young = leave("ds_lost", days=1.1), leave("ds_young", days=0.9)
    elsewhere = leave("ds_foreign", days=30, workspace="ws_of_another_database")
    written = leave("ds_written", days=30)
    (written / ".abc.part").write_bytes(b"still coming")
    assert Reconciler(settings, sessions, objects, owner="r").round()
    assert not lost.exists()
    assert all(folder.exists() for folder in (recorded, young, elsewhere, written))


def test_in_a_bucket(
    tmp_path: Path, bucket: str, s3_server: object, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    store = make_object_store(
        Settings(data_dir=tmp_path, object_url=f"s3://{bucket}/p", object_endpoint=s3_server.endpoint)  # type: ignore[attr-defined]
    )
    with sessions.begin() as session:
        recorded = dataset_key(workspace_id, add_dataset(session, workspace_id), "original")
    lost = dataset_key(workspace_id, "ds_lost", "original")
    for key in (recorded, lost):
        with store.create(key) as file:
            file.write(b"bytes")
    assert sweep_datasets(sessions, store) == []
    assert sweep_datasets(sessions, store, untouched=timedelta(0)) == ["ds_lost"]
    assert (store.exists(recorded), store.exists(lost)) == (True, False)
