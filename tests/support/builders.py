"""Rows for tests to stand on: each function adds one to an open session and flushes."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.contract.results import Summary
from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit
from service.lifecycle.job_rows import Priority
from service.roles import Role
from service.store.ids import new_id
from service.store.tables import Audit, Dataset, Membership, Model, Probe, Upload, User
from tests.support.summaries import make_probe_summary, make_summary


def add_dataset(
    session: Session,
    workspace_id: str,
    *,
    rows: int = 40,
    columns: tuple[str, ...] = ("source",),
    values: tuple[Any, ...] = (True, False),
) -> str:
    """A dataset's row without its objects; each column has these values."""
    listed = [{"value": value, "rows": 3} for value in values]
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
        statistics={
            "columns": [{"name": n, "rows": rows, "distinct": len(listed), "values": listed[:20]} for n in columns]
        },
    )
    session.add(dataset)
    session.flush()
    return dataset.id


def add_person(session: Session, workspace_id: str, role: Role, *, name: str = "Ada") -> str:
    """A person whom an admin has given a role."""
    user = User(id=new_id("usr"), issuer="https://i.example", subject=new_id("sub"), name=name)
    session.add(user)
    session.flush()
    member = {"workspace_id": workspace_id, "user_id": user.id, "role": role, "given_by": "admin"}
    session.add(Membership(id=new_id("mbr"), **member))
    session.flush()
    return user.id


def add_upload(session: Session, workspace_id: str) -> str:
    """An upload of which nothing has come."""
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    upload = Upload(id=new_id("up"), workspace_id=workspace_id, sent_metadata="", bytes=10, expires_at=expires_at)
    session.add(upload)
    session.flush()
    return upload.id


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


def add_audit(
    session: Session, workspace_id: str, *, probes: int = 1, seeds: int = 1, priority: Priority = "normal"
) -> Audit:
    """A queued audit on rows of its own."""
    return create_audit(
        session,
        workspace_id=workspace_id,
        dataset_id=add_dataset(session, workspace_id),
        probe_ids=[add_probe(session, workspace_id) for _ in range(probes)],
        model_id=add_model(session, workspace_id),
        training=TrainingConfig(seed=7),
        seeds=seeds,
        q=0.05,
        priority=priority,
    )


def summary_of(*, rows: int = 40, flagged: int = 3, probes: int = 1) -> Summary:
    """A plausible answer."""
    each = make_probe_summary(flagged=flagged)
    return make_summary(rows=rows, rows_scored=rows, flagged=flagged, probes=(each,) * probes)
