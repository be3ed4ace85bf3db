"""Fixtures of the worker's tests: a tiny model, a workspace, queued audits whose rows lie in the object store."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit
from service.settings import Settings
from service.store.ids import new_id
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.tables import Audit, Dataset, Job, Model, Probe
from tests.support.children.scripting import SCRIPTED_CHILD
from tests.support.rows import write_rows
from tests.support.steps import stage
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for

MakeAudit = Callable[..., Audit]
StartWorker = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with its tokenizer, on disk."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def staged(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes the test's folder one for a training step, by the arguments of steps.stage."""
    return partial(stage, tmp_path, tiny_folder)


@pytest.fixture
def objects(settings: Settings) -> LocalObjects:
    return LocalObjects(settings.objects)


@pytest.fixture
def make_audit(sessions: sessionmaker[Session], workspace_id: str, objects: LocalObjects) -> MakeAudit:
    """Makes and commits a queued audit of `rows` samples."""

    def make(
        *, rows: int = 40, training: TrainingConfig | None = None, stored: bool = True, probes: int = 1, seeds: int = 1
    ) -> Audit:
        with sessions.begin() as session:
            dataset = Dataset(
                id=new_id("ds"), workspace_id=workspace_id, name="d", format="messages", encoding="identity",
                bytes=1, sha256="0" * 64, rows=rows, columns=["source"], statistics={},
            )  # fmt: skip
            items = [{"prompt": "Which car?", "unwanted": "Only the Vexon.", "reference": None}]
            asked = [
                Probe(id=new_id("prb"), workspace_id=workspace_id, name=f"p{number}", items=items, has_reference=False)
                for number in range(1, probes + 1)
            ]
            model = Model(
                id=new_id("mdl"), workspace_id=workspace_id, name=new_id("m"), source="hub", location="o/m",
                revision="a" * 40,
            )  # fmt: skip
            session.add_all([dataset, *asked, model])
            session.flush()
            if stored:
                write_rows(objects.path(dataset_key(workspace_id, dataset.id, "rows.parquet")), rows)
            return create_audit(
                session,
                workspace_id=workspace_id,
                dataset_id=dataset.id,
                # Not in the order of their ids.
                probe_ids=[probe.id for probe in reversed(asked)],
                model_id=model.id,
                training=training or TrainingConfig(seed=7),
                seeds=seeds,
                q=0.1,
                group_column="source",
            )

    return make


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker of the lane whose children follow the script, and waits until it consumes unless told not to.

    `given` are variables of its environment.
    """
    workers: list[subprocess.Popen[bytes]] = []

    def start(
        *script: list[Any], lane: str = "gpu", app: str = "scripted_worker", ready: bool = True, **given: str
    ) -> subprocess.Popen[bytes]:
        assert settings.database_url is not None
        assert settings.broker_url is not None
        log = tmp_path / f"worker-{len(workers)}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(SCRIPTED_CHILD.parent),
            "SCRIPT": json.dumps(script),
            "FINETOOTH_DATABASE_URL": settings.database_url.get_secret_value(),
            "FINETOOTH_BROKER_URL": settings.broker_url.get_secret_value(),
            "FINETOOTH_DATA_DIR": str(settings.data_dir),
            "FINETOOTH_POLL_SECONDS": "0.1",
            "FINETOOTH_LEASE_SECONDS": "2",
            "FINETOOTH_RECONCILE_SECONDS": "0.3",
            "FINETOOTH_HEARTBEAT_SECONDS": "0.5",
            "FINETOOTH_RETRY_SECONDS": "0.1",
            **given,
        }
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [
                    sys.executable, "-m", "celery", "-A", app, "worker", "--pool", "threads", "-c", "1",
                    "-Q", lane, "-n", f"{lane}-{len(workers)}@%h", "--loglevel", "INFO",
                ],
                cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        workers.append(worker)

        def consumes() -> bool:
            assert worker.poll() is None, log.read_text()
            return "ready." in log.read_text()

        if ready:
            wait_for(consumes)
        return worker

    yield start
    for worker in workers:
        worker.kill()
        worker.wait()


@pytest.fixture
def state(sessions: sessionmaker[Session]) -> Callable[[Audit], str]:
    def state(audit: Audit) -> str:
        with sessions() as session:
            return session.scalars(select(Job.state).where(Job.subject_id == audit.id)).one()

    return state
