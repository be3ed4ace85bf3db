"""Models from the object store in a worker's cache: whole and checked, fetched once, and given up when it has to be."""

import fcntl
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from sqlalchemy import update

from service.contract.failure import ErrorCode
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from service.contract.stored_models import cached_name
from service.lifecycle.audits import request_cancel
from service.model_import.importing import import_model
from service.store.objects import model_key
from service.store.tables import Audit, Model
from tests.support.children.scripting import FINISHED, OUTPUTS
from tests.support.supervisor_bench import Bench
from tests.support.waiting import wait_for
from worker.training.errors import TrainingError
from worker.training.models import load_model

MakeAudit = Callable[..., Audit]


@pytest.fixture
def make_stored(bench: Bench, make_audit: MakeAudit, tiny_folder: Path) -> Callable[[], tuple[Audit, Model]]:
    """Makes a queued audit of the tiny model, imported into the object store."""
    model: list[Model] = []

    def make() -> tuple[Audit, Model]:
        audit = make_audit()
        if not model:
            model.append(
                import_model(bench.sessions, bench.objects, workspace="default", name="tiny", folder=tiny_folder)
            )
        with bench.sessions.begin() as session:
            session.execute(update(Audit).where(Audit.id == audit.id).values(model_id=model[0].id))
        return audit, model[0]

    return make


def cache_of(bench: Bench) -> Path:
    return bench.settings.cache_dir / "models"


def folder_of(bench: Bench, model: Model) -> Path:
    assert model.revision is not None
    return cache_of(bench) / cached_name(model.revision)


def opened(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of models that are read from the object store from now on."""
    keys: list[str] = []
    real = bench.objects.open

    def note(key: str, *arguments: object, **options: object) -> object:
        if "/models/" in key:
            keys.append(key)
        return real(key, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.objects, "open", note)
    return keys


def test_the_child_finds_the_model_and_the_next_audit_too(
    bench: Bench, make_stored: Callable[[], tuple[Audit, Model]], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, model = make_stored()
    keys = opened(bench, monkeypatch)
    bench.run(OUTPUTS, FINISHED)
    assert bench.job(audit).state == "succeeded"
    folder = folder_of(bench, model)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    for name in names:
        assert (folder / name).read_bytes() == (tiny_folder / name).read_bytes()
    spec = ModelSpec(source=ModelSource.STORED, location=model.location, revision=model.revision)
    loaded, tokenizer = load_model(spec, TrainingConfig(), torch.device("cpu"), cache=cache_of(bench))
    local = ModelSpec(source=ModelSource.LOCAL, location=str(tiny_folder))
    same, _ = load_model(local, TrainingConfig(), torch.device("cpu"), cache=cache_of(bench))
    assert all(torch.equal(one, other) for one, other in zip(loaded.parameters(), same.parameters(), strict=True))
    assert tokenizer("a")["input_ids"]
    fetched = len(keys)
    assert fetched == len(names)
    again, _ = make_stored()
    bench.run(OUTPUTS, FINISHED)
    assert bench.job(again).state == "succeeded"
    assert len(keys) == fetched, "nothing is fetched twice"


def test_a_cache_that_was_emptied_under_the_child_is_told(tmp_path: Path) -> None:
    spec = ModelSpec(source=ModelSource.STORED, location="stored:m", revision="0" * 64)
    with pytest.raises(TrainingError) as caught:
        load_model(spec, TrainingConfig(), torch.device("cpu"), cache=tmp_path)
    assert caught.value.failure.code is ErrorCode.MODEL_NOT_FOUND
    assert "Retry the audit" in caught.value.failure.hint


def test_a_file_that_is_not_the_imported_one_is_never_loaded(
    bench: Bench, make_stored: Callable[[], tuple[Audit, Model]]
) -> None:
    audit, model = make_stored()
    assert model.stored is not None
    file = model.stored["files"][-1]
    path = bench.objects.path(model_key(audit.workspace_id, model.id, file["sha256"]))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    bench.run(OUTPUTS, FINISHED)
    job = bench.job(audit)
    assert (job.state, job.error and job.error["code"]) == ("failed", "model_not_found")
    assert job.error is not None
    assert f"file {file['name']} in the object store is not the one that was imported" in job.error["message"]
    assert [path.name for path in cache_of(bench).iterdir() if path.is_dir()] == []
    path.unlink()
    lost, _ = make_stored()
    bench.run(OUTPUTS, FINISHED)
    job = bench.job(lost)
    assert (job.state, job.error and job.error["code"]) == ("failed", "input_missing")


def test_workers_of_one_machine_fetch_it_once_and_clear_what_a_killed_one_left(
    bench: Bench, make_stored: Callable[[], tuple[Audit, Model]], monkeypatch: pytest.MonkeyPatch
) -> None:
    audits = [make_stored() for _ in range(2)]
    model = audits[0][1]
    left = cache_of(bench) / f"{folder_of(bench, model).name}.part-dead"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{")
    keys = opened(bench, monkeypatch)
    supervisors = [bench.supervisor(OUTPUTS, FINISHED, owner=f"w{number}") for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda supervisor: supervisor.run_due("gpu"), supervisors))
    assert [bench.job(audit).state for audit, _ in audits] == ["succeeded"] * 2
    assert model.stored is not None
    assert len(keys) == len(model.stored["files"])
    assert [path for path in cache_of(bench).iterdir() if path.is_dir()] == [folder_of(bench, model)]


@pytest.mark.parametrize("why", ["cancel", "shutdown"])
def test_who_has_to_stop_stops_before_the_model_is_there(
    bench: Bench, make_stored: Callable[[], tuple[Audit, Model]], why: str
) -> None:
    """Another worker fetches the model all the while."""
    audit, model = make_stored()
    cache_of(bench).mkdir(parents=True)
    lock = os.open(f"{folder_of(bench, model)}.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    running = threading.Thread(target=bench.run, args=(OUTPUTS, FINISHED))
    running.start()
    wait_for(lambda: bench.audit(audit).stage == "loading")
    if why == "cancel":
        with bench.sessions.begin() as session:
            request_cancel(session, workspace_id=audit.workspace_id, audit_id=audit.id)
    else:
        bench.stopping.set()
    running.join(30)
    assert bench.job(audit).state == ("cancelled" if why == "cancel" else "queued")
    assert not folder_of(bench, model).exists()
    os.close(lock)
