"""Fixtures of the worker's tests: a tiny model, a workspace, queued audits whose rows lie in the object store."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit
from service.settings import Settings
from service.store.ids import new_id
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.tables import Audit, Dataset, Model, Probe
from tests.support.rows import write_rows
from tests.support.steps import stage
from tests.support.tiny_model import build_tiny_model

MakeAudit = Callable[..., Audit]


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
