"""Checkpoints on their way to the object store and back: on real files, in a folder and in a bucket."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from service.contract.protocol import CheckpointEvent
from service.lifecycle.jobs import Claim
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.object_store_factory import make_object_store
from service.store.objects import ObjectStore
from tests.support.waiting import wait_for
from worker.supervisor.audit.checkpoint_store import CheckpointUploads, delete_checkpoints, stage_checkpoints

STEP = "train:7"


def claim(attempt: int, claimed: Claim) -> Claim:
    return replace(claimed, attempt=attempt)


@pytest.fixture
def claimed() -> Claim:
    return Claim(job_id="job_1", kind="audit", workspace_id="ws_1", subject_id="aud_1", attempt=1, owner="me")


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    settings = Settings(data_dir=tmp_path / "data")
    if request.param == "bucket":
        endpoint = request.getfixturevalue("s3_server").endpoint
        bucket = request.getfixturevalue("bucket")
        settings = settings.model_copy(update={"object_url": bucket, "object_endpoint": endpoint})
    return make_object_store(settings)


class Worker:
    """One attempt's folder, in which the test plays the child."""

    def __init__(self, objects: ObjectStore, claimed: Claim, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.holds = folder, True
        self.uploads = CheckpointUploads(objects, claimed, STEP, folder, ours=lambda: self.holds)

    def saves(self, step: int, content: str) -> CheckpointEvent:
        own = self.folder / "checkpoints" / f"{step:09d}"
        own.mkdir(parents=True)
        for name in ("state.json", "weights.safetensors", "manifest.json"):
            (own / name).write_text(f"{content} {name}")
        event = CheckpointEvent(name=own.name)
        self.uploads.take(event)
        return event

    def ends(self) -> None:
        self.uploads.close(10, wanted=True)


def staged(objects: ObjectStore, claimed: Claim, folder: Path) -> dict[str, str]:
    """What the next child finds: of each checkpoint, who wrote it."""
    folder.mkdir()
    stage_checkpoints(objects, claimed, STEP, folder)
    found = {}
    for checkpoint in sorted((folder / "checkpoints").glob("*")):
        written = {file.name: file.read_text().removesuffix(f" {file.name}") for file in checkpoint.iterdir()}
        assert written.keys() == {"state.json", "weights.safetensors", "manifest.json"}
        (found[checkpoint.name],) = set(written.values())
    return found


def test_the_last_two_are_there_for_the_next_attempt(objects: ObjectStore, claimed: Claim, tmp_path: Path) -> None:
    worker = Worker(objects, claimed, tmp_path / "one")
    for step in (10, 20, 30):
        worker.saves(step, "first")
        wait_for(lambda: not any((worker.folder / "uploads").iterdir()))
    worker.ends()
    assert staged(objects, claim(2, claimed), tmp_path / "two") == {"000000020": "first", "000000030": "first"}
    assert not objects.exists("ws_1/audits/aud_1/checkpoints/train-7/1/000000010/state.json")


def test_nothing_stored_is_nothing_staged(objects: ObjectStore, claimed: Claim, tmp_path: Path) -> None:
    assert staged(objects, claimed, tmp_path / "one") == {}


def test_an_attempt_that_went_on_has_the_newest_and_the_one_before(
    objects: ObjectStore, claimed: Claim, tmp_path: Path
) -> None:
    for attempt, step in ((1, 10), (1, 20), (2, 30)):
        worker = Worker(objects, claim(attempt, claimed), tmp_path / f"{attempt}-{step}")
        worker.saves(step, f"attempt {attempt}")
        worker.ends()
    found = staged(objects, claim(3, claimed), tmp_path / "three")
    assert found == {"000000030": "attempt 2", "000000020": "attempt 1"}


def test_one_that_had_to_begin_anew_comes_before_what_was_of_no_use(
    objects: ObjectStore, claimed: Claim, tmp_path: Path
) -> None:
    for attempt, steps in ((1, (80, 90)), (2, (10, 20))):
        worker = Worker(objects, claim(attempt, claimed), tmp_path / str(attempt))
        for step in steps:
            worker.saves(step, f"attempt {attempt}")
            wait_for(lambda own=worker: not any((own.folder / "uploads").iterdir()))
        worker.ends()
    found = staged(objects, claim(3, claimed), tmp_path / "three")
    assert found == {"000000010": "attempt 2", "000000020": "attempt 2"}


def test_a_fenced_worker_writes_no_more_and_touches_nobody_elses(
    objects: ObjectStore, claimed: Claim, tmp_path: Path
) -> None:
    zombie, heir = (Worker(objects, claim(n, claimed), tmp_path / str(n)) for n in (1, 2))
    zombie.saves(20, "zombie")
    zombie.ends()
    heir.saves(20, "heir")
    heir.ends()
    late = Worker(objects, claim(1, claimed), tmp_path / "late")
    late.saves(20, "late zombie")
    late.ends()
    late.holds = False
    fenced = Worker(objects, claim(1, claimed), tmp_path / "fenced")
    fenced.holds = False
    fenced.saves(40, "fenced")
    fenced.ends()
    assert staged(objects, claim(3, claimed), tmp_path / "three") == {"000000020": "heir"}


def test_all_of_a_step_go_when_it_has_finished(objects: ObjectStore, claimed: Claim, tmp_path: Path) -> None:
    for attempt in (1, 2):
        worker = Worker(objects, claim(attempt, claimed), tmp_path / str(attempt))
        worker.saves(10 * attempt, "it")
        worker.ends()
    delete_checkpoints(objects, claim(2, claimed), STEP)
    assert staged(objects, claim(3, claimed), tmp_path / "three") == {}


class SlowObjects(LocalObjects):
    """A store that takes its time: it waits until the test says so."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.go_on = threading.Event()
        self.asked: list[str] = []

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        self.asked.append(key)
        self.go_on.wait(30)
        with super().create(key) as file:
            yield file


def test_taking_one_never_waits_for_the_store_and_those_in_between_are_left_out(claimed: Claim, tmp_path: Path) -> None:
    objects = SlowObjects(tmp_path / "objects")
    worker = Worker(objects, claimed, tmp_path / "one")
    worker.saves(10, "it")
    wait_for(lambda: objects.asked)
    for step in (20, 30, 40):  # returns, though nothing can be stored
        worker.saves(step, "it")
    assert sorted(path.name for path in (worker.folder / "uploads").iterdir()) == ["000000010", "000000040"]
    objects.go_on.set()
    worker.ends()
    assert staged(objects, claim(2, claimed), tmp_path / "two") == {"000000010": "it", "000000040": "it"}


def test_what_is_not_wanted_is_given_up(claimed: Claim, tmp_path: Path) -> None:
    objects = SlowObjects(tmp_path / "objects")
    worker = Worker(objects, claimed, tmp_path / "one")
    worker.saves(10, "it")
    wait_for(lambda: objects.asked)
    closing = threading.Thread(target=worker.uploads.close, args=(30,), kwargs={"wanted": False})
    closing.start()
    objects.go_on.set()
    closing.join(60)
    assert not closing.is_alive()
    assert len(objects.asked) == 1
    assert staged(objects, claim(2, claimed), tmp_path / "two") == {}


def test_one_that_the_child_has_deleted_meanwhile_is_left_out(claimed: Claim, tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "objects")
    worker = Worker(objects, claimed, tmp_path / "one")
    worker.uploads.take(CheckpointEvent(name="000000010"))
    worker.saves(20, "it")
    worker.ends()
    assert staged(objects, claim(2, claimed), tmp_path / "two") == {"000000020": "it"}
