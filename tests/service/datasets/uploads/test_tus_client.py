"""A tus client of somebody else's against two real API processes: parts go to either, and so does the end."""

import hashlib
import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from tusclient.client import TusClient

from service.keys.secrets import create_key
from service.lifecycle.purging import purge_due
from service.settings import Settings
from service.store.object_store_factory import make_object_store
from service.store.tables import UploadPart
from tests.support.api_process import api_process
from tests.support.dataset_records import chats
from tests.support.s3_server import S3Server
from tests.support.waiting import wait_for

ROWS = 4000
PART = 100_000


@pytest.fixture(params=["folder", "bucket"])
def shared_settings(request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """With a folder as the object store, and with a bucket."""
    if request.param == "folder":
        return settings
    bucket: str = request.getfixturevalue("bucket")
    server: S3Server = request.getfixturevalue("s3_server")
    return settings.model_copy(update={"object_url": f"s3://{bucket}/p", "object_endpoint": server.endpoint})


@pytest.fixture
def addresses(shared_settings: Settings) -> Iterator[tuple[str, str]]:
    with api_process(shared_settings) as one, api_process(shared_settings) as other:
        yield one, other


@pytest.fixture
def headers(sessions: sessionmaker[Session], workspace_id: str) -> dict[str, str]:
    with sessions.begin() as session:
        key = create_key(session, workspace_id=workspace_id, name="test", scopes=["datasets:write"])[1]
    return {"Authorization": f"Bearer {key}"}


def test_an_upload_goes_on_in_another_process_after_a_lost_connection(
    addresses: tuple[str, str],
    headers: dict[str, str],
    tmp_path: Path,
    sessions: sessionmaker[Session],
    shared_settings: Settings,
    workspace_id: str,
) -> None:
    one, other = addresses
    path = tmp_path / "tea.jsonl"
    path.write_bytes(chats(ROWS))
    size = path.stat().st_size
    assert size > 3 * PART

    begun = TusClient(f"{one}/v1/uploads", headers=headers).uploader(
        str(path), chunk_size=PART, metadata={"filename": "tea chats.jsonl"}
    )
    begun.upload_chunk()
    assert begun.offset == PART
    upload = urlsplit(begun.url).path

    # A connection that is lost in the middle of a part: what had come is kept.
    lost = http.client.HTTPConnection(urlsplit(one).netloc)
    lost.putrequest("PATCH", upload)
    part_headers = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    for name, value in {**headers, **part_headers}.items():
        lost.putheader(name, value)
    lost.putheader("Upload-Offset", str(PART))
    lost.putheader("Content-Length", str(size - PART))
    lost.endheaders()
    lost.send(path.read_bytes()[PART : 2 * PART])
    lost.close()

    def offset() -> int:
        answer = httpx.head(f"{other}{upload}", headers={**headers, "Tus-Resumable": "1.0.0"})
        assert answer.status_code == 200
        return int(answer.headers["upload-offset"])

    wait_for(lambda: offset() > PART)
    assert offset() <= 2 * PART
    finish = f"{upload}/dataset"
    assert httpx.post(f"{one}{finish}", headers=headers).json()["code"] == "upload_not_complete"

    resumed = TusClient(f"{other}/v1/uploads", headers=headers).uploader(
        str(path), chunk_size=PART, url=f"{other}{upload}"
    )
    assert resumed.offset == offset()
    resumed.upload()
    assert offset() == size

    answer = httpx.post(f"{one}{finish}", headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert (dataset["rows"], dataset["bytes"], dataset["name"]) == (ROWS, size, "tea chats.jsonl")
    assert dataset["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert httpx.post(f"{other}{finish}", headers=headers, timeout=60).json() == dataset
    content = httpx.get(f"{other}/v1/datasets/{dataset['id']}/content", headers=headers)
    assert content.content == path.read_bytes()

    objects = make_object_store(shared_settings)
    purge_due(sessions, objects, seconds=10)
    with sessions() as session:
        assert session.scalars(select(UploadPart)).all() == []
    assert not objects.exists(f"{workspace_id}/uploads")
    if shared_settings.object_url is None:
        assert [name for name in os.listdir(shared_settings.objects / workspace_id / "uploads") if name] == []
