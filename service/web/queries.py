"""What pages read beside the resources' own queries: names for ids, the loss curve, a finding's neighbours.

A function that takes an audit expects one that the caller has found through its workspace.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Integer, func, select
from sqlalchemy.orm import Session

from service.http.auth import Principal
from service.http.scoping import scoped
from service.store.tables import Audit, AuditEvent, Dataset, Model, Probe, Score
from service.web.charts import LossPoint

EVENTS_SHOWN = 100


def names(session: Session, principal: Principal, ids: Iterable[str]) -> dict[str, str]:
    """Names of datasets, probes and models by id."""
    wanted = set(ids)
    found: dict[str, str] = {}
    for table in (Dataset, Probe, Model):
        query = scoped(table, principal).where(table.id.in_(wanted)).with_only_columns(table.id, table.name)
        found.update((row.id, row.name) for row in session.execute(query))
    return found


def flagged_counts(session: Session, principal: Principal, audit_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(flagged, scored) samples of those audits that have a result; their summaries stay in the database."""
    counts = (Audit.summary["flagged"].astext.cast(Integer), Audit.summary["rows_scored"].astext.cast(Integer))
    query = scoped(Audit, principal).where(Audit.id.in_(audit_ids), Audit.summary.is_not(None))
    rows = session.execute(query.with_only_columns(Audit.id, *counts))
    return {identity: (flagged, scored) for identity, flagged, scored in rows}


def recent_events(session: Session, audit: Audit) -> Sequence[AuditEvent]:
    """The last events that tell a person something, oldest first: metrics are in the curve."""
    query = (
        select(AuditEvent)
        .where(AuditEvent.audit_id == audit.id, AuditEvent.type != "metric")
        .order_by(AuditEvent.seq.desc())
        .limit(EVENTS_SHOWN)
    )
    return session.scalars(query).all()[::-1]


def last_metric_step(session: Session, audit: Audit, attempt: int) -> int | None:
    """The last optimiser step whose loss is known in that attempt."""
    query = (
        select(AuditEvent.data["step"].astext.cast(Integer))
        .where(AuditEvent.audit_id == audit.id, AuditEvent.attempt == attempt, AuditEvent.type == "metric")
        .order_by(AuditEvent.seq.desc())
        .limit(1)
    )
    return session.scalar(query)


def loss_points(session: Session, audit: Audit, attempt: int, until: int) -> list[LossPoint]:
    """The attempt's losses up to and with step `until`."""
    query = (
        select(AuditEvent.data)
        .where(
            AuditEvent.audit_id == audit.id,
            AuditEvent.attempt == attempt,
            AuditEvent.type == "metric",
            AuditEvent.data["step"].astext.cast(Integer) <= until,
        )
        .order_by(AuditEvent.seq)
    )
    return [LossPoint(data["step"], data["loss"], data.get("probe_loss")) for data in session.scalars(query) if data]


def neighbours(session: Session, audit: Audit, rank: int) -> tuple[int | None, int | None]:
    """Rows of the next more and the next less suspicious sample in the published result."""
    query = select(Score.rank, Score.row).where(
        Score.audit_id == audit.id,
        Score.attempt == audit.published_attempt,
        Score.probe_no == 0,
        Score.rank.in_((rank - 1, rank + 1)),
    )
    rows = {row.rank: row.row for row in session.execute(query)}
    return rows.get(rank - 1), rows.get(rank + 1)


def current_attempt(session: Session, audit: Audit) -> int:
    """The published attempt, else the last one that reported anything."""
    if audit.published_attempt is not None:
        return audit.published_attempt
    return session.scalar(select(func.max(AuditEvent.attempt)).where(AuditEvent.audit_id == audit.id)) or 0
