"""What pages read beside the resources' own queries: names for ids, and the loss curve.

A function that takes an audit expects one that the caller has found through its workspace.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Integer, select
from sqlalchemy.orm import Session, defer

from service.audits.queries import AuditRow, select_audits
from service.audits.results.queries import metric_points, metrics_of
from service.contract.spec import COMBINE
from service.http.sub_path import address
from service.principal import Principal
from service.scoping import scoped
from service.store.newest_first import newest_first
from service.store.tables import ApiKey, Audit, AuditEvent, AuditStep, Dataset, Export, Model, Probe, User
from service.web.charts import LossPoint

EVENTS_SHOWN = 100
"""The newest events that an audit's page lists."""

PACE_METRICS = 10
"""How many of the last metrics the samples per second are computed from."""


def names(session: Session, principal: Principal, ids: Iterable[str]) -> dict[str, str]:
    """Read the names of datasets, probes and models.

    Args:
        session: An open transaction.
        principal: Who is asking.
        ids: Their ids.

    Returns:
        The names by id.
    """
    wanted = set(ids)
    found: dict[str, str] = {}
    for table in (Dataset, Probe, Model):
        query = scoped(table, principal).where(table.id.in_(wanted)).with_only_columns(table.id, table.name)
        found.update((row.id, row.name) for row in session.execute(query))
    return found


