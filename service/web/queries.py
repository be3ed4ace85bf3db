"""What pages read beside the resources' own queries: names for ids, the loss curve.

A function that takes an audit expects one that the caller has found through its workspace.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from sqlalchemy import Integer, select
from sqlalchemy.orm import Session, defer

from service.audits.queries import AuditRow, select_audits
from service.audits.results.queries import metric_points, metrics_of
from service.contract.spec import COMBINE
from service.principal import Principal
from service.scoping import scoped
from service.store.newest_first import newest_first
from service.store.tables import ApiKey, Audit, AuditEvent, AuditStep, Dataset, Model, Probe, User
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


def audits_of(session: Session, principal: Principal, dataset: Dataset, limit: int) -> Sequence[AuditRow]:
    """Read the newest audits of a dataset that the caller has found through its workspace; at most `limit`."""
    query = select_audits(principal).where(Audit.dataset_id == dataset.id).options(defer(Audit.summary, raiseload=True))
    return session.execute(newest_first(query, Audit.id, after=None, limit=limit)).all()


def recent_events(session: Session, audit: Audit) -> Sequence[AuditEvent]:
    """The last events that tell a person something, oldest first: metrics are in the curve."""
    query = (
        select(AuditEvent)
        .where(AuditEvent.audit_id == audit.id, AuditEvent.type != "metric")
        .order_by(AuditEvent.seq.desc())
        .limit(EVENTS_SHOWN)
    )
    return session.scalars(query).all()[::-1]


def curve_seed(session: Session, audit: Audit, live: bool) -> int | None:
    """The seed whose losses a page shows: the one that trains now or last did, and once all is done the first."""
    query = (
        select(AuditStep.step_key)
        .where(AuditStep.audit_id == audit.id, AuditStep.step_key != COMBINE, AuditStep.attempt.is_not(None))
        .order_by(AuditStep.step_no.desc() if live else AuditStep.step_no)
        .limit(1)
    )
    key = session.scalar(query)
    return None if key is None else int(key.partition(":")[2])


def last_metric_step(session: Session, audit: Audit, seed: int) -> int | None:
    """The last optimiser step of that seed's run whose loss is known."""
    query = (
        select(AuditEvent.data["step"].astext.cast(Integer))
        .where(*metrics_of(audit, seed))
        .order_by(AuditEvent.seq.desc())
        .limit(1)
    )
    return session.scalar(query)


def loss_points(session: Session, audit: Audit, seed: int, until: int) -> list[LossPoint]:
    """The losses of that seed's run up to and with step `until`."""
    points = metric_points(session, audit, seed, until)
    return [LossPoint(point.step, point.loss, point.probe_loss) for point in points]


class Done(Protocol):
    """Something that was done with a key or by a person."""

    @property
    def key_id(self) -> str | None:
        """None for a person, and where nobody knows."""
        ...

    @property
    def user_id(self) -> str | None:
        """None for a key."""
        ...


def actor_names(session: Session, principal: Principal, done: Iterable[Done]) -> dict[str, str]:
    """Names of the keys and people who did it, by id; who is deleted has none."""
    ids = {one.user_id or one.key_id for one in done}
    keys = scoped(ApiKey, principal).where(ApiKey.id.in_(ids)).with_only_columns(ApiKey.id, ApiKey.name)
    people = select(User.id, User.shown_name.label("name")).where(User.id.in_(ids))
    return {found.id: found.name for found in session.execute(keys.union_all(people))}
