"""What every object store promises, asked of a folder and of a bucket on a real S3 server."""

import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from service.settings import Settings
from service.store.object_store_factory import make_object_store
from service.store.objects import ObjectMissingError, ObjectStore, ObjectStoreUnavailableError
from service.store.rows import page, read_rows
from service.store.s3_objects import PART_BYTES
from tests.support.s3_server import CREDENTIALS, S3Server

MIB = 2**20


@pytest.fixture(params=["folder", "bucket"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ObjectStore]:
    """Each call gives one more store, as another process would have it, on the same objects."""
    given: dict[str, object] = {"object_dir": tmp_path / "objects"}
    if request.param == "bucket":
        name = request.getfixturevalue("bucket")
        endpoint = request.getfixturevalue("s3_server").endpoint
        given = {"object_url": f"s3://{name}/some/prefix", "object_endpoint": endpoint}
    return lambda: make_object_store(Settings(data_dir=tmp_path / "data", **given))


@pytest.fixture
def store(make_store: Callable[[], ObjectStore]) -> ObjectStore:
    return make_store()


def write(store: ObjectStore, key: str, data: bytes) -> None:
    with store.create(key) as file:
        file.write(data)


def read(store: ObjectStore, key: str) -> bytes:
    with store.open(key) as file:
        return file.read()


def test_what_is_written_is_read(store: ObjectStore) -> None:
    for key, data in {"a/b/c.bin": b"\0\xff text", "a/empty": b""}.items():
        write(store, key, data)
        assert read(store, key) == data
        assert store.exists(key)


def test_an_object_can_be_written_again(make_store: Callable[[], ObjectStore]) -> None:
    first, second = make_store(), make_store()
    write(first, "a/b", b"one")
    assert read(second, "a/b") == b"one"
    write(first, "a/b", b"another")
    assert read(second, "a/b") == b"another"


def test_it_appears_with_the_end_of_the_block(make_store: Callable[[], ObjectStore]) -> None:
    store, reader = make_store(), make_store()
    with store.create("a/b") as file:
        file.write(b"x" * MIB)
        file.flush()
        assert not reader.exists("a/b")
        with pytest.raises(ObjectMissingError):
            read(reader, "a/b")
    assert reader.exists("a/b")


def test_nobody_sees_half_an_object(make_store: Callable[[], ObjectStore], tmp_path: Path) -> None:
    """A reader asks again and again while two versions of several parts replace each other."""
    store, reader = make_store(), make_store()
    versions = []
    for number in range(2):
        path = tmp_path / f"version{number}"
        path.write_bytes(bytes([number]) * (2 * PART_BYTES + 5 * MIB + number))
        versions.append(path)
    done = threading.Event()

    def put() -> None:
        try:
            for number in (0, 1, 0, 1):
                store.put_file("a/b", versions[number])
        finally:
            done.set()

    writer = threading.Thread(target=put)
    writer.start()
    seen = set()
    while not done.is_set():
        try:
            with reader.open("a/b") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(0)
                first = file.read(1)
                file.seek(end - 1)
                last = file.read(1)
        except ObjectMissingError:
            continue
        except ObjectStoreUnavailableError:
            continue  # The version that was being read has been replaced: told, and not mixed with the next.
        assert first == last
        assert end == versions[first[0]].stat().st_size
        seen.add(first)
    writer.join()
    assert seen
    assert reader.exists("a/b")


def test_a_block_that_fails_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    write(store, "a/kept", b"before")

    def fail(key: str) -> None:
        with store.create(key) as file:
            file.write(b"x" * (2 * PART_BYTES + 1))
            raise KeyError

    for key in ("a/kept", "a/new"):
        with pytest.raises(KeyError):
            fail(key)
    assert read(store, "a/kept") == b"before"
    assert not store.exists("a/new")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in (["kept"], [])


def test_a_child_can_write_through_the_descriptor(store: ObjectStore) -> None:
    with store.create("a/b") as file:
        os.write(file.fileno(), b"from another process")
    assert read(store, "a/b") == b"from another process"


def test_files_go_in_and_come_out_whole(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    block = os.urandom(MIB)
    with source.open("wb") as file:
        for number in range(2 * PART_BYTES // MIB + 3):
            file.write(number.to_bytes(4) + block)
    store.put_file("a/b", source)
    store.fetch("a/b", target)
    assert target.read_bytes() == source.read_bytes()


def test_no_object_is_held_in_memory(store: ObjectStore, tmp_path: Path) -> None:
    size = 128 * MIB
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(size)
    store.exists("a/warm")  # the client's own modules are not the object
    tracemalloc.start()
    try:
        store.put_file("a/b", source)
        store.fetch("a/b", tmp_path / "target")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "target").stat().st_size == size
    assert peak < 0.75 * size


def test_reading_can_start_anywhere(store: ObjectStore) -> None:
    write(store, "a/b", bytes(range(256)) * 1000)
    with store.open("a/b") as file:
        assert file.seekable()
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"\xfd\xfe\xff"
        file.seek(256 * 7 + 5)
        assert file.read(2) == b"\x05\x06"
        assert file.tell() == 256 * 7 + 7


def test_parquet_is_read_in_place(store: ObjectStore) -> None:
    rows = [{"row": row, "messages": [{"role": "user", "content": f"t{row}"}], "extra": "{}"} for row in range(5000)]
    with store.create("ds/rows.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=500)
    with store.open("ds/rows.parquet") as file:
        assert [row["row"] for row in read_rows(file, [4999, 0, 2500])] == [4999, 0, 2500]
        assert [row["row"] for row in page(file, 2498, 3)] == [2499, 2500, 2501]


def test_a_missing_object_is_named_with_what_to_check(store: ObjectStore, tmp_path: Path) -> None:
    write(store, "a/b/c", b"1")
    for key in ("a/x", "a/b", "a/b/c/d"):
        assert not store.exists(key)
        with pytest.raises(ObjectMissingError, match=rf"{key}.*FINETOOTH_OBJECT_DIR"), store.open(key):
            pass
    with pytest.raises(ObjectMissingError):
        store.fetch("a/x", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_tree_is_deleted_and_its_neighbours_stay(store: ObjectStore) -> None:
    for key in ("ws/ds_1/original", "ws/ds_1/deep/er/rows", "ws/ds_10/original", "ws/ds_2"):
        write(store, key, b"1")
    store.delete_tree("ws/ds_1")
    assert [key for key in ("ws/ds_1/original", "ws/ds_1/deep/er/rows", "ws/ds_10/original", "ws/ds_2")
            if store.exists(key)] == ["ws/ds_10/original", "ws/ds_2"]  # fmt: skip
    store.delete_tree("ws/ds_1")
    store.delete_tree("ws/never")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\0b"])
def test_a_key_leads_nowhere_else(store: ObjectStore, key: str, tmp_path: Path) -> None:
    for act in (store.exists, store.delete_tree):
        with pytest.raises(ValueError, match="not an object key"):
            act(key)
    for block in (store.open, store.create):
        with pytest.raises(ValueError, match="not an object key"), block(key):
            pass
    for copy in (store.put_file, store.fetch):
        with pytest.raises(ValueError, match="not an object key"):
            copy(key, Path(__file__) if copy == store.put_file else tmp_path / "x")


class TestBucket:
    """What only a bucket can do."""

    @pytest.fixture
    def given(self, bucket: str, s3_server: S3Server, tmp_path: Path) -> dict[str, object]:
        return {
            "object_url": f"s3://{bucket}/pre",
            "object_endpoint": s3_server.endpoint,
            "data_dir": tmp_path,
        }

    def test_objects_lie_under_the_prefix(self, given: dict[str, object], bucket: str, s3_server: S3Server) -> None:
        write(make_object_store(Settings(**given)), "ws/a", b"1")
        outside = s3fs.S3FileSystem(endpoint_url=s3_server.endpoint, skip_instance_cache=True)
        assert outside.find(bucket) == [f"{bucket}/pre/ws/a"]

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"object_url": "s3://no-such-bucket-here"}, "no-such-bucket-here"),
            ({"object_endpoint": "http://127.0.0.1:9"}, "EndpointConnectionError"),
        ],
    )
    def test_a_store_that_is_not_there_says_so_and_quotes_no_secret(
        self, given: dict[str, object], changed: dict[str, object], says: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", "service")
        store = make_object_store(Settings(**(given | changed)))
        with pytest.raises(ObjectStoreUnavailableError, match=says) as raised, store.create("ws/a") as file:
            file.write(b"1")
        store.delete_tree("ws/a")
        for secret in CREDENTIALS.values():
            assert secret not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"object_dir": "/x", "object_url": "s3://bucket"}, "not both"),
        ({"object_endpoint": "http://127.0.0.1:9000"}, "goes with"),
        ({"object_url": "s3://key:secret@bucket/x"}, "without credentials"),
        ({"object_url": "https://bucket.example.org"}, "s3://BUCKET"),
        ({"object_url": "s3://bucket", "object_endpoint": "http://key:secret@host"}, "without credentials"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        Settings(**given)
    assert "secret" not in str(raised.value)