def flagged_counts(session: Session, principal: Principal, audit_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Count the flagged samples of audits that have a result; their summaries stay in the database.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_ids: The audits.

    Returns:
        (flagged, scored) samples by audit.
    """
    counts = (Audit.summary["flagged"].astext.cast(Integer), Audit.summary["rows_scored"].astext.cast(Integer))
    query = scoped(Audit, principal).where(Audit.id.in_(audit_ids), Audit.summary.is_not(None))
    rows = session.execute(query.with_only_columns(Audit.id, *counts))
    return {identity: (flagged, scored) for identity, flagged, scored in rows}


def audits_of(session: Session, principal: Principal, dataset: Dataset, limit: int) -> Sequence[AuditRow]:
    """Read the newest audits of a dataset.

    Args:
        session: An open transaction.
        principal: Who is asking.
        dataset: The dataset, which the caller has found through its workspace.
        limit: The most that are read.
    """
    query = select_audits(principal).where(Audit.dataset_id == dataset.id).options(defer(Audit.summary, raiseload=True))
    return session.execute(newest_first(query, Audit.id, after=None, limit=limit)).all()


def recent_events(session: Session, audit: Audit) -> Sequence[AuditEvent]:
    """Read the last events of interest to a person, oldest first; metrics, which the curve shows, are left out.

    Args:
        session: An open transaction.
        audit: The audit.
    """
    query = (
        select(AuditEvent)
        .where(AuditEvent.audit_id == audit.id, AuditEvent.type != "metric")
        .order_by(AuditEvent.seq.desc())
        .limit(EVENTS_SHOWN)
    )
    return session.scalars(query).all()[::-1]


def curve_seed(session: Session, audit: Audit, live: bool) -> int | None:
    """Find the seed whose losses a page shows.

    Args:
        session: An open transaction.
        audit: The audit.
        live: Whether the audit still runs: then it is the seed that trains now or did last, else the first.

    Returns:
        The seed; None before the first run has begun.
    """
    query = (
        select(AuditStep.step_key)
        .where(AuditStep.audit_id == audit.id, AuditStep.step_key != COMBINE, AuditStep.attempt.is_not(None))
        .order_by(AuditStep.step_no.desc() if live else AuditStep.step_no)
        .limit(1)
    )
    key = session.scalar(query)
    return None if key is None else int(key.partition(":")[2])


def last_metric_step(session: Session, audit: Audit, seed: int) -> int | None:
    """Find the last optimiser step of a seed's run whose loss is known; None if none is.

    Args:
        session: An open transaction.
        audit: The audit.
        seed: The seed of the run.
    """
    query = (
        select(AuditEvent.data["step"].astext.cast(Integer))
        .where(*metrics_of(audit, seed))
        .order_by(AuditEvent.seq.desc())
        .limit(1)
    )
    return session.scalar(query)


@dataclass(frozen=True)
class Pace:
    """How training goes at the moment; None where nothing has been measured yet."""

    loss: float | None = None
    probe_loss: float | None = None
    """The last probe loss that was measured."""
    samples_per_second: float | None = None


def training_pace(session: Session, audit: Audit, seed: int) -> Pace:
    """Read the newest losses of a seed's run, and how many samples a second its last steps took.

    Args:
        session: An open transaction.
        audit: The audit.
        seed: The seed of the run.
    """
    newest = (
        select(AuditEvent.created_at, AuditEvent.data)
        .where(*metrics_of(audit, seed))
        .order_by(AuditEvent.seq.desc())
        .limit(PACE_METRICS)
    )
    found = session.execute(newest).all()
    if not found:
        return Pace()
    measured = [(at, data) for at, data in found if data is not None]
    (last_at, last), (first_at, first) = measured[0], measured[-1]
    seconds, steps = (last_at - first_at).total_seconds(), last["step"] - first["step"]
    per_second = steps * audit.training["batch_size"] / seconds if steps > 0 and seconds > 0 else None
    probe_losses = [data["probe_loss"] for _, data in measured if data.get("probe_loss") is not None]
    return Pace(last["loss"], probe_losses[0] if probe_losses else None, per_second)


def subjects(session: Session, principal: Principal, ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Read where audits, exports and datasets are shown.

    Args:
        session: An open transaction.
        principal: Who is asking.
        ids: Their ids.

    Returns:
        The address and the name of the dataset, by id.
    """
    wanted = set(ids)
    name = scoped(Dataset, principal).with_only_columns(Dataset.name)
    audits = scoped(Audit, principal).with_only_columns(
        Audit.id, name.where(Dataset.id == Audit.dataset_id).scalar_subquery()
    )
    exports = scoped(Export, principal).with_only_columns(
        Export.id,
        Export.audit_id,
        name.where(Dataset.id == Audit.dataset_id, Audit.id == Export.audit_id).correlate(Export).scalar_subquery(),
    )
    datasets = scoped(Dataset, principal).with_only_columns(Dataset.id, Dataset.name)
    found = {id: (address(f"/audits/{id}"), name) for id, name in session.execute(audits.where(Audit.id.in_(wanted)))}
    for id, audit_id, dataset_name in session.execute(exports.where(Export.id.in_(wanted))):
        found[id] = (address(f"/audits/{audit_id}/exports"), dataset_name)
    for id, dataset_name in session.execute(datasets.where(Dataset.id.in_(wanted))):
        found[id] = (address(f"/datasets/{id}"), dataset_name)
    return found


def loss_points(session: Session, audit: Audit, seed: int, until: int) -> list[LossPoint]:
    """Read the losses of a seed's run.

    Args:
        session: An open transaction.
        audit: The audit.
        seed: The seed of the run.
        until: The last optimiser step that is read.
    """
    points = metric_points(session, audit, seed, until)
    return [LossPoint(point.step, point.loss, point.probe_loss) for point in points]


def actor_names(session: Session, principal: Principal, ids: Iterable[str | None]) -> dict[str, str]:
    """Read the names of keys and people.

    Args:
        session: An open transaction.
        principal: Who is asking.
        ids: Their ids; None is skipped.

    Returns:
        The names by id; those that were deleted are missing.
    """
    wanted = {one for one in ids if one}
    if not wanted:
        return {}
    keys = scoped(ApiKey, principal).where(ApiKey.id.in_(wanted)).with_only_columns(ApiKey.id, ApiKey.name)
    people = select(User.id, User.shown_name.label("name")).where(User.id.in_(wanted))
    return {found.id: found.name for found in session.execute(keys.union_all(people))}
