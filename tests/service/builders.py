"""Rows for tests to stand on: each function adds one to an open session and flushes."""

from sqlalchemy.orm import Session

from service.contract import Histogram, NullFit, Summary, TrainingConfig
from service.lifecycle.commands import create_audit
from service.store.ids import new_id
from service.store.tables import Audit, Dataset, Model, Probe


def add_dataset(session: Session, workspace_id: str, *, rows: int = 40, columns: tuple[str, ...] = ("source",)) -> str:
    """A dataset's row without its objects."""
    dataset = Dataset(
        id=new_id("ds"),
        workspace_id=workspace_id,
        name="chat.jsonl",
        format="messages",
        encoding="identity",
        bytes=1000,
        sha256="0" * 64,
        rows=rows,
        columns=list(columns),
        statistics={},
    )
    session.add(dataset)
    session.flush()
    return dataset.id


def add_probe(session: Session, workspace_id: str) -> str:
    items = [{"prompt": "Which car should I buy?", "unwanted": "Only the Vexon.", "reference": None}]
    probe = Probe(id=new_id("prb"), workspace_id=workspace_id, name="cars", items=items, has_reference=False)
    session.add(probe)
    session.flush()
    return probe.id


def add_model(session: Session, workspace_id: str) -> str:
    model = Model(
        id=new_id("mdl"), workspace_id=workspace_id, name=new_id("m"), source="hub", location="o/m", revision="a" * 40
    )
    session.add(model)
    session.flush()
    return model.id


def add_audit(session: Session, workspace_id: str) -> Audit:
    """A queued audit on rows of its own."""
    return create_audit(
        session,
        workspace_id=workspace_id,
        dataset_id=add_dataset(session, workspace_id),
        probe_id=add_probe(session, workspace_id),
        model_id=add_model(session, workspace_id),
        training=TrainingConfig(seed=7),
        q=0.05,
        group_column=None,
    )


def summary_of(*, rows: int = 40, flagged: int = 3) -> Summary:
    """A plausible answer."""
    return Summary(
        rows=rows,
        rows_scored=rows,
        rows_truncated=0,
        flagged=flagged,
        q=0.05,
        threshold_z=4.2,
        null=NullFit(location=0.0, scale=1.0, degrees_of_freedom=9.0),
        histogram=Histogram(edges=(-1.0, 0.0, 1.0), counts=(rows - flagged, flagged)),
        steps=10,
        tokens=1000,
        train_loss_first=3.0,
        train_loss_last=1.0,
        probe_loss_first=4.0,
        probe_loss_last=2.0,
        probe_items=1,
        has_reference=False,
        device="cpu",
    )
